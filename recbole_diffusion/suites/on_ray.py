"""The runs of a suite as tasks of Ray, on one machine or on a cluster whose machines share the folder.

A task makes one run, in processes of its own as `performing` says, on whatever machine has room: folders, files and
results are those of the same suite without Ray. What ends a task ends its processes: Ctrl-C here cancels the tasks, a
driver that is killed takes its tasks with it, and a machine that is lost its own. Their last epochs are kept, and the
same command goes on with them.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import first_line, import_ray, ray_running, search_path
from recbole_diffusion.suites.performing import Outcome, Processes, perform
from recbole_diffusion.suites.plan import PlannedRun, note_failure
from recbole_diffusion.suites.runner import RunQueue, locked, terminated_like_interrupted
from recbole_diffusion.tuning.placement import check_resources, module_places

LOCAL = "local"  # the address of a Ray that is started for the suite
ENVIRONMENT = {"RAY_worker_niceness": "0"}  # runs are as important as without Ray
_OBJECT_STORE_BYTES = 200 * 2**20  # nothing large travels through it
_PATIENCE = 120.0  # seconds that tasks get to end after they were cancelled


@dataclass(frozen=True)
class Cluster:
    """Where the runs of a suite run.

    Attributes:
        address: of a cluster (``auto``, ``host:port``); ``local`` starts Ray on this machine.
        cpus_per_run: CPU cores, and threads of torch, of a run.
        gpus_per_run: GPUs of a run, a fraction shares one; None for one where Ray has any.
    """

    address: str
    cpus_per_run: int = 1
    gpus_per_run: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.cpus_per_run, bool) or not isinstance(self.cpus_per_run, int) or self.cpus_per_run < 1:
            raise UserError(f"cpus_per_run must be a whole number from 1, got {self.cpus_per_run!r}")
        gpus = self.gpus_per_run
        number = isinstance(gpus, (int, float)) and not isinstance(gpus, bool)
        if gpus is not None and (not number or gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise UserError(f"gpus_per_run must be 0, a share of a GPU such as 0.5, or a whole number, got {gpus!r}")

    @property
    def joined(self) -> str | None:
        """The address that Ray is joined at; None to start it."""
        return None if self.address == LOCAL else self.address


@dataclass(frozen=True)
class _Place:
    """What every task is told; paths are absolute.

    Attributes:
        keys: that say where and how runs run.
        folder: of the suite.
        directory: the driver's working directory.
        search_path: folders in which a user's own modules may lie.
    """

    keys: dict[str, Any]
    folder: Path
    directory: str
    search_path: tuple[str, ...]


def run_all_on_ray(
    queue: RunQueue, place: Mapping[str, Any], cluster: Cluster, *, folder: Path, at_a_time: int | None
) -> list[Outcome]:
    """Make what is missing of all runs, on Ray.

    Args:
        queue: the runs.
        place: keys that say where and how runs run.
        cluster: where they run.
        folder: of the suite, which every machine sees.
        at_a_time: how many at a time; None for as many as there is room for.

    Returns:
        how the runs ended that were not finished before.

    Raises:
        UserError: Ray does not start or is not there, or no machine has room for a run.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the tasks have ended.
    """
    if not queue:
        return queue.ended
    import_ray("a suite on Ray")
    modules = module_places([run.model for run in queue.waiting if ":" in run.model])
    paths = search_path()
    with ray_running(
        cluster.joined,
        environment=ENVIRONMENT,
        modules=modules,
        search_path=paths,
        object_store_memory=_OBJECT_STORE_BYTES,
    ) as ray:
        gpus = _gpus(ray, cluster, place)
        check_resources(
            ray, cluster.cpus_per_run, gpus, cluster.joined, asker="a run", keys=("cpus_per_run", "gpus_per_run")
        )
        keys = {**place, "num_threads": cluster.cpus_per_run, "use_gpu": gpus > 0}
        keys.pop("gpu_id", None)  # Ray says which
        for key in ("data_path", "cache_dir"):
            if keys.get(key) is not None:
                keys[key] = os.path.abspath(keys[key])
        told = _Place(keys, folder.absolute(), os.getcwd(), paths)
        # max_retries: a run that ends badly is told, and tried again when the user says so
        task = ray.remote(num_cpus=cluster.cpus_per_run, num_gpus=gpus or None, max_retries=0)(_make)
        with terminated_like_interrupted():
            return _all(ray, task, queue, told, at_a_time=at_a_time)


def _gpus(ray: Any, cluster: Cluster, place: Mapping[str, Any]) -> float:
    """GPUs of a run: as asked for, else one where Ray has any and they are to be used."""
    if cluster.gpus_per_run is not None:
        return cluster.gpus_per_run
    return float(bool(ray.cluster_resources().get("GPU", 0)) and bool(place.get("use_gpu", True)))


def _all(ray: Any, task: Any, queue: RunQueue, told: _Place, *, at_a_time: int | None) -> list[Outcome]:
    """Start the tasks and wait for them."""
    began = time.monotonic()
    running: dict[Any, PlannedRun] = {}
    try:
        while queue or running:
            while queue and (at_a_time is None or len(running) < at_a_time):
                run = queue.pop()
                absolute = dataclasses.replace(
                    run,
                    place=run.place.absolute(),
                    goes_on_from=None if run.goes_on_from is None else run.goes_on_from.absolute(),
                )
                running[task.options(name=run.name).remote(absolute, told)] = run
            ready, _ = ray.wait(list(running), timeout=1.0)
            for reference in ready:
                run = running.pop(reference)
                queue.end(run, _outcome(ray, reference, run, began))
    except BaseException:
        for reference in running:
            ray.cancel(reference)
        ray.wait(list(running), num_returns=len(running), timeout=_PATIENCE) if running else None
        raise
    return queue.ended


def _outcome(ray: Any, reference: Any, run: PlannedRun, began: float) -> Outcome:
    """How a task ended, the loss of its machine among it."""
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a mistake of this program
    except ray.exceptions.RayError as error:
        reason = (
            f"its worker was lost ({first_line(error)}); the run goes on from its last epoch when it is tried again"
        )
        note_failure(run.place, reason)
        return Outcome(run.name, time.monotonic() - began, reason)
    return outcome


def _make(run: PlannedRun, told: _Place) -> Outcome:
    """One run, in a worker of Ray; what cannot be is an outcome, too."""
    here = os.uname().nodename if hasattr(os, "uname") else "its machine"
    if not told.folder.is_dir():
        reason = f"{here} does not see {told.folder}; on a cluster --output must be a folder that all machines share"
        return Outcome(run.name, 0.0, reason)
    sys.path.extend(path for path in told.search_path if os.path.isdir(path) and path not in sys.path)
    if os.path.isdir(told.directory):
        os.chdir(told.directory)
    paths = os.pathsep.join(search_path())
    try:
        # kept by the run's processes, so that they are not joined by others while they end
        with locked(run.place) as lock:
            keep = () if lock is None else (lock,)
            return perform(run, told.keys, Processes(), keep=keep, environment={"PYTHONPATH": paths})
    except UserError as error:
        return Outcome(run.name, 0.0, str(error))
