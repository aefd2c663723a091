"""What the page's script draws, as plain values: bars of each table and learning curves of each dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_diffusion.benchmarking.metric_names import factor, in_order, printed_name, unit
from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.tables import Cell, ResultTable, Row
from recbole_diffusion.pictures import COLOURS, DASHES, MARKERS, line_style
from recbole_diffusion.reporting.learning_curves import Curve

_DIGITS = 6  # significant ones, as results have them
_DIGITS_OF_CURVES = 5


def styles(labels: Sequence[str]) -> dict[str, list[int]]:
    """Label -> numbers of its colour, its dashes and its marker in `pictures`."""
    found = {}
    for place, label in enumerate(labels):
        style = line_style(place)
        found[label] = [
            COLOURS.index(style["color"]),
            DASHES.index(style["linestyle"]),
            MARKERS.index(style["marker"]),
        ]
    return found


def metrics_of(tables: Sequence[ResultTable], curves: Sequence[Curve]) -> list[dict[str, str]]:
    """The metrics that can be shown, with their printed names and units."""
    keys = [metric for table in tables for metric in table.metrics]
    keys += [metric for curve in curves for metric in curve.values]
    return [{"key": key, "name": printed_name(key), "unit": "%" if unit(key) else ""} for key in in_order(keys)]


def bars(table: ResultTable) -> dict[str, Any]:
    """A table as bars: means, deviations, intervals, the value of each seed, printed figures."""
    level = f"{100 * table.comparison.level:g} %" if table.comparison else ""
    return {"decimals": table.decimals, "level": level, "rows": [_bar_row(row, table.metrics) for row in table.rows]}


def _bar_row(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "label": row.label,
        "cells": {metric: _cell(row, row.cells[metric], metric) for metric in metrics if row.cells[metric].summary},
        "printed": {
            metric: [[source.short, figures[metric]] for source, figures in row.published if metric in figures]
            for metric in metrics
            if any(metric in figures for _, figures in row.published)
        },
    }


def _cell(row: Row, cell: Cell, metric: str) -> dict[str, Any]:
    assert cell.summary is not None
    ends = cell.interval
    return {
        "mean": _short(cell.summary.mean),
        "deviation": _short(cell.summary.deviation),
        "interval": [_short(ends.low), _short(ends.high)] if ends else None,
        "seeds": [[run.seed, _short(factor(metric) * run.test[metric])] for run in row.runs if metric in run.test],
    }


def lines(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Curves as lines; a row of epochs that is 1, 2, 3, ... is a number."""
    return [
        {
            "label": curve.label,
            "seed": curve.seed,
            "finished": curve.finished,
            "best": curve.best_epoch,
            "epochs": len(curve.epochs) if curve.epochs == tuple(range(1, len(curve.epochs) + 1)) else curve.epochs,
            "values": {
                metric: [_short(value, _DIGITS_OF_CURVES) for value in values]
                for metric, values in curve.values.items()
            },
        }
        for curve in curves
    ]


def shown_first(table: ResultTable, runs: Sequence[RunRecord]) -> str:
    """The metric that plots show first: the one that checkpoints were chosen by, else the table's first."""
    for run in runs:
        if run.valid_metric in table.metrics:
            return run.valid_metric
    return table.metrics[0] if table.metrics else ""


def _short(value: float | None, digits: int = _DIGITS) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")
