"""What finished and unfinished runs wrote epoch by epoch (metrics.csv), one curve a seed, and means over seeds.

Runs come one by one (`runs`) or as a suite's folder (`suite`), whose seeds of one label belong together. A mean over
seeds is taken at the epochs that every seed has, so that it never jumps because one of them stopped early.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from recbole_diffusion.analyses.request import Request, named_runs
from recbole_diffusion.benchmarking.published import table_name
from recbole_diffusion.benchmarking.results import EPOCHS, RunRecord, read_run
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import line_style
from recbole_diffusion.suites.plan_file import read_plan

TRAIN, VALID, SECONDS = "train_", "valid_", "seconds"


@dataclass(frozen=True)
class TrainingCurve:
    """One run, epoch by epoch.

    Attributes:
        run: its record.
        epochs: indexed by `epoch` from 1, the columns of metrics.csv; `seconds` is the training time up to the epoch's
            end, without validation. What an epoch has no value for is nan.
    """

    run: RunRecord
    epochs: pd.DataFrame

    @property
    def label(self) -> str:
        """What its line is called; runs of one label are seeds of one line."""
        return self.run.label

    @property
    def table(self) -> str:
        """Dataset and protocol: only curves of the same ones stand in one picture."""
        return table_name(self.run.dataset, self.run.protocol)


def read_curves(request: Request) -> dict[str, list[TrainingCurve]]:
    """Dataset and protocol -> label after label, the curves of the keys `runs` and `suite`.

    Raises:
        UserError: neither key is given, a folder is no run's or no suite's, nothing has ended an epoch.
    """
    records: list[RunRecord] = []
    if "runs" in request.options:
        records += [read_run(folder, name) for name, folder in named_runs(request.options["runs"])]
    if "suite" in request.options:
        for planned in read_plan(request.options["suite"]):
            folder = planned.run_folder
            if folder is not None and (folder / EPOCHS).is_file():
                records.append(read_run(folder, planned.label))
    elif "runs" not in request.options:
        raise UserError("give runs with --runs=RUN_FOLDERS, or those of a suite with --suite=FOLDER")
    found: dict[str, list[TrainingCurve]] = {}
    for curve in curves_of(records):
        found.setdefault(curve.table, []).append(curve)
    if not found:
        raise UserError(f"{request.options['suite']}: no run has ended an epoch yet")
    return found


def curves_of(runs: Sequence[RunRecord]) -> list[TrainingCurve]:
    """The curve of each run.

    Raises:
        UserError: a run has not ended an epoch.
    """
    return [_read(run) for run in runs]


def _read(run: RunRecord) -> TrainingCurve:
    file = run.folder / EPOCHS
    if not file.is_file():
        raise UserError(f"{run.folder} has no {EPOCHS}: the run has not ended an epoch; leave it out")
    try:
        epochs = pd.read_csv(file).set_index("epoch").astype("float64")
        epochs[SECONDS] = epochs["train_seconds"].cumsum()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{file} is not what a run writes ({str(error).splitlines()[0]}); leave it out") from error
    return TrainingCurve(run, epochs)


def by_label(curves: Sequence[TrainingCurve]) -> dict[str, list[TrainingCurve]]:
    """Label -> its seeds."""
    found: dict[str, list[TrainingCurve]] = {}
    for curve in curves:
        found.setdefault(curve.label, []).append(curve)
    return found


def mean_curve(seeds: Sequence[TrainingCurve], column: str) -> pd.DataFrame:
    """The mean of a column over seeds at the epochs that all of them have a value for.

    Returns:
        indexed by epoch: `seconds` (mean), `mean`, `std` (sample standard deviation, nan for a single seed), `seeds`.
    """
    values = pd.concat([seed.epochs.get(column, pd.Series(dtype="float64")) for seed in seeds], axis=1).dropna()
    seconds = pd.concat([seed.epochs[SECONDS] for seed in seeds], axis=1).loc[values.index]
    return pd.DataFrame(
        {
            SECONDS: seconds.mean(axis=1),
            "mean": values.mean(axis=1),
            "std": values.std(axis=1, ddof=1),
            "seeds": len(seeds),
        }
    )


def draw_curves(
    panel: Any,
    groups: Mapping[str, Sequence[TrainingCurve]],
    column: str,
    *,
    seconds: bool = False,
    scale: float = 1.0,
    time_unit: float = 1.0,
) -> None:
    """Draw a column of all groups: a line each, of several seeds their mean with a band and every seed behind it.

    Args:
        panel: of `pictures.new_figure`.
        groups: label -> seeds; a group without the column has no line.
        column: of metrics.csv.
        seconds: against training time instead of epochs.
        scale: the column is multiplied by it.
        time_unit: seconds of the axis's unit.
    """

    def places(frame: pd.DataFrame) -> Any:
        return frame[SECONDS] / time_unit if seconds else frame.index

    for number, (label, seeds) in enumerate(groups.items()):
        style = line_style(number)
        mean = mean_curve(seeds, column)
        if not len(mean):
            continue
        style["markersize"] = 2.5 if len(mean) <= 60 else 0
        if len(seeds) > 1:
            for seed in seeds:
                own = seed.epochs.dropna(subset=[column])
                panel.plot(places(own), own[column] * scale, color=style["color"], linewidth=0.6, alpha=0.35)
            low, high = (mean["mean"] - mean["std"]) * scale, (mean["mean"] + mean["std"]) * scale
            panel.fill_between(places(mean), low, high, color=style["color"], alpha=0.15, linewidth=0)
        panel.plot(places(mean), mean["mean"] * scale, label=label, **style)
    if not seconds:
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.set_xlabel("epoch")


def time_axis(curves: Sequence[TrainingCurve]) -> tuple[str, float]:
    """The unit in which training times are read best, and its seconds."""
    longest = max((float(curve.epochs[SECONDS].max()) for curve in curves), default=0.0)
    return ("hours", 3600.0) if longest > 10_800 else ("minutes", 60.0) if longest > 600 else ("seconds", 1.0)


def columns_of(curves: Sequence[TrainingCurve], wanted: Callable[[str], bool]) -> list[str]:
    """Columns of some curves that are wanted, in the order in which they come."""
    names = dict.fromkeys(str(name) for curve in curves for name in curve.epochs)
    return [name for name in names if wanted(name)]


def plain(value: float) -> float | None:
    """A number for a table; None for nan."""
    return None if math.isnan(value) else float(value)
