"""Tables as a page shows them: figures of `benchmarking.tables` as they are printed, and the values they sort by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from recbole_diffusion.benchmarking.comparison import BETTER, WORSE
from recbole_diffusion.benchmarking.metric_names import bigger_is_better, factor, printed_name, unit
from recbole_diffusion.benchmarking.printed import NOTHING, figure, file_name, of_run, published_lines, relative, seeds
from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.table_files import FORMATS
from recbole_diffusion.benchmarking.tables import Cell, ResultTable

MEANING = {BETTER: "significantly better", WORSE: "significantly worse"}


@dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
        name: as printed.
        unit: % or nothing.
        descending: whether sorting begins with the largest.
    """

    name: str
    unit: str = ""
    descending: bool = True


@dataclass(frozen=True)
class Figure:
    """A cell: what is printed, and what it sorts by.

    Attributes:
        text: the mean, or a dash.
        spread: the deviation with its sign; empty where there is none.
        value: to sort by; empty where there is none.
        place: 1 for the best of its column, 2 for the second, 0 for others.
        mark: of significance.
        meaning: of the mark, in words.
    """

    text: str
    spread: str = ""
    value: str = ""
    place: int = 0
    mark: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Source:
    """A run that a row's figures come from: its seed, what it contributes, and the address of its folder."""

    seed: str
    figures: Sequence[Figure]
    folder: str


@dataclass(frozen=True)
class Line:
    """A row.

    Attributes:
        label: what it is called.
        seeds, number: of how many runs, in words and to sort by.
        figures: its cells.
        below: the lines of printed figures below it.
        sources: the runs that it is made of.
        anchor: what the list of them is called on the page.
    """

    label: str
    seeds: str
    number: int
    figures: Sequence[Figure]
    below: Sequence[tuple[str, Sequence[str]]] = field(default_factory=tuple)
    sources: Sequence[Source] = ()
    anchor: str = ""

    @property
    def link(self) -> str:
        """Where its figures come from: the folder of its only run, or the list of its runs."""
        return self.sources[0].folder if len(self.sources) == 1 else f"#{self.anchor}"


def columns(table: ResultTable) -> list[Column]:
    """A column a metric."""
    return [
        Column(printed_name(metric), "%" if unit(metric) else "", bigger_is_better(metric)) for metric in table.metrics
    ]


def result_lines(table: ResultTable, folder: Path, anchor: str) -> list[Line]:
    """The rows of a table.

    Args:
        table: the table.
        folder: of the page.
        anchor: what the table is called on it.
    """
    published = published_lines(table)
    return [
        Line(
            row.label,
            seeds(row),
            len(row.runs),
            [_figure(row.cells[metric], table.decimals) for metric in table.metrics],
            published.get(row.label, ()),
            [
                Source(
                    NOTHING if run.seed is None else str(run.seed),
                    [run_figure(run, metric, table.decimals) for metric in table.metrics],
                    quote(relative(run, folder)) + "/",
                )
                for run in row.runs
            ],
            f"{anchor}-{number}",
        )
        for number, row in enumerate(table.rows, start=1)
    ]


def run_figure(run: RunRecord | None, metric: str, decimals: int) -> Figure:
    """A run's own figure; a dash where it has none."""
    if run is None or metric not in run.test:
        return Figure(NOTHING)
    return Figure(of_run(run, metric, decimals), value=repr(factor(metric) * run.test[metric]))


def _figure(cell: Cell, decimals: int) -> Figure:
    text, sign, spread = figure(cell, decimals).partition(" ± ")
    if cell.summary is None:
        return Figure(text)
    mark = cell.tested.mark if cell.tested else ""
    return Figure(text, f"± {spread}" if sign else "", repr(cell.summary.mean), cell.place, mark, MEANING.get(mark, ""))


def table_files(table: ResultTable, place: Path, page: Path) -> list[tuple[str, str]]:
    """The files of a table as names and links from the page's folder."""
    stem = (place / file_name(table)).relative_to(page).as_posix()
    return [(word, quote(stem + suffix)) for word, suffix in FORMATS.items()]
