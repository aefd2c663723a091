"""Runs as tables: one a dataset and protocol, a row a label, a column a metric.

A cell is the mean over the seeds of a row and their sample standard deviation. With a `Comparison` every row is tested
against a named reference, or against the best of some baselines, over users; what the runs of a table differ in is
said below it or refused (`comparability`). Figures are in percent where they are shares. The tables are plain values;
`table_files` writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from recbole_diffusion.benchmarking.comparability import check_allowed, check_seeds, check_table, notes_of
from recbole_diffusion.benchmarking.comparison import Compared, Comparison, Place, Tested, compare_rows
from recbole_diffusion.benchmarking.metric_names import (
    bigger_is_better,
    factor,
    in_order,
    metric_key,
    printed_name,
    unit,
)
from recbole_diffusion.benchmarking.published import Published, table_name
from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.statistics import Interval, Summary, summarise
from recbole_diffusion.errors import UserError


@dataclass(frozen=True)
class Cell:
    """One metric of one row, in the table's unit.

    Attributes:
        summary: over seeds; None where no finished run has the metric.
        place: 1 for the best of a column, 2 for the second, 0 for others; by the figures as printed.
        interval: of the mean over users; None where rows were not read.
        tested: against the reference; None where it was not.
    """

    summary: Summary | None = None
    place: int = 0
    interval: Interval | None = None
    tested: Tested | None = None


@dataclass(frozen=True)
class Row:
    """The runs of one label.

    Attributes:
        label: what it is called.
        runs: finished, in the order given.
        unfinished: not in the figures.
        cells: metric -> cell.
        published: sources that printed figures of this model for this dataset and protocol, and the figures.
    """

    label: str
    runs: tuple[RunRecord, ...]
    unfinished: tuple[RunRecord, ...]
    cells: Mapping[str, Cell] = field(default_factory=dict)
    published: tuple[tuple[Published, Mapping[str, float]], ...] = ()

    @property
    def model(self) -> str:
        """The model's name."""
        return (*self.runs, *self.unfinished)[0].model

    @property
    def published_as(self) -> str:
        """The model's name in published tables."""
        return (*self.runs, *self.unfinished)[0].published_as


@dataclass(frozen=True)
class ResultTable:
    """The runs on one dataset by one protocol.

    Attributes:
        dataset, protocol: which.
        metrics: columns, as results name them.
        rows: in the order in which their labels came.
        comparison: how rows were tested; None where they were not.
        notes: what a reader must know, one sentence or two each.
        decimals: of printed figures.
        evaluation: what a further evaluation of the runs' checkpoints is called; empty for that of the training.
    """

    dataset: str
    protocol: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    comparison: Comparison | None
    notes: tuple[str, ...]
    decimals: int
    evaluation: str = ""

    @property
    def title(self) -> str:
        """Dataset, protocol, and the evaluation where it is a further one."""
        return ", ".join(filter(None, [self.dataset, self.protocol, self.evaluation]))

    @property
    def name(self) -> str:
        """What files of it are called, without suffix."""
        return table_name(self.dataset, self.protocol)


def build_tables(
    runs: Sequence[RunRecord],
    *,
    metrics: Sequence[str] | None = None,
    comparison: Comparison | None = None,
    published: Sequence[Published] = (),
    allow: Collection[str] = (),
    decimals: int = 2,
) -> list[ResultTable]:
    """Tables of runs, in the order in which their datasets and protocols come.

    Args:
        runs: finished or not. Those of one label are seeds of one row.
        metrics: columns, in any spelling (HR@10, hit@10); None for all that the results have.
        comparison: what rows are tested against; None reads no row-by-row results.
        published: printed figures to stand beside ours.
        allow: what may differ within a table although it makes its figures no comparison: data, protocol, settings.
        decimals: of printed figures.

    Raises:
        UserError: runs that must not be compared (see `allow`), a metric or label that no run has, row-by-row
            results that are not of the same test.
    """
    check_allowed(allow)
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.protocol), []).append(run)
    present = in_order(name for run in runs for name in run.test)
    asked = present if metrics is None else list(dict.fromkeys(map(metric_key, metrics)))
    for name in asked:
        if present and name not in present:
            raise UserError(f"metrics: {printed_name(name)} is in no result; allowed: {_names(present)}")
    labels = list(dict.fromkeys(run.label for run in runs))
    for label in comparison.references if comparison else ():
        if label not in labels:
            raise UserError(f"reference: no run is called {label!r}; allowed: {', '.join(labels)}")
    return [_table(members, asked, comparison, published, allow, decimals) for members in groups.values()]


