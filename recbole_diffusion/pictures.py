"""Pictures that print well: one style for everything that is drawn, as PNG and as SVG. Needs matplotlib.

Colours are Okabe and Ito's, which everyone tells apart, and lines differ in their dashes too, so that a page printed in
grey is still read. A picture is the same file, byte for byte, when it is drawn again from the same numbers.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#BBBBBB"  # what others are compared with
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "//", "..", "\\\\", "xx", "--")
MARKERS = ("o", "s", "^", "D", "v", "P")
_STYLE: Any = {"font.size": 10, "svg.fonttype": "path", "axes.spines.top": False, "axes.spines.right": False}


def check_matplotlib() -> None:
    """Refuse, before any work, what would end without a picture.

    Raises:
        UserError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError("pictures need matplotlib: pip install 'recbole-diffusion[plots]'")


def new_figure(columns: int = 1, rows: int = 1, *, width: float = 4.6, height: float = 3.4) -> tuple[Any, list[Any]]:
    """A figure of its own canvas, which needs no display and no global state, and its panels, row by row.

    Args:
        columns, rows: of panels.
        width, height: of a panel, in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        FigureCanvasAgg(figure)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.set_axisbelow(True)
    return figure, panels


def line_style(index: int) -> dict[str, Any]:
    """Colour, dashes and marker of the index-th line of a panel."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[(index // len(COLOURS) + index) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.4,
    }


def bar_style(index: int) -> dict[str, Any]:
    """Colour and hatching of the index-th kind of bars of a panel."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "hatch": HATCHES[(index // len(COLOURS) + index) % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0,
    }


def error_bars(lengths: Sequence[float | None]) -> list[float] | None:
    """`yerr` of matplotlib's `errorbar`: no bar, not one of length 0, where nothing was measured.

    Args:
        lengths: of each point's bar to either side; None where there is none.
    """
    if all(length is None for length in lengths):
        return None  # and none in the legend
    return [math.nan if length is None else length for length in lengths]


def over_counts(panels: Sequence[Any], used: int, counts: Sequence[int], label: str) -> None:
    """Draw the first panels over counts that double, each with its tick, and hide the rest.

    Args:
        panels: of `new_figure`.
        used: how many of them something is drawn in.
        counts: what is drawn at, ascending.
        label: of the axis.
    """
    for panel in panels[:used]:
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.set_xlabel(label)
    for panel in panels[used:]:
        panel.set_visible(False)


def legend_below(figure: Any, panels: Sequence[Any]) -> None:
    """One legend for all panels, below them, where it hides nothing; lines of one name stand in it once."""
    named: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    longest = max(map(len, named), default=1)
    across = max(int(figure.get_size_inches()[0] * 13 / (longest + 8)), 1)
    figure.legend(
        list(named.values()), list(named), loc="outside lower center", ncols=across, frameon=False, fontsize=8,
        handlelength=3.5,
    )  # fmt: skip


def log_ticks(axis: Any) -> None:
    """Numbers of a logarithmic axis in full, 0.2 and not 2e-1; some between powers of ten where there is room."""
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        def _num_to_string(self, x: float, vmin: float, vmax: float) -> str:
            return f"{x:g}"

    axis.set_major_formatter(Plain())
    axis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def save(figure: Any, stem: Path, *, about: str = "") -> list[Path]:
    """Write `<stem>.png` and `<stem>.svg`; the files.

    Args:
        figure: of `new_figure`.
        stem: path without suffix; its folder is made.
        about: kept in the files' metadata.
    """
    import matplotlib

    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": stem.name}):
        for file in files:
            part = file.with_name(f".{file.name}.part")
            metadata = {"Description": about, **({"Date": None} if file.suffix == ".svg" else {"Software": None})}
            try:
                figure.savefig(part, format=file.suffix[1:], dpi=200, metadata=metadata)
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)
    return files
