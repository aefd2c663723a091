"""Each named term of the training loss over epochs, of several runs (DimeRec, Figure 4).

Terms are as they enter the loss, weights included, means over an epoch's batches (`train_<term>` of metrics.csv). A
panel holds one term of all runs, since terms differ by orders of magnitude: whether one rises while the others fall,
as DimeRec's reconstruction is said to do without the geodesic walk, is read off one line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.analyses.training_curves import (
    TRAIN,
    TrainingCurve,
    by_label,
    columns_of,
    draw_curves,
    mean_curve,
    plain,
    read_curves,
)
from recbole_diffusion.pictures import legend_below, log_ticks, new_figure, save

LOSS = "train_loss"
_LOG_FROM = 20.0  # of the largest over the smallest value


def analyse(request: Request) -> Findings:
    """Draw the terms of the training loss of `runs` or a `suite` over epochs.

    Raises:
        UserError: no runs.
    """
    texts, files = [], []
    tables = read_curves(request)
    for table, curves in tables.items():
        stem = "loss_terms" if len(tables) == 1 else f"loss_terms_{table}"
        groups, terms = by_label(curves), _terms(curves)
        columns = 2 if len(terms) == 4 else min(len(terms), 3)
        figure, panels = new_figure(columns, -(-len(terms) // columns))
        for panel in panels[len(terms) :]:
            panel.remove()
        for panel, term in zip(panels, terms, strict=False):
            draw_curves(panel, groups, term)
            panel.set_title(_word(term), fontsize=10)
            values = [value for curve in curves if term in curve.epochs for value in curve.epochs[term].dropna()]
            if min(values) > 0 and max(values) / min(values) > _LOG_FROM:
                panel.set_yscale("log")
                log_ticks(panel.yaxis)
        panels[0].set_ylabel("training loss, weighted")
        legend_below(figure, panels[: len(terms)])
        figure.suptitle(table, fontsize=11)
        files += save(figure, request.output / stem, about=f"terms of the training loss on {table}")
        rows = [
            [curve.label, curve.run.seed, epoch, _word(term), plain(value)]
            for curve in curves
            for term in terms
            if term in curve.epochs
            for epoch, value in curve.epochs[term].dropna().items()
        ]
        files.append(request.write_csv(f"{stem}.csv", ["run", "seed", "epoch", "term", "value"], rows))
        texts.append(f"{table}, training loss, weights included\n{_summary(groups, terms)}")
    return Findings("\n\n".join(texts), files)


def _terms(curves: Sequence[TrainingCurve]) -> list[str]:
    """Columns of the loss and of its terms; the whole loss alone where no run names more than one term."""
    named = columns_of(curves, lambda name: name.startswith(TRAIN) and name not in (LOSS, "train_seconds"))
    several = any(sum(term in curve.epochs for term in named) > 1 for curve in curves)
    return [LOSS, *named] if several else named or [LOSS]


def _word(term: str) -> str:
    return "whole loss" if term == LOSS else term.removeprefix(TRAIN)


def _summary(groups: Mapping[str, Sequence[TrainingCurve]], terms: Sequence[str]) -> str:
    """Where each term began, was lowest and ended; means over seeds."""
    rows = []
    for term in terms:
        for label, seeds in groups.items():
            means = mean_curve(seeds, term)["mean"]
            if len(means):
                lowest, last = means.min(), means.iloc[-1]
                rise = f"{100 * (last / lowest - 1):+.1f} %" if lowest > 0 else ""
                cells = [f"{means.iloc[0]:.5g}", f"{lowest:.5g}", f"{means.idxmin():g}", f"{last:.5g}", rise]
                rows.append([_word(term), label, *cells])
    return text_table(["term", "", "first epoch", "lowest", "at epoch", "last epoch", "last over lowest"], rows)