def _table(
    runs: Sequence[RunRecord],
    asked: Sequence[str],
    comparison: Comparison | None,
    published: Sequence[Published],
    allow: Collection[str],
    decimals: int,
) -> ResultTable:
    """The table of the runs on one dataset by one protocol."""
    dataset, protocol = runs[0].dataset, runs[0].protocol
    finished = [run for run in runs if run.finished]
    notes = check_table(finished, allow)
    metrics = tuple(name for name in asked if any(name in run.test for run in finished))
    rows = []
    for label in dict.fromkeys(run.label for run in runs):
        done = tuple(run for run in finished if run.label == label)
        notes += check_seeds(label, done, allow)
        seeds = {run.seed for run in done if run.seed is not None}
        waiting = (run for run in runs if run.label == label and not run.finished and run.seed not in seeds)
        rows.append(Row(label, done, tuple(waiting)))
    summaries = _summaries(metrics, rows)
    places = {metric: _places(metric, summaries, decimals) for metric in metrics}
    compared = Compared({}, {}, [])
    if comparison:
        means = {place: summary.mean for place, summary in summaries.items()}
        compared = compare_rows({row.label: row.runs for row in rows}, means, comparison)
    cells = {
        place: Cell(
            summaries.get(place),
            places[place[1]].get(place[0], 0),
            compared.intervals.get(place),
            compared.tested.get(place),
        )
        for place in ((row.label, metric) for row in rows for metric in metrics)
    }
    table = table_name(dataset, protocol)
    whole = tuple(
        Row(
            row.label,
            row.runs,
            row.unfinished,
            {metric: cells[row.label, metric] for metric in metrics},
            tuple((source, figures) for source in published if (figures := source.of(table, row.published_as))),
        )
        for row in rows
    )
    sources = dict.fromkeys(
        f"{source.short}: {source.source}{f' ({source.protocol})' if source.protocol else ''}."
        for row in whole
        for source, _ in row.published
    )
    beside = notes_of({row.label: (row.runs, row.unfinished) for row in rows})
    notes = [_what_is_shown(metrics, rows), *compared.notes, *notes, *beside, *sources]
    return ResultTable(dataset, protocol, metrics, whole, comparison, tuple(notes), decimals)


def _summaries(metrics: Sequence[str], rows: Sequence[Row]) -> dict[Place, Summary]:
    """Mean and deviation of every cell that has a finished run, in the table's unit; metrics vary slowest."""
    values = {
        (row.label, metric): [factor(metric) * run.test[metric] for run in row.runs if metric in run.test]
        for metric in metrics
        for row in rows
    }
    return {place: summarise(of_seeds) for place, of_seeds in values.items() if of_seeds}


def _places(metric: str, summaries: Mapping[Place, Summary], decimals: int) -> dict[str, int]:
    """Label -> 1 for the best of a column, 2 for the second, by the figures as printed: equal ones are alike."""
    printed = {label: round(summary.mean, decimals) for (label, name), summary in summaries.items() if name == metric}
    if len(printed) < 2:
        return {}
    best = sorted(set(printed.values()), reverse=bigger_is_better(metric))[:2]
    return {label: 1 + best.index(value) for label, value in printed.items() if value in best}


def _what_is_shown(metrics: Sequence[str], rows: Sequence[Row]) -> str:
    """The first line below a table."""
    others = [name for name in metrics if not unit(name)]
    smaller = [name for name in metrics if not bigger_is_better(name)]
    several = any(len(row.runs) > 1 for row in rows)
    return (
        "Test metrics in percent"
        + (f" ({_names(others)} in their own unit)" if others else "")
        + (", mean ± sample standard deviation over seeds" if several else ", one seed each")
        + "; best bold, second underlined"
        + (f" (the smaller the better: {_names(smaller)})" if smaller else "")
        + "."
    )


def _names(metrics: Sequence[str]) -> str:
    return ", ".join(map(printed_name, metrics))
