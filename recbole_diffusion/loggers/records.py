"""What loggers are told: a run's name and configuration, an epoch's values, and what the run ends with.

train/loss, train/<term>, train/learning_rate, train/seconds     each epoch
valid/<metric>, valid/seconds                                    each validation
best_valid/<metric>, best_epoch, test/<metric>                   at the end
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
_SPLITS = ("train", "valid")


@dataclass(frozen=True)
class LoggedRun:
    """A run as loggers see it.

    Attributes:
        name: what they call it.
        folder: its folder.
        config: every key as plain values.
        hyper_parameters: those of them that runs are compared by.
        project: of wandb.
        experiment, tracking_uri: of mlflow; None for its own choice.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    hyper_parameters: Mapping[str, Any]
    project: str | None = None
    experiment: str | None = None
    tracking_uri: str | None = None


class Logger(Protocol):
    """One place that a run is logged to. Any method may raise; :class:`RunLoggers` sees to it."""

    def open(self, run: LoggedRun, known: dict[str, Any]) -> None:
        """Begin to log, or go on where `known`, of an earlier part of the run, says.

        What a later part needs to go on is put into `known`, as JSON, as soon as it is there: it is kept although what
        follows fails.
        """

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """Log an epoch, from 1."""

    def flush(self) -> None:
        """Write what was logged, where it would be lost with the process."""

    def summary(self, values: Mapping[str, float], epoch: int) -> None:
        """Log what the run ends with, of its best epoch."""

    def close(self, status: str) -> None:
        """End the log: FINISHED, FAILED or INTERRUPTED."""


def values_of(row: Mapping[str, Any]) -> dict[str, float]:
    """The values of a row of metrics.csv by the names that loggers give them."""
    values: dict[str, float] = {}
    for column, value in row.items():
        split, _, name = column.partition("_")
        if value is None or value == "" or column == "epoch":
            continue
        key = f"{split}/{name}" if split in _SPLITS else f"train/{column}"
        values[key] = float(value)
    return values


def summary_of(
    best_epoch: int | None, valid_result: Mapping[str, float], test_result: Mapping[str, float]
) -> dict[str, float]:
    """What a run ends with, by the names that loggers give it."""
    values: dict[str, float] = {} if best_epoch is None else {"best_epoch": float(best_epoch)}
    values.update({f"best_valid/{name}": float(value) for name, value in valid_result.items()})
    values.update({f"test/{name}": float(value) for name, value in test_result.items()})
    return values
