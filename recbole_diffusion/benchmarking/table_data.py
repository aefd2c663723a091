"""Tables to compute with: CSV, a line a row of the table, and parquet, a line a row and metric.

The columns of the latter; values are in the table's unit, folders relative to the file:

    dataset, protocol, evaluation, label, model, metric, unit, mean, std, n
    low, high, level                           bootstrap interval of the mean over users
    reference, difference, difference_low, difference_high, users, test, p_value, p_corrected, correction, mark
    published, published_source                the first source's figure
    seeds, unfinished_seeds, folders           lists
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_diffusion.benchmarking.metric_names import printed_name, unit
from recbole_diffusion.benchmarking.printed import relative
from recbole_diffusion.benchmarking.tables import ResultTable, Row

if TYPE_CHECKING:
    import pyarrow


def wide_csv(table: ResultTable, folder: Path) -> str:
    """A line a row: for each metric mean, deviation, corrected p, and the printed figure where a paper has one."""
    lines: list[dict[str, Any]] = []
    for row in table.rows:
        line: dict[str, Any] = {"model": row.label, "seeds": len(row.runs), "unfinished": len(row.unfinished)}
        for metric in table.metrics:
            name, cell = printed_name(metric), row.cells[metric]
            printed = (figures[metric] for _, figures in row.published if metric in figures)
            line[name] = cell.summary.mean if cell.summary else None
            line[f"{name} std"] = cell.summary.deviation if cell.summary else None
            line[f"{name} corrected p"] = cell.tested.p_corrected if cell.tested else None
            line[f"{name} published"] = next(printed, None)
        line["folders"] = ";".join(relative(run, folder) for run in row.runs)
        lines.append(line)
    columns = [name for name in lines[0] if " " not in name or any(line[name] is not None for line in lines)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow([_plain(line[column]) for column in columns])
    return stream.getvalue()


def _plain(value: Any) -> Any:
    """A figure with the six digits that results have, and no more."""
    return f"{value:.6g}" if isinstance(value, float) else value


def long_table(tables: Sequence[ResultTable], folder: Path) -> pyarrow.Table:
    """Every figure of some tables, one a line, with the columns named at the top of this module."""
    import pyarrow

    word, real, whole = pyarrow.string(), pyarrow.float64(), pyarrow.int64()
    kinds = {
        "dataset protocol evaluation label model metric unit": word,
        "mean std": real,
        "n": whole,
        "low high level": real,
        "reference": word,
        "difference difference_low difference_high": real,
        "users": whole,
        "test": word,
        "p_value p_corrected": real,
        "correction mark": word,
        "published": real,
        "published_source": word,
        "seeds unfinished_seeds": pyarrow.list_(whole),
        "folders": pyarrow.list_(word),
    }
    schema = pyarrow.schema([(name, kind) for names, kind in kinds.items() for name in names.split()])
    lines = []
    for table in tables:
        for row in table.rows:
            folders = {id(run): relative(run, folder) for run in row.runs}
            lines += [_long(table, row, metric, folders) for metric in table.metrics]
    return pyarrow.Table.from_pylist(lines, schema=schema)


def _long(table: ResultTable, row: Row, metric: str, folders: Mapping[int, str]) -> dict[str, Any]:
    cell = row.cells[metric]
    runs = [run for run in row.runs if metric in run.test]
    line: dict[str, Any] = {
        "dataset": table.dataset,
        "protocol": table.protocol,
        "evaluation": table.evaluation,
        "label": row.label,
        "model": row.model,
        "metric": metric,
        "unit": unit(metric),
        "n": len(runs),
        "seeds": [run.seed for run in runs],
        "unfinished_seeds": [run.seed for run in row.unfinished],
        "folders": [folders[id(run)] for run in runs],
    }
    if cell.summary:
        line.update(mean=cell.summary.mean, std=cell.summary.deviation)
    if cell.interval and table.comparison:
        line.update(low=cell.interval.low, high=cell.interval.high, level=table.comparison.level)
    if cell.tested and table.comparison:
        result, ends = cell.tested.result, cell.tested.interval
        line.update(
            reference=cell.tested.reference,
            difference=result.difference,
            difference_low=ends.low if ends else None,
            difference_high=ends.high if ends else None,
            users=result.users,
            test=result.test,
            p_value=result.p_value,
            p_corrected=cell.tested.p_corrected,
            correction=table.comparison.correction,
            mark=cell.tested.mark,
        )
    for source, figures in row.published:
        if metric in figures:
            line.update(published=figures[metric], published_source=source.short)
            break
    return line
