"""A table as a Markdown page: the table, what is to be said of it, its tests and its runs.

Every figure links to the run folder that it comes from, or where it is a mean over several to the list of them below;
links are relative to the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from recbole_diffusion.benchmarking.metric_names import printed_name
from recbole_diffusion.benchmarking.printed import (
    NOTHING,
    columns_of_tests,
    figure,
    file_name,
    lines_of_tests,
    number,
    of_run,
    published_lines,
    relative,
    seeds,
)
from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.tables import Cell, ResultTable


def markdown(table: ResultTable, folder: Path) -> str:
    """The table, its tests and its runs as a Markdown page that lies in `folder`."""
    names = [printed_name(metric) for metric in table.metrics]
    rows: list[list[str]] = []
    published = published_lines(table)
    for place, row in enumerate(table.rows, start=1):
        link = relative_link(row.runs[0], folder) if len(row.runs) == 1 else f"#{_anchor(table, place)}"
        cells = [_linked(row.cells[metric], link, table.decimals) for metric in table.metrics]
        rows.append([row.label, seeds(row), *cells])
        rows += [[name, "", *cells] for name, cells in published.get(row.label, ())]
    parts = [f"# {table.title}\n", _pipes(["model", "seeds", *names], rows)]
    parts += [f"{note}\n" for note in table.notes]
    tests = lines_of_tests(table)
    if tests:
        parts += ["## Tests\n", _pipes(columns_of_tests(table), tests)]
    header = ["model", "seed", *names, "epochs", "seconds", "device", "code"]
    parts += ["## Runs\n", _pipes(header, _run_lines(table, folder))]
    return "\n".join(parts)


def relative_link(run: RunRecord, folder: Path) -> str:
    """A run's folder as the address of a Markdown link in a file of `folder`."""
    return quote(relative(run, folder))


def _anchor(table: ResultTable, place: int) -> str:
    return f"{file_name(table)}-{place}".lower()


def _linked(cell: Cell, link: str, decimals: int) -> str:
    if cell.summary is None:
        return NOTHING
    text = f"[{figure(cell, decimals)}]({link})"
    text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(cell.place, text)
    return text + (cell.tested.mark if cell.tested else "")


def _pipes(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _run_lines(table: ResultTable, folder: Path) -> list[list[str]]:
    lines = []
    for place, row in enumerate(table.rows, start=1):
        anchor = f'<a id="{_anchor(table, place)}"></a>'
        for run in (*row.runs, *row.unfinished):
            seed = "run" if run.seed is None else str(run.seed)
            lines.append(
                [
                    anchor + row.label,
                    f"[{seed}]({relative_link(run, folder)})",
                    *(of_run(run, metric, table.decimals) for metric in table.metrics),
                    str(run.epochs) if run.finished else f"{run.epochs}, unfinished",
                    number(run.seconds, 0),
                    run.device or NOTHING,
                    run.code_version or NOTHING,
                ]
            )
            anchor = ""
    return lines
