"""What a report is made of: the tables of a suite, the state of its runs, its searches, and how to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.tables import ResultTable

FINISHED, FAILED, UNFINISHED, NOT_BEGUN = "finished", "failed", "unfinished", "not begun"


@dataclass(frozen=True)
class Evaluation:
    """The tables of one evaluation of a suite's checkpoints.

    Attributes:
        name: in the suite's file; empty for the evaluation that belongs to the training.
        settings: keys that it changes.
        tables: one a dataset and protocol.
        place: folder of the tables' files.
    """

    name: str
    settings: Mapping[str, Any]
    tables: Sequence[ResultTable]
    place: Path


@dataclass(frozen=True)
class RunState:
    """One planned run and how far it is.

    Attributes:
        label, dataset, seed: which one.
        state: finished | failed | unfinished | not begun.
        reason: why it failed; empty where it did not.
        place: its folder in the suite, with `asked.yaml` and `log.txt` once it was begun.
        record: what its run folder holds; None before there is one.
    """

    label: str
    dataset: str
    seed: int
    state: str
    reason: str
    place: Path
    record: RunRecord | None


@dataclass(frozen=True)
class Contestant:
    """What the suite says of one row of its tables.

    Attributes:
        label: what tables call it.
        model: its name or reference.
        preset: `paper` or empty.
        settings: keys of its runs beside those of all runs.
        seeds: of its runs.
        datasets: that it runs on.
    """

    label: str
    model: str
    preset: str
    settings: Mapping[str, Any]
    seeds: Sequence[int]
    datasets: Sequence[str]


@dataclass(frozen=True)
class Trial:
    """A configuration that was tried.

    Attributes:
        values: its keys.
        score: on validation; None where it has none.
        state: finished, failed and so on, with the reason.
        best_epoch, epochs: of the best validation, and trained.
        seconds: that it took; None where that is not known.
        folder: of its run; None where it has none of its own.
        in_a_run: whether its time is, or is part of, that of a finished run of the tables.
    """

    values: Mapping[str, Any]
    score: float | None
    state: str
    best_epoch: int | None = None
    epochs: int = 0
    seconds: float | None = None
    folder: Path | None = None
    in_a_run: bool = False


@dataclass(frozen=True)
class SearchReport:
    """How the configuration of a model was chosen on validation.

    Attributes:
        label, dataset: of which model, on which data.
        asked: configurations that were to be tried.
        metric: they were compared by it; empty while that is not known.
        space: keys and what they were drawn from.
        trials: in order, the best first where they are ranked.
        chosen: keys and values; None before there is a choice.
        folder: of the search; None where it has none of its own, or not yet.
        failure: why the search as a whole failed; empty where it did not.
    """

    label: str
    dataset: str
    asked: int
    metric: str
    space: Mapping[str, Any]
    trials: Sequence[Trial]
    chosen: Mapping[str, Any] | None
    folder: Path | None = None
    failure: str = ""


@dataclass(frozen=True)
class SuiteReport:
    """All that a report says.

    Attributes:
        name, about: of the suite.
        text: its file.
        command: that makes it, or goes on with it.
        settings: keys of every run.
        datasets: in the suite's order.
        contestants: rows of its tables.
        runs: all planned runs.
        evaluations: the one of the training first.
        searches: for configurations, among candidates or in a space.
    """

    name: str
    about: str
    text: str
    command: str
    settings: Mapping[str, Any]
    datasets: Sequence[str]
    contestants: Sequence[Contestant]
    runs: Sequence[RunState]
    evaluations: Sequence[Evaluation]
    searches: Sequence[SearchReport] = field(default_factory=tuple)

    @property
    def labels(self) -> list[str]:
        """Of the rows, in the suite's order."""
        return list(dict.fromkeys(run.label for run in self.runs))
