"""A suite's report as the plain values that the page's template is filled with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import recbole_diffusion
from recbole_diffusion.benchmarking.printed import NOTHING, columns_of_tests, figure, lines_of_tests
from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.tables import ResultTable
from recbole_diffusion.reporting import plot_data
from recbole_diffusion.reporting.circumstances import (
    data_facts,
    environment_facts,
    plain,
    protocol_facts,
    settings_text,
)
from recbole_diffusion.reporting.learning_curves import Curve, read_curve, thinned
from recbole_diffusion.reporting.result_tables import columns, result_lines, table_files
from recbole_diffusion.reporting.run_lines import duration, link, run_line
from recbole_diffusion.reporting.suite_report import FINISHED, Evaluation, RunState, SearchReport, SuiteReport

MOST_TRIALS = 50
"""Trials of a search that a page lists."""


def page_content(report: SuiteReport, folder: Path) -> dict[str, Any]:
    """Everything that the template asks for.

    Args:
        report: what the page says.
        folder: that it lies in.

    Raises:
        UserError: a metrics.csv that cannot be read.
    """
    own, *further = report.evaluations
    tables = [table for dataset in report.datasets for table in own.tables if table.dataset == dataset]
    curves = {id(table): _curves(table) for table in tables}
    kept, step = thinned([curve for members in curves.values() for curve in members])
    queue = iter(kept)
    curves = {place: [next(queue) for _ in members] for place, members in curves.items()}
    sections = []
    for number, table in enumerate(tables, start=1):
        first = next(other for other in tables if other.dataset == table.dataset)
        shown = [(own, table)]
        for evaluation in further:
            for other in evaluation.tables:
                if _home(other, tables) is table:
                    shown.append((evaluation, other))
        sections.append(_section(number, shown, curves[id(table)], _states(report, table, first), folder))
    records = [run.record for run in report.runs if run.record is not None and run.record.finished]
    times = _times(report, records)
    counts = Counter(run.state for run in report.runs)
    return {
        "name": report.name,
        "about": report.about,
        "summary": _summary(report, counts, times),
        "complete": counts[FINISHED] == len(report.runs),
        "waiting": [_waiting(run, folder) for run in report.runs if run.state != FINISHED],
        "without_results": [
            dataset
            for dataset in report.datasets
            if not any(table.dataset == dataset and table.metrics for table in tables)
        ],
        "overview": [_overview(section, table) for section, table in zip(sections, tables, strict=True)],
        "sections": sections,
        "step": step,
        "contestants": [
            {
                "label": entry.label,
                "model": entry.model,
                "preset": entry.preset or NOTHING,
                "settings": settings_text(entry.settings) or NOTHING,
                "seeds": ", ".join(map(str, entry.seeds)),
                "datasets": ", ".join(entry.datasets),
            }
            for entry in report.contestants
        ],
        "settings": [(key, plain(value)) for key, value in report.settings.items()],
        "searches": [_search(search, folder) for search in report.searches],
        "environment": environment_facts(records),
        "ended": _ended([record.ended for record in records if record.ended]),
        "times": times,
        "command": report.command,
        "text": report.text,
        "version": recbole_diffusion.__version__,
        "plots": {
            "styles": plot_data.styles(report.labels),
            "sections": [section["plots"] for section in sections],
        },
    }


def _home(other: ResultTable, tables: Sequence[ResultTable]) -> ResultTable | None:
    """The table that one of a further evaluation stands beside: of its dataset and protocol, or else of its dataset."""
    of_dataset = [table for table in tables if table.dataset == other.dataset]
    return next((table for table in of_dataset if table.protocol == other.protocol), next(iter(of_dataset), None))


def _curves(table: ResultTable) -> list[Curve]:
    """The learning curves of a table's runs: of its metrics, and of the one that checkpoints were chosen by."""
    runs = [run for row in table.rows for run in (*row.runs, *row.unfinished)]
    metrics = list(dict.fromkeys([*table.metrics, *(run.valid_metric for run in runs if run.valid_metric)]))
    return [curve for run in runs if (curve := read_curve(run, metrics)) is not None]


def _states(report: SuiteReport, table: ResultTable, first: ResultTable) -> list[RunState]:
    """The planned runs that belong to a table; those that no table has yet, to the first of the dataset."""
    return [
        run
        for run in report.runs
        if run.dataset == table.dataset
        and (run.record.protocol == table.protocol if run.record is not None else table is first)
    ]


