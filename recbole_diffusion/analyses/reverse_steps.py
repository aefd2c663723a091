"""Accuracy and time against the number of reverse steps of a trained model (DiffuRec, Figures 5 and 6; DimeRec, 5).

A chain of n steps instead of T is had in two ways:

    strided          n slots evenly spaced from T - 1 to 0, as `reverse_steps: n` (DDIM's sub-grids)
    cut, state       the first n steps of all T, then ranked by the vector x_t that the chain has reached
    cut, prediction  the same, ranked by the prediction x_0_hat of the last of these steps

The cut ones are the keys `intermediate_steps` and `intermediate_result`, which DimeRec has. The papers' figures train
DiffuRec anew for each T; here one trained model is ranked with fewer steps, which is what a deployed model can choose.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from recbole_diffusion.analyses.finished_run import FinishedRun, metrics_at, open_run, shown_cutoff
from recbole_diffusion.analyses.progress import Progress
from recbole_diffusion.analyses.ranking_time import RankingTime, time_ranking
from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.analyses.user_intervals import interval_columns, metric_cells
from recbole_diffusion.benchmarking.metric_names import printed_name
from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import line_style, new_figure, over_counts, save

logger = logging.getLogger(__name__)

STRIDED, CUT_STATE, CUT_PREDICTION = "strided", "cut, state", "cut, prediction"


@dataclass(frozen=True)
class Point:
    """One chain: how it is shortened, its steps, its metrics with their intervals, and its time."""

    chain: str
    steps: int
    cells: list[float | None]
    time: RankingTime


def analyse(request: Request) -> Findings:
    """Rank a run's test rows with several numbers of reverse steps.

    Raises:
        UserError: a model without a reverse chain, a number of steps that it does not have.
    """
    run = open_run(request, samples_for="reverse_steps")
    num_steps = _num_steps(run.config)
    grid = sorted(set(request.wholes("steps", default_grid(num_steps), most=num_steps)))
    cutoff = shown_cutoff(request, run.config)
    users = request.whole("timed_users", 256)
    rounds = request.whole("rounds", 5)
    chains = [STRIDED, *([CUT_STATE, CUT_PREDICTION] if "intermediate_steps" in run.config else [])]
    progress = Progress(len(grid) * len(chains))
    points: list[Point] = []
    metrics: list[str] = []
    for chain in chains:
        for steps in grid:
            whole = next((point for point in points if steps == point.steps == num_steps), None)
            if whole is not None:  # the whole chain, whichever way it is not shortened
                points.append(Point(chain, steps, whole.cells, whole.time))
            else:
                run.session.rebuild(chain_keys(chain, steps, run.config))
                result, rows = run.evaluate()
                metrics = list(result)
                time = time_ranking(run, users, rounds)
                points.append(Point(chain, steps, metric_cells(metrics, result, rows), time))
            value = points[-1].cells[0]
            progress.step(f"{chain}, {steps} steps: {metrics[0]} {value:.4f}")
    header = ["chain", "steps", *interval_columns(metrics), *RankingTime.COLUMNS]
    table = [[point.chain, point.steps, *point.cells, *point.time.cells()] for point in points]
    shown = metrics_at(metrics, cutoff)
    return Findings(
        _text(run, points, metrics, shown),
        [*_draw(request, run, points, metrics, shown), request.write_csv("reverse_steps.csv", header, table)],
    )


def _num_steps(config: RunConfig) -> int:
    """T.

    Raises:
        UserError: the model does not read the keys of a chain.
    """
    for key in ("num_steps", "reverse_steps"):
        if key not in config:
            raise UserError(f"reverse_steps: {config['model']} has no key {key}, so its chain has one length only")
    return int(config["num_steps"])


def default_grid(num_steps: int) -> list[int]:
    """The powers of two below T, and T."""
    return [*(2**power for power in range(num_steps.bit_length()) if 2**power < num_steps), num_steps]


def chain_keys(chain: str, steps: int, config: RunConfig) -> dict[str, Any]:
    """The keys of a chain that is shortened in this way."""
    if chain == STRIDED:
        return {"reverse_steps": steps, **({"intermediate_steps": None} if "intermediate_steps" in config else {})}
    result = "state" if chain == CUT_STATE else "prediction"
    return {"reverse_steps": None, "intermediate_steps": steps, "intermediate_result": result}


def _text(run: FinishedRun, points: list[Point], metrics: list[str], shown: list[str]) -> str:
    header = ["chain", "steps", *map(printed_name, shown), "ms a user"]
    rows = [
        [point.chain, point.steps, *(point.cells[3 * metrics.index(name)] for name in shown), point.time.ranking.median]
        for point in points
    ]
    time = points[0].time
    title = f"{run.config['model']} on {run.config['dataset']}, {run.split} rows"
    timed = f"time: median of {time.rounds} rounds of {time.users} users on {time.device}"
    return "\n".join([title, text_table(header, rows), timed])


def _draw(request: Request, run: FinishedRun, points: list[Point], metrics: list[str], shown: list[str]) -> list[Any]:
    chains = list(dict.fromkeys(point.chain for point in points))
    columns = min(3, len(shown) + 1)
    figure, panels = new_figure(columns, -(-(len(shown) + 1) // columns))
    for number, chain in enumerate(chains):
        own = [point for point in points if point.chain == chain]
        steps = [point.steps for point in own]
        for panel, name in zip(panels, shown, strict=False):
            place = 3 * metrics.index(name)
            panel.plot(steps, [point.cells[place] for point in own], label=chain, **line_style(number))
            interval = [(point.cells[place + 1], point.cells[place + 2]) for point in own]
            if all(low is not None for low, _ in interval):
                lows, highs = zip(*interval, strict=True)
                panel.fill_between(steps, lows, highs, color=line_style(number)["color"], alpha=0.15, linewidth=0)
            panel.set_ylabel(printed_name(name))
        times = [point.time.ranking for point in own]
        ends = [[time.median - time.least for time in times], [time.most - time.median for time in times]]
        panels[len(shown)].errorbar(
            steps,
            [time.median for time in times],
            yerr=ends if own[0].time.rounds > 1 else None,
            capsize=2,
            **line_style(number),
        )
    panels[len(shown)].set_ylabel(f"ms a user, {points[0].time.device}")
    panels[len(shown)].set_yscale("log")
    over_counts(panels, len(shown) + 1, sorted({point.steps for point in points}), "reverse steps")
    if len(chains) > 1:
        panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(f"{run.config['model']} on {run.config['dataset']}", fontsize=11)
    return save(figure, request.output / "reverse_steps", about="accuracy and time against reverse steps")
