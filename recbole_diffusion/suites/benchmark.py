"""`benchmark`: a suite from its file to its tables and its report, begun or gone on with.

Nothing that is finished is made again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.command_options import messages
from recbole_diffusion.config import Overrides
from recbole_diffusion.config_keys import LOGGER_KEYS
from recbole_diffusion.errors import UserError
from recbole_diffusion.loggers.choice import check_loggers
from recbole_diffusion.ray_session import cores
from recbole_diffusion.reporting.page import write_report
from recbole_diffusion.suites import searching
from recbole_diffusion.suites.on_ray import Cluster, run_all_on_ray
from recbole_diffusion.suites.performing import Outcome, Processes, logger_keys
from recbole_diffusion.suites.plan import PlannedRun
from recbole_diffusion.suites.plan_file import read_command, write_plan
from recbole_diffusion.suites.report import command_of, suite_report
from recbole_diffusion.suites.run_data import check_data
from recbole_diffusion.suites.runner import Progress, RunQueue, locked, run_all
from recbole_diffusion.suites.suite import Suite, read_suite
from recbole_diffusion.suites.suite_plan import SuitePlan
from recbole_diffusion.suites.tables import AS_TRAINED, check_tables, read_records, suite_tables, write_suite_tables

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SuiteResult:
    """What a suite ends with.

    Attributes:
        suite: the suite.
        folder: where everything lies.
        runs: all planned runs.
        outcomes: how those ended that were made now.
        tables: the files of the tables.
        report: the page that says all of it.
        total: of runs, candidates included.
        searched: how those searches ended that were made now.
        searches: how many there are.
    """

    suite: Suite
    folder: Path
    runs: tuple[PlannedRun, ...]
    outcomes: tuple[Outcome, ...]
    tables: tuple[Path, ...]
    report: Path
    total: int
    searched: tuple[Outcome, ...] = ()
    searches: int = 0

    @property
    def missing(self) -> list[PlannedRun]:
        """Runs without a result."""
        return [run for run in self.runs if not run.finished]

    def check(self) -> None:
        """Refuse to go on where runs or searches failed.

        Raises:
            UserError: how many, and why the first one did.
        """
        failed, counts = [], []
        for outcomes, total, word in ((self.searched, self.searches, "searches"), (self.outcomes, self.total, "runs")):
            of_it = [outcome for outcome in outcomes if outcome.reason is not None]
            failed += of_it
            counts += [f"{len(of_it)} of {total} {word}"] if of_it else []
        if failed:
            raise UserError(
                f"{' and '.join(counts)} failed, the first: {failed[0].name}: {failed[0].reason}; the others are kept "
                f"in {self.folder} ({self.report.name} says which), the same command tries again"
            )


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
    tables_only: bool = False,
) -> SuiteResult:
    """Run a suite, or what is left of it.

    Args:
        file: the suite.
        config: keys of every run, which win over the suite's.
        data_path: folder of the datasets.
        output: where the suite's folder is made, named as the file.
        max_concurrent: runs at a time; None for one, on Ray for as many as there is room for.
        threads: CPU threads of a run; the key `num_threads`, or else its share of the cores, when None.
        ray_address: of a Ray cluster whose machines all see `output` and `data_path`, or ``local`` to start Ray on this
            machine; None makes the runs without Ray.
        cpus_per_run: on Ray, CPU cores and threads of a run; `threads`, or 1, when None.
        gpus_per_run: on Ray, GPUs of a run; one where there are any when None.
        show_progress: a line on standard error for each run that ends.
        tables_only: run nothing; the tables of what is finished, also while another process runs the suite.

    Raises:
        UserError: anything a person can correct, before a run starts.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    suite = read_suite(file)
    folder = Path(output) / suite.name
    given = config if isinstance(config, Overrides) else Overrides(config)
    given = Overrides(given, origin=given.origin)  # the caller's own stays as it is
    asked = dict(given)
    if data_path is not None:
        given["data_path"] = str(data_path)
    cluster = _cluster(ray_address, cpus_per_run, gpus_per_run, threads)
    kept = ("use_gpu", "gpu_id", "cache", "cache_dir", *LOGGER_KEYS)
    place: dict[str, Any] = {key: given.pop(key) for key in kept if key in given}
    if "data_path" in given:
        place["data_path"] = given["data_path"]
    own = threads or given.get("num_threads") or max(cores() // (max_concurrent or 1), 1)
    own = own if cluster is None else cluster.cpus_per_run
    place.update(num_threads=own, show_progress=False)
    command = command_of(
        file,
        asked,
        data_path=data_path or asked.get("data_path"),
        output=output,
        max_concurrent=max_concurrent,
        threads=threads,
        ray_address=ray_address,
        cpus_per_run=cpus_per_run,
        gpus_per_run=gpus_per_run,
    )
    plan = SuitePlan(suite, folder, given)
    if tables_only:
        plan.look()
        command = read_command(folder) or command  # this one makes no run
        if folder.is_dir():  # a killed process did not write what had been chosen
            write_plan(folder, suite, plan.settled_runs(), command)
        return _result(plan, (), (), command)
    # Everything that can be wrong with keys and data is found before anything starts.
    planned = plan.first_runs()
    check_tables(suite, planned)
    if cluster is not None:
        _refuse_workers(planned)
    _check_loggers(planned, place, given.origin)
    with messages(show_progress), _goes_on(), locked(folder) as lock:
        for line in plan.given_candidates():
            logger.warning(line)
        if check_data(planned, place, origin=given.origin, searched=plan.searches):
            plan = SuitePlan(suite, folder, given)  # the data are part of what a run is, and were not there yet
        keep = () if lock is None else (lock,)
        searched = _search(plan, place, keep, cluster.joined if cluster is not None else None)

        def then(run: PlannedRun) -> Sequence[PlannedRun]:
            chosen = plan.then(run)
            if chosen:
                write_plan(folder, suite, plan.settled_runs(), command)
            return chosen

        queue = RunQueue(plan.ready_runs(), _tell, position=plan.position, then=then, total=plan.possible)
        write_plan(folder, suite, plan.settled_runs(), command)
        try:
            if cluster is not None:
                outcomes = run_all_on_ray(queue, place, cluster, folder=folder, at_a_time=max_concurrent)
            else:
                outcomes = run_all(queue, place, at_a_time=max_concurrent or 1, keep=keep)
        finally:  # with what has been chosen
            write_plan(folder, suite, plan.settled_runs(), command)
    return _result(plan, outcomes, searched, command)


def _result(plan: SuitePlan, outcomes: Sequence[Outcome], searched: Sequence[Outcome], command: str) -> SuiteResult:
    """Write the tables and the report of what is finished."""
    suite, folder, runs = plan.suite, plan.folder, plan.settled_runs()
    records = read_records(suite, runs)
    tables = {AS_TRAINED: suite_tables(suite, runs, records)}
    for name in suite.evaluations:
        tables[name] = suite_tables(suite, runs, read_records(suite, runs, name), name)
    files = write_suite_tables(suite, tables, folder)
    report = suite_report(
        suite,
        folder,
        runs,
        records=records,
        tables=tables,
        outcomes=outcomes,
        searches=tuple(plan.searches.values()),
        choices=tuple(plan.choices.values()),
        command=command,
    )
    return SuiteResult(
        suite=suite,
        folder=folder,
        runs=runs,
        outcomes=tuple(outcomes),
        tables=tuple(files),
        report=write_report(report, folder),
        total=plan.total,
        searched=tuple(searched),
        searches=len(plan.searches),
    )


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
            check_loggers(run.config(keys, origin=origin))


@contextlib.contextmanager
def _goes_on() -> Iterator[None]:
    """Say, after Ctrl-C, how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        logger.warning("what is finished is kept; the same command goes on")
        raise


def _search(plan: SuitePlan, place: Mapping[str, Any], keep: tuple[int, ...], ray_address: str | None) -> list[Outcome]:
    """Make the searches that are missing, one after the other, and take what each chose; how those ended."""
    outcomes = []
    for row, search in plan.searches.items():
        values = search.chosen()
        if values is None:
            logger.info("%s begins", search.name)
            outcome = searching.make(search, place, Processes(), keep=keep, ray_address=ray_address)
            outcomes.append(outcome)
            values = search.chosen()
            if values is None:
                logger.warning(
                    "%s failed after %.0f s: %s; %s has no runs on %s",
                    search.name,
                    outcome.seconds,
                    outcome.reason,
                    *row,
                )
                continue
            logger.info("%s: %s after %.0f s", search.name, values, outcome.seconds)
        plan.chosen[row] = values
    return outcomes


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
