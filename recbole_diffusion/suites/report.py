"""A suite's report: what `reporting` is told of its runs, searches and tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.metric_names import printed_name
from recbole_diffusion.benchmarking.results import RunRecord, table_label
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
    Trial,
)
from recbole_diffusion.suites.candidates import Choice
from recbole_diffusion.suites.performing import Outcome
from recbole_diffusion.suites.plan import PlannedRun, slug
from recbole_diffusion.suites.searching import PlannedSearch
from recbole_diffusion.suites.suite import Suite
from recbole_diffusion.suites.tables import AS_TRAINED, read_records, tables_folder

Row = tuple[str, str, int]
"""Label, dataset and seed."""


def suite_report(
    suite: Suite,
    folder: Path,
    runs: Sequence[PlannedRun],
    *,
    records: Sequence[RunRecord | None],
    tables: Mapping[str, Sequence[ResultTable]],
    outcomes: Sequence[Outcome],
    searches: Sequence[PlannedSearch] = (),
    choices: Sequence[Choice] = (),
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
        choices: among candidates.
        command: that makes the suite.

    Raises:
        UserError: a candidate's result that cannot be read.
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
                label=table_label(model.label),
                model=model.model,
                preset=model.preset or "",
                settings=model.settings,
                seeds=model.seeds,
                datasets=model.datasets,
            )
            for model in suite.models
        ],
        runs=_states(
            suite,
            folder,
            {(run.label, run.dataset, run.seed): (run, record) for run, record in zip(runs, records, strict=True)},
            reasons,
            _not_chosen(searches, choices, reasons),
        ),
        evaluations=[
            Evaluation(name, settings[name], of_it, tables_folder(folder, name)) for name, of_it in tables.items()
        ],
        searches=[
            *map(_search, searches),
            *(_choice(suite, choice, _timed(runs, records)) for choice in choices),
        ],
    )


def _timed(runs: Sequence[PlannedRun], records: Sequence[RunRecord | None]) -> set[Path | None]:
    """The folders whose time is in that of finished runs: their own, and those of shorter runs that they go on from."""
    finished = [run for run, record in zip(runs, records, strict=True) if record is not None and record.finished]
    return {place for run in finished for place in (run.place, run.goes_on_from)}


def _not_chosen(
    searches: Sequence[PlannedSearch], choices: Sequence[Choice], reasons: Mapping[str, Outcome]
) -> dict[tuple[str, str], str]:
    """Why a model has no configuration on a dataset, where what was to choose it failed."""
    found: dict[tuple[str, str], str] = {}
    for choice in choices:
        for run in choice.runs:
            outcome = reasons.get(run.name)
            reason = run.failure or (outcome.reason if outcome is not None and not outcome.interrupted else None)
            if reason is not None:
                found.setdefault((choice.label, choice.dataset), f", a candidate failed: {reason}")
    for search in searches:
        if search.failure is not None:
            found[search.model.label, search.dataset] = f", the search failed: {search.failure}"
    return found


def _states(
    suite: Suite,
    folder: Path,
    runs: Mapping[Row, tuple[PlannedRun, RunRecord | None]],
    reasons: Mapping[str, Outcome],
    not_chosen: Mapping[tuple[str, str], str],
) -> list[RunState]:
    """Every row of the suite; one whose configuration is not chosen yet has no planned run."""
    states = []
    for model, dataset, seed in suite.rows():
        run, record = runs.get((model.label, dataset, seed), (None, None))
        if run is not None:
            states.append(_state(run, record, reasons.get(run.name)))
            continue
        reason = "its configuration is not chosen" + not_chosen.get((model.label, dataset), "")
        place = folder / "runs" / slug(dataset) / slug(model.label)
        states.append(RunState(table_label(model.label), dataset, seed, NOT_BEGUN, reason, place, None))
    return states


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
    return RunState(table_label(run.label), run.dataset, run.seed, state, reason, run.place, record)


def _search(search: PlannedSearch) -> SearchReport:
    """A sweep, as its tune_result.json has it."""
    assert search.model.search is not None
    sweep = search.sweep()
    facts: dict[str, Any] = {}
    if sweep is not None and (sweep / "tune_result.json").is_file():
        facts = json.loads((sweep / "tune_result.json").read_text(encoding="utf-8"))
    return SearchReport(
        label=table_label(search.model.label),
        dataset=search.dataset,
        asked=search.model.search.num_trials,
        metric=facts.get("metric", ""),
        space=facts.get("space") or {},
        trials=[
            Trial(
                row["values"],
                row["score"],
                f"{row['state']}: {row['reason']}" if row.get("reason") else row["state"],
                row["best_epoch"],
                row["epochs"],
                row["seconds"],
            )
            for row in facts.get("trials", ())
        ],
        chosen=search.chosen(),
        folder=sweep,
        failure=search.failure or "",
    )


def _choice(suite: Suite, choice: Choice, timed: Container[Path | None]) -> SearchReport:
    """Candidates, each of them a run; `timed` are the folders of those that finished runs are or go on from."""
    records = read_records(suite, choice.runs)
    lists: dict[str, list[Any]] = {}
    for values in choice.values:
        for key, value in values.items():
            listed = lists.setdefault(key, [])
            if value not in listed:
                listed.append(value)
    return SearchReport(
        label=table_label(choice.label),
        dataset=choice.dataset,
        asked=len(choice.runs),
        metric=next((printed_name(record.valid_metric) for record in records if record and record.valid_metric), ""),
        space=lists,
        trials=[
            Trial(values, score, NOT_BEGUN if run.failure is None else f"{FAILED}: {run.failure}")
            if record is None
            else Trial(
                values,
                score,
                FINISHED if record.finished else UNFINISHED if run.failure is None else f"{FAILED}: {run.failure}",
                record.best_epoch,
                record.epochs,
                record.seconds,
                record.folder,
                run.place in timed,
            )
            for run, record, values, score in zip(choice.runs, records, choice.values, choice.scores(), strict=True)
        ],
        chosen=choice.chosen({run.place for run in choice.runs if run.failure is not None}),
    )


def command_of(
    file: str | Path,
    given: Mapping[str, Any],
    *,
    data_path: str | Path | None,
    output: str | Path,
    **steering: Any,
) -> str:
    """The command line that makes a suite.

    Of an absolute path it has the last part, since the rest says nothing elsewhere.

    Args:
        file: the suite.
        given: keys of every run.
        data_path, output: as `benchmark` was given them.
        steering: its other keys (max_concurrent, threads ...); those that are None are left out.
    """
    words = ["recbole-diff", "benchmark", _path(file)]
    words += [f"--data_path={_path(data_path)}"] if data_path is not None else []
    words += [f"--output={_path(output)}"] if Path(output) != Path("benchmark_runs") else []
    words += [f"--{key}={value}" for key, value in steering.items() if value is not None]
    words += [f"--{key}={_word(key, value)}" for key, value in given.items() if key != "data_path"]
    return shlex.join(words)


def _path(path: str | Path) -> str:
    return Path(path).name if Path(path).is_absolute() else Path(path).as_posix()


def _word(key: str, value: Any) -> str:
    if isinstance(value, str) and key in ("cache_dir", "checkpoint_dir"):
        return _path(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
