"""A run on several workers: Ray Train starts them, starts them again when one is lost, and they do the rest.

The process that was started shows what the first worker says, turns Ctrl-C into the end of all workers, and returns
the result that the first worker wrote. What is Ray's: placing the workers, their process group (gloo between CPUs, nccl
between GPUs), watching them, restarting them (`worker_restarts`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import cores, import_ray, machines, ray_running
from recbole_diffusion.session import RunResult
from recbole_diffusion.training.losses import TrainingDiverged
from recbole_diffusion.training.run_folder import RunFolder, RunLog
from recbole_diffusion.workers.exchange import Echo, Exchange
from recbole_diffusion.workers.worker import Job, train_worker

logger = logging.getLogger(__name__)

ENVIRONMENT = {"RAY_worker_niceness": "0"}  # workers are the run, and as important as one that needs no Ray
_OBJECT_STORE_BYTES = 200 * 2**20  # nothing large travels through it
_PATIENCE_SECONDS, _SECONDS_TO_END = 30.0, 2.0


def train_with_workers(config: RunConfig, folder: RunFolder, *, resume: bool) -> RunResult:
    """Train, test and write the folder of a run with `num_workers` workers.

    Args:
        config: the run's configuration.
        folder: its folder.
        resume: go on from its last checkpoint.

    Raises:
        UserError: anything a person can correct, workers that were lost too often among it.
        RuntimeError: a worker raised an exception; the message is its traceback.
        KeyboardInterrupt: passed on; `run_folder` is set, and the last complete epoch is kept.
    """
    import_ray("num_workers", "ray.train", "ray.train.torch")
    if str(config.model_reference).startswith("__main__:"):
        raise UserError(
            f"num_workers is {config['num_workers']}, but workers cannot import {config.model_reference} from the "
            "program itself; put the class into a module of its own and give package.module:Class"
        )
    with _ray_of(config) as ray:
        use_gpu = _use_gpu(ray, config)
        threads = threads_that_fit(machines(ray), config["num_workers"], config["num_threads"], use_gpu=use_gpu)
        exchange = Exchange.create(folder.path.absolute())
        try:
            job = _job(config, folder, exchange, resume=resume, threads=threads, use_gpu=use_gpu)
            with Echo(exchange.terminal):
                failure = _fit(_trainer(config, job), exchange, config, folder)
            return _outcome(config, folder, exchange, failure)
        finally:
            exchange.remove()


def _ray_of(config: RunConfig) -> contextlib.AbstractContextManager[Any]:
    """Ray for the run's workers, to be entered. More workers than cores take turns."""
    wanted = config["num_workers"] * (config["num_threads"] or 1)
    return ray_running(
        config["ray_address"],
        environment=ENVIRONMENT,
        num_cpus=max(cores(), wanted),
        object_store_memory=_OBJECT_STORE_BYTES,
    )


def _use_gpu(ray: Any, config: RunConfig) -> bool:
    """Whether each worker gets a GPU.

    Raises:
        UserError: there are GPUs, but not one for each worker.
    """
    there = int(ray.cluster_resources().get("GPU", 0))
    if not config["use_gpu"] or not there:
        return False
    if there < config["num_workers"]:
        raise UserError(
            f"num_workers is {config['num_workers']}, but there are {there} GPUs and every worker takes one; lower "
            "num_workers or set use_gpu: False"
        )
    return True


