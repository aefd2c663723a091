"""Metrics with the interval that other users of the same kind would leave them in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from recbole_diffusion.benchmarking.bootstrap import bootstrap_interval, resampled_parts
from recbole_diffusion.benchmarking.statistics import row_shares, user_parts


def interval_of_users(values: pd.Series) -> tuple[float | None, float | None]:
    """95 % bootstrap interval (BCa) of the mean over rows, users drawn with all their rows; None for one user.

    Args:
        values: (R,) of every row, indexed by user.
    """
    parts = user_parts([values.to_frame()]).iloc[:, 0].to_numpy(dtype=np.float64)
    interval = bootstrap_interval(resampled_parts(parts, row_shares(values.index)))
    return (None, None) if interval is None else (interval.low, interval.high)


def interval_columns(metrics: Iterable[str]) -> list[str]:
    """The columns of `metric_cells`."""
    return [column for name in metrics for column in (name, f"{name}_low", f"{name}_high")]


def metric_cells(metrics: Sequence[str], result: dict[str, float], rows: pd.DataFrame) -> list[float | None]:
    """Each metric and the ends of its interval; None where a metric has no value for a row.

    Args:
        metrics: which.
        result: metric -> value.
        rows: (R, metrics) of every row, indexed by user.
    """
    cells: list[float | None] = []
    for name in metrics:
        cells += [result[name], *(interval_of_users(rows[name]) if name in rows else (None, None))]
    return cells
