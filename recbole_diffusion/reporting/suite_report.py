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
class SearchReport:
    """A search for a configuration on validation.

    Attributes:
        label, dataset: of which model, on which data.
        asked: configurations that were to be tried.
        folder: of the sweep; None before it has one.
        facts: its tune_result.json; None before it is finished.
    """

    label: str
    dataset: str
    asked: int
    folder: Path | None
    facts: Mapping[str, Any] | None


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
        searches: for configurations.
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
