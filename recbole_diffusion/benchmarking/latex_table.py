"""A table as a LaTeX `table` with booktabs, its notes below it and its run folders in comments."""

from __future__ import annotations

from pathlib import Path

from recbole_diffusion.benchmarking.comparison import BETTER, WORSE
from recbole_diffusion.benchmarking.metric_names import printed_name
from recbole_diffusion.benchmarking.printed import NOTHING, figure, plain_name, published_lines, relative, seeds
from recbole_diffusion.benchmarking.tables import Cell, ResultTable

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    NOTHING: "--",
    BETTER: r"$^{\dagger}$",
    WORSE: r"$^{\ddagger}$",
}


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; other letters stay and need an engine or a package that has them."""
    return "".join(_LATEX.get(letter, letter) for letter in text)


def latex(table: ResultTable, folder: Path) -> str:
    r"""The table as a LaTeX `table` for a document with \usepackage{booktabs}; run folders as seen from `folder`."""
    names = [escape_latex(printed_name(metric)) for metric in table.metrics]
    published = published_lines(table)
    lines = []
    for row in table.rows:
        lines.append([escape_latex(row.label), seeds(row), *(_latex_cell(row.cells[m], table) for m in table.metrics)])
        for name, cells in published.get(row.label, ()):
            lines.append([rf"\quad {escape_latex(name)}", "", *map(escape_latex, cells)])
    runs = [
        f"% {row.label}, {'unfinished, ' if not run.finished else ''}seed {run.seed}: {relative(run, folder)}"
        for row in table.rows
        for run in (*row.runs, *row.unfinished)
    ]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.title)}}}",
            rf"\label{{tab:{plain_name('-'.join(filter(None, [table.name, table.evaluation])))}}}",
            rf"\begin{{tabular}}{{l{'r' * (1 + len(names))}}}",
            r"\toprule",
            " & ".join(["model", "seeds", *names]) + r" \\",
            r"\midrule",
            *(" & ".join(line) + r" \\" for line in lines),
            r"\bottomrule",
            r"\end{tabular}",
            "",
            r"\footnotesize",
            *(escape_latex(note) + r"\par" for note in table.notes),
            r"\end{table}",
            *runs,
            "",
        ]
    )


def _latex_cell(cell: Cell, table: ResultTable) -> str:
    text = escape_latex(figure(cell, table.decimals))
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.place, text)
    return text + escape_latex(cell.tested.mark if cell.tested else "")
