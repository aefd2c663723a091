"""One planned run, made in processes of its own: trained or gone on with, then ranked once more for each evaluation."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.config_files import read_yaml
from recbole_diffusion.config_keys import LOGGER_KEYS
from recbole_diffusion.suites.plan import FAILED, PlannedRun, newest_run, note_failure
from recbole_diffusion.training.checkpoint import write_text_atomically
from recbole_diffusion.training.run_folder import RunFolder

LOG = "log.txt"
ASKED = "asked.yaml"
_PATIENCE = 120.0  # seconds that a process gets to end after it was told to


@dataclass(frozen=True)
class Outcome:
    """How a planned run ended.

    Attributes:
        name: which one.
        seconds: that it took this time.
        reason: why it failed, in one line; None where it did not.
        interrupted: whether it was told to stop.
    """

    name: str
    seconds: float
    reason: str | None = None
    interrupted: bool = False


class Processes:
    """The processes that run now, to be told to stop together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = False

    def call(self, words: Sequence[str], log: Path, *, environment: Mapping[str, str], keep: Sequence[int] = ()) -> int:
        """Run the command line's words in a new process, its output appended to `log`; the exit code.

        Args:
            words: such as ``run --model=...``.
            log: a text file.
            environment: variables besides this process's.
            keep: file descriptors that the process keeps open (a lock).
        """
        command = [sys.executable, "-m", "recbole_diffusion.suites.child", str(os.getpid()), *words]
        with log.open("ab") as stream:
            with self._lock:
                if self.stopped:
                    return -signal.SIGINT
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    pass_fds=tuple(keep) if os.name == "posix" else (),
                    start_new_session=True,  # Ctrl-C comes from `stop`, once
                )
                self._running.add(process)
            try:
                return _code(process)
            except KeyboardInterrupt:  # only where the main thread waits
                process.send_signal(signal.SIGINT)
                process.wait(_PATIENCE)
                raise
            finally:
                with self._lock:
                    self._running.discard(process)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Tell all of them to stop, and start no more."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.send_signal(number)


def _code(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process, waited for in steps: Ray's KeyboardInterrupt ends no call of the system."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(60.0)


def logger_keys(run: PlannedRun, place: Mapping[str, Any]) -> dict[str, Any]:
    """How a run is logged beside its files; its name there says which one it is."""
    keys = {key: value for key, value in {**run.keys, **place}.items() if key in LOGGER_KEYS}
    if keys.get("loggers") or keys.get("log_wandb"):
        keys["run_name"] = " ".join(filter(None, [keys.get("run_name"), run.name]))
    return keys


def perform(
    run: PlannedRun,
    place: Mapping[str, Any],
    processes: Processes,
    *,
    keep: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Make what is missing of a planned run.

    Args:
        run: the planned run.
        place: keys that say where and how it runs (`data_path`, `num_threads` ...).
        processes: where its processes are known.
        keep: file descriptors that they keep open.
        environment: variables that they get besides this process's.
    """
    began = time.monotonic()
    run.place.mkdir(parents=True, exist_ok=True)
    log = run.place / LOG
    threads = place.get("num_threads")
    environment = {**(environment or {})}
    if threads:
        environment.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
    logged = logger_keys(run, place)
    # an evaluation does not take its run's device over
    device: dict[str, Any] = {key: run.keys[key] for key in ("use_gpu", "gpu_id") if key in run.keys}
    place = {**device, **{key: value for key, value in place.items() if key not in LOGGER_KEYS}}
    (run.place / FAILED).unlink(missing_ok=True)
    folder = run.run_folder or _gone_on_from(run)
    if folder is None or not (run.place / ASKED).is_file():
        write_text_atomically(run.place / ASKED, asked_text(run, {**place, **logged}))
    if folder is None:
        words = ["run", f"--config_files='{run.place / ASKED}'", f"--output={run.place}"]
    else:
        words = ["run", f"--resume={folder}"]
        words += [f"--{key}={as_word(value)}" for key, value in {**place, **logged}.items()]
    code = 0
    if folder is None or not (folder / "result.json").is_file():
        code = processes.call(words, log, environment=environment, keep=keep)
    folder = run.run_folder
    if code == 0 and folder is not None:
        for name in run.missing_evaluations():
            words = ["evaluate", f"--checkpoint={folder}", f"--output={run.evaluation_place(name)}"]
            words += [f"--{key}={as_word(value)}" for key, value in {**run.evaluations[name], **place}.items()]
            code = processes.call(words, log, environment=environment, keep=keep)
            if code:
                break
    seconds = time.monotonic() - began
    if processes.stopped and code:
        return Outcome(run.name, seconds, "interrupted", interrupted=True)
    if not code:
        return Outcome(run.name, seconds)
    why = reason(code, log)
    note_failure(run.place, why)
    return Outcome(run.name, seconds, why)


def asked_text(run: PlannedRun, place: Mapping[str, Any]) -> str:
    """What a person would have given to make a run alone, as a YAML file.

    Args:
        run: the planned run.
        place: keys that say where and how it runs.
    """
    head = {"model": run.model, "dataset": run.dataset, **({"preset": run.preset} if run.preset else {})}
    return f"# {run.name}\n{yaml.safe_dump({**head, **run.keys, **place}, sort_keys=False)}"


def _gone_on_from(run: PlannedRun) -> Path | None:
    """A copy of the shorter run that a run goes on from, as if it had been cut; None where it goes on from none.

    What loggers know of the shorter run stays with that.
    """
    source = newest_run(run.goes_on_from) if run.goes_on_from is not None else None
    if source is None:
        return None
    copy = run.place.with_name(f"{run.place.name}.part")  # beside it: what lies in its folder is taken for a run
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    folder = RunFolder.open(copy)
    for path in (folder.result, folder.loggers, *folder.per_user("test").parent.glob("test.*")):
        path.unlink(missing_ok=True)
    folder.write_config({**read_yaml(folder.config).values, "time_limit": run.keys.get("time_limit")})
    target = run.place / source.name
    copy.rename(target)
    return target


def as_word(value: Any) -> str:
    """A value as the command line takes it."""
    return yaml.safe_dump(value, default_flow_style=True, width=2**20).removesuffix("\n...\n").strip()


def reason(code: int, log: Path) -> str:
    """Why a process failed: the last line of its log, or the signal that ended it."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (", out of memory?" if code == -signal.SIGKILL else "")
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - 4096, 0))
        lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip().removeprefix("error: ") if lines else f"exit code {code}"
