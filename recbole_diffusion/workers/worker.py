"""What each worker does: join the group, go on from the last checkpoint if there is one, train, test.

It is an ordinary run (session.py) whose first worker writes the folder. When a worker is lost, Ray Train starts all of
them again, and the run goes on from its last epoch, as one does that was cut and resumed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion import compat
from recbole_diffusion.errors import UserError
from recbole_diffusion.workers.exchange import Ended, Exchange, Terminal

logger = logging.getLogger(__name__)

_WORDS_OF_LOST_PEERS = ("gloo", "nccl", "connection", "peer", "timed out", "timeout")


@dataclass(frozen=True)
class Job:
    """What travels to a worker; every path is absolute.

    Attributes:
        model, dataset: as for `RunConfig`.
        config: every other key.
        written_config: what the run's config.yaml says: the same, as the user gave it.
        folder: the run's folder.
        exchange: see `exchange.py`.
        resume: whether an earlier run is continued.
        threads: CPU threads of a worker.
        use_gpu: whether each worker has a GPU of its own.
        is_terminal: whether a person watches.
        directory, search_path, arguments: the starting process's working directory, module path and command line.
    """

    model: str
    dataset: str
    config: dict[str, Any]
    written_config: dict[str, Any]
    folder: str
    exchange: str
    resume: bool
    threads: int
    use_gpu: bool
    is_terminal: bool
    directory: str
    search_path: list[str]
    arguments: list[str]


def train_worker(settings: dict[str, Any]) -> None:
    """One worker of a run; Ray Train calls it in every worker's process.

    Args:
        settings: a `Job` as a dictionary.
    """
    import ray.train

    job = Job(**settings)
    rank = ray.train.get_context().get_world_rank()
    exchange = Exchange(Path(job.exchange))
    if exchange.stopped or exchange.ended() is not None:
        return
    exchange.watch()
    try:
        _settle(job)
        _run(job, exchange, rank)
    except UserError as error:
        from recbole_diffusion.training.losses import TrainingDiverged

        exchange.end(rank, Ended("diverged" if isinstance(error, TrainingDiverged) else "refused", str(error)))
    except Exception as error:
        if not _lost_a_peer(error):  # a bug: another attempt would end in the same way
            exchange.end(rank, Ended("raised", traceback.format_exc()))
        raise


def _settle(job: Job) -> None:
    """Make this process see what the starting process sees."""
    sys.path[:0] = [path for path in job.search_path if path not in sys.path]
    sys.argv = list(job.arguments)
    if Path(job.directory).is_dir():
        os.chdir(job.directory)
    compat.apply_patches()


def _lost_a_peer(error: Exception) -> bool:
    """Whether the exception may come of another worker's end: collective operations raise RuntimeErrors."""
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _WORDS_OF_LOST_PEERS)


@contextlib.contextmanager
def _without_rays_handlers() -> Iterator[None]:
    """What this process logs goes to the run's log and terminal alone."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    for handler in handlers:
        root.removeHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.addHandler(handler)


def _is_the_runs(record: logging.LogRecord) -> bool:
    """Whether a message belongs into a run's log: Ray's own do from warnings on (not all its loggers are named so)."""
    import ray

    return record.levelno >= logging.WARNING or not record.pathname.startswith(str(Path(ray.__file__).parent))


def _run(job: Job, exchange: Exchange, rank: int) -> None:
    import ray.train
    import ray.train.torch
    import torch

    from recbole_diffusion.config import Overrides, RunConfig
    from recbole_diffusion.session import TrainingSession
    from recbole_diffusion.training.run_folder import RunFolder, RunLog
    from recbole_diffusion.training.worker_group import WorkerGroup

    torch.set_num_threads(job.threads)
    gpu = {"use_gpu": job.use_gpu, "gpu_id": "0"}
    config = RunConfig(job.model, job.dataset, (), Overrides({**job.config, **gpu}))
    if job.use_gpu:
        config["device"] = ray.train.torch.get_device()
    folder = RunFolder(Path(job.folder), writes=rank == 0)
    with contextlib.ExitStack() as stack:
        if rank == 0:
            terminal = stack.enter_context(Terminal(exchange.terminal, is_terminal=job.is_terminal))
            stack.enter_context(contextlib.redirect_stderr(terminal))
            stack.enter_context(_without_rays_handlers())
            shown = bool(config["show_progress"])
            log = stack.enter_context(RunLog(folder.log, config["state"] or "INFO", terminal=shown))
            for handler in log.handlers:
                handler.addFilter(_is_the_runs)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        lost = exchange.start() if rank == 0 else False
        workers = WorkerGroup.joined()
        if lost:
            logger.warning("a worker was lost; all %d start again", workers.size)
        session = TrainingSession(config, folder, workers)

        def report(epoch: int, score: float) -> None:
            ray.train.report({"epoch": epoch + 1, config["valid_metric"]: score})

        again = job.resume or folder.last.is_file()
        session.train(resume=again, callback_fn=report, written_config=job.written_config)
        session.choose_reverse_steps()
        session.test()
        session.finish()