def threads_that_fit(
    nodes: Sequence[Mapping[str, float]], workers: int, wanted: int | None, *, use_gpu: bool = False
) -> int:
    """CPU threads of each worker, and the cores that Ray keeps for it: as many as there is room for on all machines.

    Args:
        nodes: each machine's resources by Ray's names.
        workers: how many there are to be.
        wanted: `num_threads`; None for as many as fit.
        use_gpu: whether each worker also takes a GPU.

    Raises:
        UserError: there is not so much room.
    """

    def room(threads: int) -> int:
        return sum(
            int(min(node.get("CPU", 0) // threads, node.get("GPU", 0) if use_gpu else workers)) for node in nodes
        )

    cores = int(sum(node.get("CPU", 0) for node in nodes))
    for threads in [wanted] if wanted else range(max(1, cores // workers), 0, -1):
        if room(threads) >= workers:
            return threads
    raise UserError(
        f"num_workers is {workers}"
        + (f" of num_threads {wanted} each" if wanted else "")
        + f", but Ray has {cores} CPU cores on {len(nodes)} machine(s); lower "
        + ("num_workers or num_threads" if wanted else "num_workers or give Ray more")
    )


def _job(config: RunConfig, folder: RunFolder, exchange: Exchange, *, resume: bool, threads: int, use_gpu: bool) -> Job:
    values = config.to_plain()
    for key in ("data_path", "cache_dir"):
        if values.get(key) is not None:
            values[key] = str(Path(values[key]).absolute())
    model, dataset = values.pop("model"), values.pop("dataset")
    return Job(
        model=model,
        dataset=dataset,
        config=values,
        written_config=config.to_plain(),
        folder=str(folder.path.absolute()),
        exchange=str(exchange.path),
        resume=resume,
        threads=threads,
        use_gpu=use_gpu,
        is_terminal=sys.stderr.isatty(),
        directory=str(Path.cwd()),
        search_path=[str(Path(path or ".").absolute()) for path in sys.path],
        arguments=list(sys.argv),
    )


def _trainer(config: RunConfig, job: Job) -> Any:
    """Ray's trainer of the run."""
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    resources: dict[str, float] = {"CPU": job.threads}
    if job.use_gpu:
        resources["GPU"] = 1
    exchange = Path(job.exchange)
    return TorchTrainer(
        train_worker,
        train_loop_config=dataclasses.asdict(job),
        torch_config=TorchConfig(backend="nccl" if job.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config["num_workers"], use_gpu=job.use_gpu, resources_per_worker=resources
        ),
        run_config=RayRunConfig(
            name=exchange.name,
            storage_path=str(exchange),
            failure_config=FailureConfig(max_failures=config["worker_restarts"]),
        ),
    )


def _fit(trainer: Any, exchange: Exchange, config: RunConfig, folder: RunFolder) -> BaseException | None:
    """Let Ray train, in a thread, so that Ctrl-C is this program's; what Ray raised, if it did."""
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name="recbole-diff-ray-train", daemon=True)
    thread.start()
    begun, waiting, ended = time.monotonic(), True, None
    try:
        while thread.is_alive():
            thread.join(0.5)
            now = time.monotonic()
            waiting = waiting and not exchange.started
            if waiting and now - begun > _PATIENCE_SECONDS:
                waiting = False
                logger.warning("waiting for %d workers to start", config["num_workers"])
            if ended is None and exchange.ended() is not None:
                ended = now
            if ended is not None and now - ended > _PATIENCE_SECONDS:
                exchange.stop()  # one worker ended, the others wait for it
    except KeyboardInterrupt as interrupt:
        exchange.stop()
        interrupt.run_folder = folder.path  # type: ignore[attr-defined]  # the command line says how to go on
        thread.join(_SECONDS_TO_END)
        with RunLog(folder.log, config["state"] or "INFO", terminal=bool(config["show_progress"])):
            logger.warning("interrupted; the last complete epoch is kept, go on with --resume=%s", folder.path)
        raise
    return failure[0] if failure else None


def _outcome(config: RunConfig, folder: RunFolder, exchange: Exchange, failure: BaseException | None) -> RunResult:
    """The run's result, or why there is none."""
    ended = exchange.ended()
    if ended is not None:
        if ended.kind == "raised":
            raise RuntimeError(f"a worker raised an exception:\n{ended.message}") from failure
        raise TrainingDiverged(ended.message) if ended.kind == "diverged" else UserError(ended.message)
    if failure is not None:
        last = (str(failure).strip().splitlines() or [type(failure).__name__])[-1]
        raise UserError(
            f"workers were lost {config['worker_restarts'] + 1} times (worker_restarts: {config['worker_restarts']}), "
            f"at last: {last}; go on with --resume={folder.path}"
        ) from failure
    facts = json.loads(folder.result.read_text(encoding="utf-8"))
    values = {one.name: facts[one.name] for one in dataclasses.fields(RunResult)}
    return RunResult(**{**values, "folder": folder.path})
