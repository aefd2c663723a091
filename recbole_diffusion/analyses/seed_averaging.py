"""What averaging several samplings gains (DiffuRecSys, Algorithm 3): accuracy against n, with what it costs.

A user is ranked by the mean of the vectors of n reverse chains, which is the key `n_eval_samples`. Each n is evaluated
with several seeds of the noise, `eval_seed`, `eval_seed` + 1, ...: how far these lie apart is what noise alone makes of
a metric, and a gain that is no larger is none. The gain over n = 1 is tested as models are: for each user,
averaged over the seeds first, with a bootstrap interval over users.
"""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recbole_diffusion.analyses.finished_run import FinishedRun, metrics_at, open_run, shown_cutoff
from recbole_diffusion.analyses.progress import Progress
from recbole_diffusion.analyses.ranking_time import RankingTime, time_ranking
from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.benchmarking.bootstrap import bootstrap_interval, resampled_parts
from recbole_diffusion.benchmarking.metric_names import printed_name
from recbole_diffusion.benchmarking.statistics import Summary, paired_differences, row_shares, summarise, user_parts
from recbole_diffusion.models.base import evaluation_seed
from recbole_diffusion.pictures import COLOURS, error_bars, line_style, new_figure, over_counts, save

logger = logging.getLogger(__name__)

ABOUT = "accuracy and time against samplings averaged"
OF_A_METRIC = ("", "_deviation", "_gain", "_gain_low", "_gain_high")


@dataclass(frozen=True)
class Point:
    """One number of samplings.

    Attributes:
        samples: n.
        results: metric -> value, for each seed.
        users: (users, metrics) parts, averaged over the seeds, of metrics that have a value for a row.
        shares: of `row_shares`.
        time: of ranking.
    """

    samples: int
    results: list[dict[str, float]]
    users: pd.DataFrame
    shares: np.ndarray | None
    time: RankingTime

    def summary(self, name: str) -> Summary:
        """Mean and sample standard deviation of a metric over the seeds."""
        return summarise([result[name] for result in self.results])


def analyse(request: Request) -> Findings:
    """Rank a run's test rows with means of several numbers of samplings.

    Raises:
        UserError: a model that draws nothing.
    """
    numbers = sorted({1, *request.wholes("samples", [1, 2, 4, 8])})
    seeds = request.whole("eval_seeds", 3)
    users, rounds = request.whole("timed_users", 256), request.whole("rounds", 5)
    run = open_run(request, samples_for="seed_averaging")
    cutoff = shown_cutoff(request, run.config)
    progress = Progress(seeds * sum(numbers))
    points: list[Point] = []
    for samples in numbers:
        run.model.options = dataclasses.replace(run.model.options, n_eval_samples=samples)
        results, rows = [], []
        first = int(run.config["eval_seed"] or 0)
        for seed in range(first, first + seeds):
            with evaluation_seed(run.model, seed):
                result, of_rows = run.evaluate()
            results.append(result)
            rows.append(of_rows)
            name = next(iter(result))
            progress.step(f"n = {samples}, eval_seed {seed}: {name} {result[name]:.4f}", parts=samples)
        parts, shares = user_parts(rows), row_shares(rows[0].index)
        points.append(Point(samples, results, parts, shares, time_ranking(run, users, rounds)))
    metrics = list(points[0].results[0])
    shown = metrics_at(metrics, cutoff)
    header = ["samples", "eval_seeds", *(name + part for name in metrics for part in OF_A_METRIC)]
    table = [
        [
            *(point.samples, seeds),
            *(cell for name in metrics for cell in _cells(point, points[0], name)),
            *point.time.cells(),
        ]
        for point in points
    ]
    return Findings(
        _text(run, points, shown, seeds),
        [
            *save(_drawn(run, points, shown), request.output / "seed_averaging", about=ABOUT),
            request.write_csv("seed_averaging.csv", [*header, *RankingTime.COLUMNS], table),
        ],
    )


def _cells(point: Point, single: Point, name: str) -> list[float | None]:
    """A metric: mean, deviation over seeds, gain over one sampling, the ends of its interval over users."""
    summary = point.summary(name)
    gain = summary.mean - single.summary(name).mean
    if point is single or name not in point.users:
        return [summary.mean, summary.deviation, None if point is single else gain, None, None]
    differences = paired_differences(point.users[name], single.users[name])
    interval = bootstrap_interval(resampled_parts(differences, point.shares))
    ends = (None, None) if interval is None else (interval.low, interval.high)
    return [summary.mean, summary.deviation, gain, *ends]


def _text(run: FinishedRun, points: list[Point], shown: list[str], seeds: int) -> str:
    header = ["samples", *(column for name in shown for column in (printed_name(name), "±", "gain")), "ms a user"]
    rows = [
        [
            str(point.samples),
            *(cell for name in shown for cell in _cells(point, points[0], name)[:3]),
            point.time.ranking.median,
        ]
        for point in points
    ]
    time = points[0].time
    title = f"{run.config['model']} on {run.config['dataset']}, {run.split} rows, {seeds} seeds of the noise"
    timed = f"time: median of {time.rounds} rounds of {time.users} users on {time.device}"
    return "\n".join([title, text_table(header, rows), timed])


def _drawn(run: FinishedRun, points: list[Point], shown: list[str]) -> Any:
    columns = min(3, len(shown) + 1)
    figure, panels = new_figure(columns, -(-(len(shown) + 1) // columns))
    numbers = [point.samples for point in points]
    for panel, name in zip(panels, shown, strict=False):
        summaries = [point.summary(name) for point in points]
        spread = error_bars([summary.deviation for summary in summaries])
        panel.errorbar(numbers, [summary.mean for summary in summaries], yerr=spread, capsize=3, **line_style(0))
        for point in points:
            values = [result[name] for result in point.results]
            panel.scatter([point.samples] * len(values), values, s=8, color=COLOURS[1], zorder=3)
        panel.set_ylabel(printed_name(name))
    panel = panels[len(shown)]
    panel.plot(numbers, [point.time.ranking.median for point in points], **line_style(0))
    panel.set_ylabel(f"ms a user, {points[0].time.device}")
    over_counts(panels, len(shown) + 1, numbers, "samplings averaged")
    figure.suptitle(f"{run.config['model']} on {run.config['dataset']}", fontsize=11)
    return figure
