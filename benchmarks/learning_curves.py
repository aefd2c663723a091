"""Validation metrics by epoch, as CSV and as pictures."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quality_runs import Run

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, told apart by everyone


def curves_as_csv(runs: Sequence[Run]) -> str:
    """Validation metrics of all runs, one line an epoch and run, in percent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = runs[0].columns.metrics
    writer.writerow(["run", "epoch", *names])
    for run in runs:
        for epoch, metrics in run.validation_curve():
            cells = [f"{metrics[name]:.4f}" if name in metrics else "" for name in names]
            writer.writerow([run.name, epoch, *cells])
    return stream.getvalue()


def digest(text: str) -> str:
    """What a figure carries to say which curves it shows."""
    return "curves sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def draw_curves(dataset: str, runs: Sequence[Run], mark: str, paths: Sequence[Path]) -> bool:
    """Draw validation metrics by epoch into each of `paths`; False where matplotlib is absent."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context({"svg.hashsalt": dataset, "font.size": 10, "svg.fonttype": "path"}):
        shown = runs[0].columns.curves
        figure, panels = pyplot.subplots(1, len(shown), figsize=(5.2 * len(shown), 3.6), layout="constrained")
        for panel, metric in zip(panels, shown):
            for index, run in enumerate(runs):
                points = [(epoch, row[metric]) for epoch, row in run.validation_curve() if metric in row]
                if points:
                    colour = COLOURS[index % len(COLOURS)]
                    style = ("-", "--", ":")[index // len(COLOURS) % 3]
                    panel.plot(
                        *zip(*points), style, label=run.label, color=colour, marker="o", markersize=2.5, linewidth=1.4
                    )
            panel.set_xlabel("epoch")
            panel.set_ylabel(f"{metric}, validation, percent")
            panel.set_xlim(left=0)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False, fontsize=9)
        figure.suptitle(dataset, fontsize=11)
        for path in paths:
            metadata: dict[str, Any] = {"Description": mark}
            if path.suffix == ".svg":
                metadata["Date"] = None
            figure.savefig(path, dpi=150, metadata=metadata)
        pyplot.close(figure)
    return True
