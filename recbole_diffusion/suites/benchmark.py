"""`benchmark`: a suite from its file to its tables and its report, begun or gone on with.

Nothing that is finished is made again.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import cores
from recbole_diffusion.reporting.page import write_report
from recbole_diffusion.suites import searching
from recbole_diffusion.suites.candidates import Choice, plan_choice
from recbole_diffusion.suites.performing import LOG, Outcome, Processes
from recbole_diffusion.suites.plan import PlannedRun, plan_run
from recbole_diffusion.suites.plan_file import write_plan
from recbole_diffusion.suites.report import command_of, suite_report
from recbole_diffusion.suites.runner import Progress, locked, run_all
from recbole_diffusion.suites.searching import PlannedSearch
from recbole_diffusion.suites.suite import Suite, read_suite
from recbole_diffusion.suites.tables import AS_TRAINED, read_records, suite_tables, write_suite_tables
from recbole_diffusion.tuning.preparation import prepare_data
from recbole_diffusion.tuning.progress_lines import messages

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
    """

    suite: Suite
    folder: Path
    runs: tuple[PlannedRun, ...]
    outcomes: tuple[Outcome, ...]
    tables: tuple[Path, ...]
    report: Path

    @property
    def missing(self) -> list[PlannedRun]:
        """Runs without a result."""
        return [run for run in self.runs if not run.finished]

    def check(self) -> None:
        """Refuse to go on where runs failed.

        Raises:
            UserError: how many, and why the first one did.
        """
        failed = [outcome for outcome in self.outcomes if outcome.reason is not None]
        if failed:
            raise UserError(
                f"{len(failed)} of {len(self.runs)} runs failed, the first: {failed[0].name}: {failed[0].reason}; the "
                f"others are kept in {self.folder} ({self.report.name} says which), the same command tries again"
            )


def benchmark(
    file: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    data_path: str | Path | None = None,
    output: str | Path = "benchmark_runs",
    max_concurrent: int = 1,
    threads: int | None = None,
    show_progress: bool = True,
    tables_only: bool = False,
) -> SuiteResult:
    """Run a suite, or what is left of it.

    Args:
        file: the suite.
        config: keys of every run, which win over the suite's.
        data_path: folder of the datasets.
        output: where the suite's folder is made, named as the file.
        max_concurrent: runs at a time.
        threads: CPU threads of a run; its share of the cores when None.
        show_progress: a line on standard error for each run that ends.
        tables_only: run nothing; the tables of what is finished, also while another process runs the suite.

    Raises:
        UserError: anything a person can correct, before a run starts, or the searches that failed.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    suite = read_suite(file)
    folder = Path(output) / suite.name
    given = config if isinstance(config, Overrides) else Overrides(config)
    given = Overrides(given, origin=given.origin)  # the caller's own stays as it is
    asked = dict(given)
    if data_path is not None:
        given["data_path"] = str(data_path)
    own = ("use_gpu", "gpu_id", "cache", "cache_dir", "ray_address")
    place: dict[str, Any] = {key: given.pop(key) for key in own if key in given}
    if "data_path" in given:
        place["data_path"] = given["data_path"]
    place.update(num_threads=threads or max(cores() // max_concurrent, 1), show_progress=False)
    searches = {
        (model.label, dataset): searching.plan_search(suite, model, dataset, output=folder, given=given)
        for model in suite.models
        if model.search is not None
        for dataset in model.datasets
    }
    command = command_of(
        file,
        asked,
        data_path=data_path or asked.get("data_path"),
        output=output,
        max_concurrent=max_concurrent,
        threads=threads,
    )
    choices = {
        (model.label, dataset): plan_choice(suite, model, dataset, output=folder, given=given)
        for model in suite.models
        if model.candidates
        for dataset in model.datasets
    }

    def planned(chosen: Mapping[tuple[str, str], Mapping[str, Any]]) -> tuple[PlannedRun, ...]:
        return tuple(
            plan_run(
                suite, model, dataset, seed, output=folder, given=given, searched=chosen.get((model.label, dataset))
            )
            for model, dataset, seed in suite.rows()
        )

    if tables_only:
        decided = {key: choice.chosen() for key, choice in choices.items()}
        decided.update({key: search.chosen() for key, search in searches.items()})
        known = {key: values for key, values in decided.items() if values is not None}
        runs = tuple(run for run in planned(known) if decided.get((run.label, run.dataset), run) is not None)
        return _result(suite, folder, runs, (), searches.values(), choices.values(), command)
    # Everything that can be wrong with keys and data is found before anything starts.
    fixed = [run for run in planned({}) if (run.label, run.dataset) not in choices]
    candidates = [run for choice in choices.values() for run in choice.runs]
    with messages(show_progress), _goes_on(), locked(folder) as lock:
        _prepare_data([*fixed, *candidates], place)
        keep = () if lock is None else (lock,)
        chosen = _searched(searches.values(), place, keep)
        first = tuple(run for run in planned(chosen) if (run.label, run.dataset) not in choices)

        def then(run: PlannedRun) -> Sequence[PlannedRun]:
            """Once all candidates of a model have ended: its runs with the best of them."""
            key = (run.label, run.dataset)
            values = choices[key].chosen() if key in choices and key not in chosen else None
            if values is None:
                return ()
            chosen[key] = values
            logger.info("%s on %s: %s, of %d candidates", *key, values, len(choices[key].runs))
            return [run for run in planned(chosen) if (run.label, run.dataset) == key]

        write_plan(folder, suite, first)
        order = {(model.label, dataset, seed): number for number, (model, dataset, seed) in enumerate(suite.rows())}
        outcomes = run_all(
            [*first, *candidates],
            place,
            at_a_time=max_concurrent,
            tell=_tell,
            keep=keep,
            position=lambda run: order[run.label, run.dataset, run.seed],
            then=then,
            total=len(candidates) + len(order),
        )
        # a candidate that failed keeps its model's runs from being made
        runs = tuple(run for run in planned(chosen) if run in first or (run.label, run.dataset) in chosen)
        write_plan(folder, suite, runs)
    return _result(suite, folder, runs, outcomes, searches.values(), choices.values(), command)


def _result(
    suite: Suite,
    folder: Path,
    runs: tuple[PlannedRun, ...],
    outcomes: Sequence[Outcome],
    searches: Iterable[PlannedSearch],
    choices: Iterable[Choice],
    command: str,
) -> SuiteResult:
    """Write the tables and the report of what is finished."""
    records = read_records(suite, runs)
    tables = {AS_TRAINED: suite_tables(suite, records)}
    for name in suite.evaluations:
        tables[name] = suite_tables(suite, read_records(suite, runs, name))
    files = write_suite_tables(tables, folder)
    report = suite_report(
        suite,
        folder,
        runs,
        records=records,
        tables=tables,
        outcomes=outcomes,
        searches=tuple(searches),
        choices=tuple(choices),
        command=command,
    )
    return SuiteResult(suite, folder, runs, tuple(outcomes), tuple(files), write_report(report, folder))


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
    searches: Iterable[PlannedSearch], place: Mapping[str, Any], keep: tuple[int, ...]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Make the searches that are missing, one after the other; what each chose."""
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for search in searches:
        values = search.chosen()
        if values is None:
            began = time.monotonic()
            logger.info("%s begins", search.name)
            searching.make(search, place, Processes(), keep=keep)
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
