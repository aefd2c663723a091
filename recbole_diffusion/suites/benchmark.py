"""`benchmark`: a suite from its file to its tables, begun or gone on with; nothing that is finished is made again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.config_keys import LOGGER_KEYS
from recbole_diffusion.errors import UserError
from recbole_diffusion.loggers.choice import check_loggers
from recbole_diffusion.ray_session import cores
from recbole_diffusion.suites import searching
from recbole_diffusion.suites.on_ray import Cluster, run_all_on_ray
from recbole_diffusion.suites.performing import LOG, Outcome, Processes, logger_keys
from recbole_diffusion.suites.plan import PlannedRun, plan_run
from recbole_diffusion.suites.runner import Progress, locked, run_all
from recbole_diffusion.suites.searching import PlannedSearch
from recbole_diffusion.suites.suite import Suite, read_suite
from recbole_diffusion.suites.tables import write_suite_tables
from recbole_diffusion.training.checkpoint import write_text_atomically
from recbole_diffusion.tuning.preparation import prepare_data
from recbole_diffusion.tuning.progress_lines import messages

logger = logging.getLogger(__name__)

SUITE_FILE = "suite.json"


@dataclass(frozen=True)
class SuiteResult:
    """What a suite ends with.

    Attributes:
        suite: the suite.
        folder: where everything lies.
        runs: all planned runs.
        outcomes: how those ended that were made now.
        tables: the files of the tables.
    """

    suite: Suite
    folder: Path
    runs: tuple[PlannedRun, ...]
    outcomes: tuple[Outcome, ...]
    tables: tuple[Path, ...]

    @property
    def missing(self) -> list[PlannedRun]:
        """Runs without a result."""
        return [run for run in self.runs if not run.finished]


def benchmark(
    file: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    data_path: str | Path | None = None,
    output: str | Path = "benchmark_runs",
    max_concurrent: int | None = None,
    threads: int | None = None,
    ray_address: str | None = None,
    cpus_per_run: int | None = None,
    gpus_per_run: float | None = None,
    show_progress: bool = True,
) -> SuiteResult:
    """Run a suite, or what is left of it.

    Args:
        file: the suite.
        config: keys of every run, which win over the suite's.
        data_path: folder of the datasets.
        output: where the suite's folder is made, named as the file.
        max_concurrent: runs at a time; None for one, on Ray for as many as there is room for.
        threads: CPU threads of a run; its share of the cores when None.
        ray_address: of a Ray cluster whose machines all see `output` and `data_path`, or ``local`` to start Ray on this
            machine; None makes the runs without Ray.
        cpus_per_run: on Ray, CPU cores and threads of a run; `threads`, or 1, when None.
        gpus_per_run: on Ray, GPUs of a run; one where there are any when None.
        show_progress: a line on standard error for each run that ends.

    Raises:
        UserError: anything a person can correct, before a run starts, or the searches that failed.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    suite = read_suite(file)
    folder = Path(output) / suite.name
    given = config if isinstance(config, Overrides) else Overrides(config)
    given = Overrides(given, origin=given.origin)  # the caller's own stays as it is
    if data_path is not None:
        given["data_path"] = str(data_path)
    cluster = _cluster(ray_address, cpus_per_run, gpus_per_run, threads)
    kept = ("use_gpu", "gpu_id", "cache", "cache_dir", *LOGGER_KEYS)
    place: dict[str, Any] = {key: given.pop(key) for key in kept if key in given}
    if "data_path" in given:
        place["data_path"] = given["data_path"]
    own = cluster.cpus_per_run if cluster is not None else threads or max(cores() // (max_concurrent or 1), 1)
    place.update(num_threads=own, show_progress=False)
    searches = {
        (model.label, dataset): searching.plan_search(suite, model, dataset, output=folder, given=given)
        for model in suite.models
        if model.search is not None
        for dataset in model.datasets
    }
    # Everything that can be wrong with keys and data is found before anything starts.
    planned = [
        plan_run(suite, model, dataset, seed, output=folder, given=given) for model, dataset, seed in suite.rows()
    ]
    if cluster is not None:
        _refuse_workers(planned)
    _check_loggers(planned, place, given.origin)
    with messages(show_progress), _goes_on(), locked(folder) as lock:
        _prepare_data(planned, place)
        keep = () if lock is None else (lock,)
        chosen = _searched(searches.values(), place, keep, cluster.joined if cluster is not None else None)
        runs = tuple(
            plan_run(
                suite, model, dataset, seed, output=folder, given=given, searched=chosen.get((model.label, dataset))
            )
            for model, dataset, seed in suite.rows()
        )
        _write(folder, suite, runs)
        if cluster is not None:
            outcomes = run_all_on_ray(runs, place, cluster, folder=folder, at_a_time=max_concurrent, tell=_tell)
        else:
            outcomes = run_all(runs, place, at_a_time=max_concurrent or 1, tell=_tell, keep=keep)
    tables = write_suite_tables(suite, folder, runs)
    return SuiteResult(suite, folder, runs, tuple(outcomes), tuple(tables))


def _cluster(address: str | None, cpus: int | None, gpus: float | None, threads: int | None) -> Cluster | None:
    """The Ray that runs run on; None for none.

    Raises:
        UserError: what Ray's runs are to have is given, and no Ray.
    """
    if address is not None:
        return Cluster(address, threads or 1 if cpus is None else cpus, gpus)
    for name, value in (("cpus_per_run", cpus), ("gpus_per_run", gpus)):
        if value is not None:
            raise UserError(f"{name} goes with --ray_address; give that too, or take --threads")
    return None


def _refuse_workers(planned: Iterable[PlannedRun]) -> None:
    """Refuse a run that would start a Ray of its own inside one of Ray's tasks.

    Raises:
        UserError: names it.
    """
    for run in planned:
        if run.keys.get("num_workers", 1) != 1:
            raise UserError(
                f"{run.name} has num_workers {run.keys['num_workers']}, but with --ray_address each run is one task; "
                "leave one of them out"
            )


def _check_loggers(planned: Iterable[PlannedRun], place: Mapping[str, Any], origin: str) -> None:
    """Refuse loggers that could not log.

    Raises:
        UserError: names one.
    """
    seen = set()
    for run in planned:
        keys = {key: value for key, value in logger_keys(run, place).items() if key != "run_name"}
        if keys and str(keys) not in seen and not run.finished:
            seen.add(str(keys))
            given = {**run.keys, **keys, "preset": run.preset}
            check_loggers(RunConfig(run.model, run.dataset, (), Overrides(given, origin=origin)))


@contextlib.contextmanager
def _goes_on() -> Iterator[None]:
    """Say, after Ctrl-C, how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("what is finished is kept; the same command goes on")
        raise


def _prepare_data(planned: Iterable[PlannedRun], place: Mapping[str, Any]) -> None:
    """Read each dataset once, into the cache that its runs map into memory; not one whose runs are finished.

    Raises:
        UserError: it is absent, or cannot be read.
    """
    first = {run.dataset: run for run in planned if not run.finished}
    for run in first.values():
        logger.info("data of %s", run.dataset)
        prepare_data(RunConfig(run.model, run.dataset, (), {**run.keys, **place, "preset": run.preset}))


def _searched(
    searches: Iterable[PlannedSearch], place: Mapping[str, Any], keep: tuple[int, ...], ray_address: str | None
) -> dict[tuple[str, str], dict[str, Any]]:
    """Make the searches that are missing, one after the other; what each chose."""
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for search in searches:
        values = search.chosen()
        if values is None:
            began = time.monotonic()
            logger.info("%s begins", search.name)
            searching.make(search, place, Processes(), keep=keep, ray_address=ray_address)
            values = search.chosen()
            logger.info("%s: %s after %.0f s", search.name, values, time.monotonic() - began)
        if values is None:
            raise UserError(f"the {search.name} has chosen nothing; see {search.place / LOG}")
        chosen[search.model.label, search.dataset] = values
    return chosen


def _tell(progress: Progress) -> None:
    """One line for each run that ends."""
    head, outcome = f"[{progress.done}/{progress.total}]", progress.outcome
    left = f"; about {_duration(progress.remaining)} left" if progress.remaining else ""
    if outcome is None:
        logger.info("%s runs are finished", head)
    elif outcome.reason is None:
        logger.info("%s %s: %.0f s%s", head, outcome.name, outcome.seconds, left)
    else:
        logger.warning("%s %s: failed after %.0f s: %s%s", head, outcome.name, outcome.seconds, outcome.reason, left)


def _duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write(folder: Path, suite: Suite, runs: tuple[PlannedRun, ...]) -> None:
    """suite.json: what was asked for, and where each run lies."""
    facts = {
        "suite": suite.name,
        "about": suite.about,
        "reference": suite.reference,
        "runs": [
            {**{key: value for key, value in dataclasses.asdict(run).items() if key != "place"},
             "place": run.place.relative_to(folder).as_posix()}
            for run in runs
        ],
    }  # fmt: skip
    write_text_atomically(folder / SUITE_FILE, json.dumps(facts, indent=2, ensure_ascii=False, default=str) + "\n")