def _section(
    number: int,
    shown: Sequence[tuple[Evaluation, ResultTable]],
    curves: Sequence[Curve],
    states: Sequence[RunState],
    folder: Path,
) -> dict[str, Any]:
    """A dataset under a protocol: its tables, plots, tests, circumstances and runs."""
    _, table = shown[0]
    lines = [result_lines(other, folder, f"table-{number}-{place}") for place, (_, other) in enumerate(shown)]
    records = [run.record for run in states if run.record is not None]
    tables = []
    for place, (evaluation, other) in enumerate(shown):
        tables.append(
            {
                "anchor": f"table-{number}-{place}",
                "name": evaluation.name,
                "settings": settings_text(evaluation.settings),
                "columns": columns(other),
                "lines": lines[place],
                "notes": other.notes,
                "files": table_files(other, evaluation.place, folder),
                "test_columns": columns_of_tests(other),
                "tests": lines_of_tests(other),
                "protocol": protocol_facts(other),
                "data": data_facts(other) if place == 0 else [],
            }
        )
    anchors = {line.label: line.anchor for line in lines[0]}
    return {
        "number": number,
        "dataset": table.dataset,
        "protocol": table.protocol,
        "tables": tables,
        "metric": plot_data.shown_first(table, records),
        "curves": bool(curves),
        # the first run of a row is where the links of its figures lead
        "runs": [(run_line(run, table, folder), anchors.pop(run.label, "")) for run in states],
        "labels": [row.label for row in table.rows],
        "plots": {
            "number": number,
            "metric": plot_data.shown_first(table, records),
            "metrics": plot_data.metrics_of([other for _, other in shown], curves),
            "bars": [plot_data.bars(other) for _, other in shown],
            "lines": plot_data.lines(curves),
        },
    }


def _overview(section: Mapping[str, Any], table: ResultTable) -> dict[str, Any]:
    """The best and the second row of a table by the metric that its plots show first."""
    metric = section["metric"]
    named: dict[int, list[str]] = {1: [], 2: []}
    for row in table.rows if metric else ():
        cell = row.cells[metric]
        if cell.place in named:
            mark = cell.tested.mark if cell.tested else ""
            named[cell.place].append(f"{row.label} {figure(cell, table.decimals)}{mark}")
    if metric and not named[1]:  # a single row has no rival
        named[1] = [
            f"{row.label} {figure(row.cells[metric], table.decimals)}"
            for row in table.rows
            if row.cells[metric].summary
        ]
    name = next((entry["name"] for entry in section["plots"]["metrics"] if entry["key"] == metric), NOTHING)
    return {
        "number": section["number"],
        "dataset": table.dataset,
        "protocol": table.protocol,
        "metric": name,
        "best": "; ".join(named[1]) or NOTHING,
        "second": "; ".join(named[2]) or NOTHING,
    }


def _times(report: SuiteReport, records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """How long what is finished took, each second once: the runs, what else was tried, further evaluations."""
    tried = [trial.seconds for search in report.searches for trial in search.trials if not trial.in_a_run]
    evaluated = [
        run.seconds
        for evaluation in report.evaluations[1:]
        for table in evaluation.tables
        for row in table.rows
        for run in row.runs
    ]
    parts = [
        ("runs", [record.seconds for record in records]),
        ("searches and candidates beside them", tried),
        ("further evaluations", evaluated),
    ]
    totals = [(name, sum(one or 0.0 for one in seconds)) for name, seconds in parts]
    return [(name, duration(total)) for name, total in totals if total]


def _summary(report: SuiteReport, counts: Mapping[str, int], times: Sequence[tuple[str, str]]) -> list[str]:
    """The suite in a few words."""
    seeds = sorted({run.seed for run in report.runs})
    parts = [
        f"{counts.get(FINISHED, 0)} of {len(report.runs)} runs finished",
        _number(len(report.datasets), "dataset"),
        _number(len(report.labels), "model"),
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}",
    ]
    return [*parts, *(f"{time} of {name}" for name, time in times)]


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _waiting(run: RunState, folder: Path) -> dict[str, str]:
    log = run.place / "log.txt"
    return {
        "name": f"{run.label} on {run.dataset}, seed {run.seed}",
        "state": run.state,
        "reason": run.reason,
        "log": link(log, folder) if log.is_file() else "",
    }


def _ended(moments: Sequence[str]) -> str:
    """When the runs ended, as they wrote it."""
    if not moments:
        return ""
    first, last = min(moments), max(moments)
    return first if first == last else f"{first} to {last}"


def _search(search: SearchReport, folder: Path) -> dict[str, Any]:
    """A search: what was searched, what was tried, what was chosen."""
    keys = list(dict.fromkeys(key for trial in search.trials for key in trial.values))
    return {
        "name": f"{search.label} on {search.dataset}",
        "asked": search.asked,
        "tried": sum(trial.score is not None for trial in search.trials),
        "metric": search.metric,
        "chosen": None if search.chosen is None else [(key, plain(value)) for key, value in search.chosen.items()],
        "space": [(key, plain(value)) for key, value in search.space.items()],
        "columns": [*keys, search.metric or "score", "best epoch", "epochs", "time", "state"],
        "trials": [
            {
                "cells": [
                    *(_value(trial.values.get(key)) for key in keys),
                    NOTHING if trial.score is None else f"{trial.score:.6f}",
                    str(trial.best_epoch or NOTHING),
                    str(trial.epochs or NOTHING),
                    NOTHING if trial.seconds is None else duration(trial.seconds),
                    trial.state,
                ],
                # what a search's space fixes for all trials is chosen too, and no trial's own
                "chosen": search.chosen is not None
                and all(key in search.chosen and search.chosen[key] == value for key, value in trial.values.items()),
                "folder": link(trial.folder, folder) + "/" if trial.folder else "",
            }
            for trial in search.trials[:MOST_TRIALS]
        ],
        "more": max(0, len(search.trials) - MOST_TRIALS),
        "folder": link(search.folder, folder) + "/" if search.folder else "",
        "failure": search.failure,
    }


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else NOTHING if value is None else plain(value)
