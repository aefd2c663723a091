"""Learning curves: the validation metrics of a run by epoch, as its metrics.csv has them."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recbole_diffusion.benchmarking.metric_names import factor
from recbole_diffusion.benchmarking.results import EPOCHS, RunRecord
from recbole_diffusion.errors import UserError

_PREFIX = "valid_"
MOST_NUMBERS = 60_000
"""Numbers that the curves of a page hold at most, some 0.4 MB."""


@dataclass(frozen=True)
class Curve:
    """The validations of one run.

    Attributes:
        label, seed: of the run.
        finished: whether it has ended.
        best_epoch: the one whose checkpoint was tested; None where that is not known.
        epochs: that were validated.
        values: metric -> its value after each of these epochs, in a table's unit; None where it has none.
    """

    label: str
    seed: int | None
    finished: bool
    best_epoch: int | None
    epochs: tuple[int, ...]
    values: Mapping[str, tuple[float | None, ...]]

    def every(self, step: int) -> Curve:
        """Every `step`-th validation, the first, the last and the best among them."""
        kept = [
            place
            for place, epoch in enumerate(self.epochs)
            if place % step == 0 or place == len(self.epochs) - 1 or epoch == self.best_epoch
        ]
        return Curve(
            self.label,
            self.seed,
            self.finished,
            self.best_epoch,
            tuple(self.epochs[place] for place in kept),
            {metric: tuple(values[place] for place in kept) for metric, values in self.values.items()},
        )


def read_curve(run: RunRecord, metrics: Sequence[str]) -> Curve | None:
    """The curve of a run; None where it has no validation.

    Args:
        run: finished or not.
        metrics: as results name them; those that were not validated are left out.

    Raises:
        UserError: metrics.csv is none of this package's (file and line).
    """
    path = run.folder / EPOCHS
    if not path.is_file():
        return None
    try:
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        return None
    header, rows = lines[0], lines[1:]
    if "epoch" not in header:
        raise UserError(f"{path}:1: has no column 'epoch'; repeat the run or leave it out")
    columns = {metric: header.index(_PREFIX + metric) for metric in metrics if _PREFIX + metric in header}
    units = {metric: factor(metric) for metric in columns}
    place = header.index("epoch")
    epochs: list[int] = []
    values: dict[str, list[float | None]] = {metric: [] for metric in columns}
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}:{line}: has {len(row)} fields instead of {len(header)}; repeat the run")
        if not any(row[column] for column in columns.values()):
            continue  # an epoch without validation
        try:
            epochs.append(int(row[place]))
            for metric, column in columns.items():
                values[metric].append(_value(row[column], units[metric]))
        except ValueError as error:
            raise UserError(f"{path}:{line}: {error}; repeat the run or leave it out") from None
    if not epochs:
        return None
    return Curve(
        run.label, run.seed, run.finished, run.best_epoch, tuple(epochs), {m: tuple(v) for m, v in values.items()}
    )


def _value(text: str, unit: float) -> float | None:
    if not text:
        return None
    value = unit * float(text)
    return value if math.isfinite(value) else None


def thinned(curves: Sequence[Curve], most: int = MOST_NUMBERS) -> tuple[list[Curve], int]:
    """Curves that hold `most` numbers or a few more, and of how many validations one is left.

    Args:
        curves: of a page.
        most: numbers.
    """
    total = sum(len(curve.epochs) * len(curve.values) for curve in curves)
    step = max(1, math.ceil(total / most))
    return [curve.every(step) if step > 1 else curve for curve in curves], step
