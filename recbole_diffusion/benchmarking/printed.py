"""What every page of a table prints alike: figures, lines of published figures, tests, folders."""

from __future__ import annotations

import os
from pathlib import Path

from recbole_diffusion.benchmarking.metric_names import factor, printed_name
from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.tables import Cell, ResultTable, Row

NOTHING = "–"


def relative(run: RunRecord, folder: Path) -> str:
    """A run's folder as seen from the folder of a file, with forward slashes."""
    return Path(os.path.relpath(run.folder.resolve(), folder.resolve())).as_posix()


def file_name(table: ResultTable) -> str:
    """What files of a table are called, without suffix."""
    return plain_name(table.name)


def plain_name(name: str) -> str:
    """A name in letters that every file system has."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)


def seeds(row: Row) -> str:
    """How many runs are in the figures, of how many."""
    total = len(row.runs) + len(row.unfinished)
    return f"{len(row.runs)} of {total}" if row.unfinished else str(total)


def number(value: float | None, decimals: int, sign: str = "") -> str:
    """A number, a dash for None; `sign` "+" shows a plus."""
    return NOTHING if value is None else f"{value:{sign}.{decimals}f}"


def figure(cell: Cell, decimals: int) -> str:
    """Mean and deviation over seeds, a dash for a cell without."""
    summary = cell.summary
    if summary is None:
        return NOTHING
    spread = "" if summary.deviation is None else f" ± {summary.deviation:.{decimals}f}"
    return f"{summary.mean:.{decimals}f}{spread}"


def published_lines(table: ResultTable) -> dict[str, list[tuple[str, list[str]]]]:
    """Label -> lines below its row: the printed figures, once for each model and source, and the difference to them."""
    lines: dict[str, list[tuple[str, list[str]]]] = {}
    shown: set[tuple[str, str]] = set()
    for row in table.rows:
        for source, figures in row.published:
            if not any(metric in figures for metric in table.metrics):
                continue
            below = lines.setdefault(row.label, [])
            if (source.short, row.published_as) not in shown:
                shown.add((source.short, row.published_as))
                printed = [number(figures.get(metric), table.decimals) for metric in table.metrics]
                below.append((f"{row.published_as} in the {source.short}", printed))
            if row.runs:
                away = [
                    number(_less(row.cells[metric], figures.get(metric)), table.decimals, "+")
                    for metric in table.metrics
                ]
                below.append((f"difference to the {source.short}", away))
    return lines


def _less(cell: Cell, printed: float | None) -> float | None:
    return None if cell.summary is None or printed is None else cell.summary.mean - printed


def columns_of_tests(table: ResultTable) -> list[str]:
    """The columns of `lines_of_tests`."""
    level = f"{100 * table.comparison.level:g} %" if table.comparison else ""
    return ["model", "metric", "reference", "difference", f"{level} interval", "p", "corrected p", "users"]


def lines_of_tests(table: ResultTable) -> list[list[str]]:
    """Every test of a table, a line a row and metric."""
    lines = []
    for row in table.rows:
        for metric in table.metrics:
            tested = row.cells[metric].tested
            if tested is None:
                continue
            ends = tested.interval
            lines.append(
                [
                    row.label,
                    printed_name(metric),
                    tested.reference,
                    number(tested.result.difference, table.decimals, "+") + tested.mark,
                    f"{ends.low:+.{table.decimals}f} to {ends.high:+.{table.decimals}f}" if ends else NOTHING,
                    p_value(tested.result.p_value),
                    p_value(tested.p_corrected),
                    f"{tested.result.users:,}",
                ]
            )
    return lines


def of_run(run: RunRecord, metric: str, decimals: int) -> str:
    """A metric of one run, in the table's unit."""
    return number(factor(metric) * run.test[metric] if metric in run.test else None, decimals)


def exact_p_value(value: float | None) -> str:
    """A p-value to two digits, however small; what is below the smallest numbers of a computer is not 0."""
    return NOTHING if value is None else "<1e-300" if value < 1e-300 else f"{value:.2g}"


def p_value(value: float | None) -> str:
    """A p-value to four places."""
    return NOTHING if value is None else "<0.0001" if value < 0.0001 else f"{value:.4f}"
