"""A suite's report: what `reporting` is told of its runs, searches and tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.tables import ResultTable
from recbole_diffusion.reporting.suite_report import (
    FAILED,
    FINISHED,
    NOT_BEGUN,
    UNFINISHED,
    Contestant,
    Evaluation,
    RunState,
    SearchReport,
    SuiteReport,
)
from recbole_diffusion.suites.performing import Outcome
from recbole_diffusion.suites.plan import PlannedRun
from recbole_diffusion.suites.searching import PlannedSearch
from recbole_diffusion.suites.suite import Suite
from recbole_diffusion.suites.tables import AS_TRAINED, tables_folder


def suite_report(
    suite: Suite,
    folder: Path,
    runs: Sequence[PlannedRun],
    *,
    records: Sequence[RunRecord | None],
    tables: Mapping[str, Sequence[ResultTable]],
    outcomes: Sequence[Outcome],
    searches: Sequence[PlannedSearch],
    command: str,
) -> SuiteReport:
    """All that the report of a suite says.

    Args:
        suite: the suite.
        folder: of it.
        runs: its runs.
        records: what their folders hold.
        tables: of each evaluation, by its name.
        outcomes: how those ended that were made now.
        searches: for configurations.
        command: that makes the suite.
    """
    reasons = {outcome.name: outcome for outcome in outcomes if outcome.reason is not None}
    settings = {AS_TRAINED: {}, **suite.evaluations}
    return SuiteReport(
        name=suite.name,
        about=suite.about,
        text=suite.file.read_text(encoding="utf-8"),
        command=command,
        settings=suite.settings,
        datasets=list(suite.datasets),
        contestants=[
            Contestant(
                label=_label(model.label),
                model=model.model,
                preset=model.preset or "",
                settings=model.settings,
                seeds=model.seeds,
                datasets=model.datasets,
            )
            for model in suite.models
        ],
        runs=[_state(run, record, reasons.get(run.name)) for run, record in zip(runs, records, strict=True)],
        evaluations=[
            Evaluation(name, settings[name], of_it, tables_folder(folder, name)) for name, of_it in tables.items()
        ],
        searches=[_search(search) for search in searches],
    )


def _label(label: str) -> str:
    """As tables have it."""
    return " ".join(label.split())


def _state(run: PlannedRun, record: RunRecord | None, outcome: Outcome | None) -> RunState:
    missing = run.missing_evaluations()
    if run.finished:
        state, reason = FINISHED, ""
    elif outcome is not None and not outcome.interrupted:
        state, reason = FAILED, outcome.reason or ""
    else:
        state, reason = NOT_BEGUN if record is None else UNFINISHED, ""
    if record is not None and record.finished and missing:
        reason = f"trained, but not evaluated {', '.join(missing)}" + (f": {reason}" if reason else "")
    return RunState(_label(run.label), run.dataset, run.seed, state, reason, run.place, record)


def _search(search: PlannedSearch) -> SearchReport:
    assert search.model.search is not None
    sweep = search.sweep()
    facts = None
    if sweep is not None and (sweep / "tune_result.json").is_file():
        facts = json.loads((sweep / "tune_result.json").read_text(encoding="utf-8"))
    return SearchReport(_label(search.model.label), search.dataset, search.model.search.num_trials, sweep, facts)


def command_of(
    file: str | Path,
    given: Mapping[str, Any],
    *,
    data_path: str | Path | None,
    output: str | Path,
    max_concurrent: int,
    threads: int | None,
) -> str:
    """The command line that makes a suite.

    Of an absolute path it has the last part, since the rest says nothing elsewhere.

    Args:
        file: the suite.
        given: keys of every run.
        data_path, output, max_concurrent, threads: as `benchmark` was given them.
    """
    words = ["recbole-diff", "benchmark", _path(file)]
    words += [f"--data_path={_path(data_path)}"] if data_path is not None else []
    words += [f"--output={_path(output)}"] if Path(output) != Path("benchmark_runs") else []
    words += [f"--max_concurrent={max_concurrent}"] if max_concurrent != 1 else []
    words += [f"--threads={threads}"] if threads is not None else []
    words += [f"--{key}={_word(key, value)}" for key, value in given.items() if key != "data_path"]
    return shlex.join(words)


def _path(path: str | Path) -> str:
    return Path(path).name if Path(path).is_absolute() else Path(path).as_posix()


def _word(key: str, value: Any) -> str:
    if isinstance(value, str) and key in ("cache_dir", "checkpoint_dir"):
        return _path(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
