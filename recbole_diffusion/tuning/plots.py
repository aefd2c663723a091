"""Pictures of a sweep: the validation metric against each key, and learning curves. Needs matplotlib."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.tuning.results import TrialRow
from recbole_diffusion.tuning.search_space import SearchSpace
from recbole_diffusion.tuning.sweep_folder import SweepFolder
from recbole_diffusion.tuning.trial import SCORE, TIME_ATTRIBUTE

logger = logging.getLogger(__name__)


def write_plots(
    folder: SweepFolder, grid: Any, rows: Sequence[TrialRow], space: SearchSpace, metric: str
) -> list[Path]:
    """Write plots/parameters.png and plots/learning_curves.png; the files written, none without matplotlib.

    Args:
        folder: of the sweep.
        grid: Ray Tune's `ResultGrid`.
        rows: ranked.
        space: what was searched.
        metric: name of the validation metric.
    """
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning("no plots: matplotlib is not installed: pip install 'recbole-diffusion[plots]'")
        return []
    folder.plots.mkdir(exist_ok=True)
    return [
        _parameters(folder.plots / "parameters.png", rows, space, metric),
        _curves(folder.plots / "learning_curves.png", grid, rows, metric),
    ]


def _figure(columns: int, lines: int) -> tuple[Any, list[Any]]:
    """A figure of its own canvas, so that no display and no global state is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.2 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False)
    return figure, list(axes.flat)


def _parameters(path: Path, rows: Sequence[TrialRow], space: SearchSpace, metric: str) -> Path:
    shown = [row for row in rows if row.score is not None]
    columns = min(len(space.domains), 3)
    figure, axes = _figure(columns, math.ceil(len(space.domains) / columns))
    for axis, (key, domain) in zip(axes, space.domains.items(), strict=False):
        places: list[float]
        if domain.finite:
            names = [str(value) for value in domain.values]
            places = [
                names.index(str(row.values.get(key))) if str(row.values.get(key)) in names else -1 for row in shown
            ]
            axis.set_xticks(range(len(names)), names, rotation=30 if max(map(len, names)) > 8 else 0)
        else:
            places = [float(row.values[key]) for row in shown]
            if "log" in domain.kind:
                axis.set_xscale("log")
        axis.scatter(places, [row.score for row in shown], c=["C1" if row.rank == 1 else "C0" for row in shown])
        axis.set_xlabel(key)
        axis.set_ylabel(metric)
        axis.grid(alpha=0.3)
    for axis in axes[len(space.domains) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=120)
    return path


def _curves(path: Path, grid: Any, rows: Sequence[TrialRow], metric: str) -> Path:
    figure, (axis,) = _figure(1, 1)
    best = next((row.trial for row in rows if row.rank == 1), None)
    for result in grid:
        trial = Path(result.path).name.removeprefix("trial_")
        table = result.metrics_dataframe
        if table is None or SCORE not in table:
            continue
        table = table.dropna(subset=[SCORE]).drop_duplicates(TIME_ATTRIBUTE, keep="last").sort_values(TIME_ATTRIBUTE)
        table = table[table[TIME_ATTRIBUTE] > 0]
        axis.plot(
            table[TIME_ATTRIBUTE],
            table[SCORE],
            color="C1" if trial == best else "C0",
            alpha=1.0 if trial == best else 0.45,
            linewidth=2 if trial == best else 1,
            zorder=3 if trial == best else 2,
            label=f"best: {trial}" if trial == best else None,
            marker="." if len(table) < 2 else None,
        )
    axis.set_xlabel("epoch")
    axis.set_ylabel(f"{metric} (validation)")
    axis.grid(alpha=0.3)
    if best is not None:
        axis.legend()
    figure.savefig(path, dpi=120)
    return path
