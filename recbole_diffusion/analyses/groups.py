"""Which rows a model is good at: head and long-tail items, short and long histories (DiffuRecSys, section 6.5).

One run or several beside each other, from their per_user/test.parquet: no model is loaded and nothing is ranked. How
often an item trains and how long histories are is read from the data of the first run; `row_groups` says what a group
is. Intervals are bootstrap intervals over users; those of a difference between two runs are of each user's difference,
since intervals of the runs themselves overlap long before that.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recbole_diffusion.analyses.kept_rows import KeptRows, TestData, check_same_rows, read_kept_rows, read_test_data
from recbole_diffusion.analyses.request import Findings, Request, named_runs
from recbole_diffusion.analyses.row_groups import RankedTargets, head_items, length_groups, span
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.analyses.user_intervals import interval_of_users
from recbole_diffusion.benchmarking.bootstrap import bootstrap_interval, resampled_parts
from recbole_diffusion.benchmarking.metric_names import in_order, printed_name
from recbole_diffusion.benchmarking.results import settings, values_of
from recbole_diffusion.benchmarking.statistics import paired_differences, row_shares, user_parts
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.metrics import row_metrics
from recbole_diffusion.pictures import bar_style, error_bars, legend_below, new_figure, save

logger = logging.getLogger(__name__)

Rows = dict[tuple[str, str, str, str], pd.Series]
"""Grouping, group, metric and run -> the metric of every row, indexed by user."""
ALL, ITEMS, LENGTHS = "all", "item frequency", "history length"
COLUMNS = (
    *("run", "model", "seed", "grouping", "group", "least", "most"),
    *("items", "rows", "users", "metric", "value", "low", "high"),
)


DIFFERENCES = ("first", "second", "grouping", "group", "users", "metric", "difference", "low", "high")


@dataclass(frozen=True)
class Group:
    """Some of the targets.

    Attributes:
        grouping: by what.
        name: in words.
        bounds: least and most of what groups are made by: training rows of an item, items of a history.
        items: different items that the group may ask for; None where it is not by items.
        chosen: (T,) the targets that are in it.
    """

    grouping: str
    name: str
    bounds: tuple[int, int]
    items: int | None
    chosen: np.ndarray


def analyse(request: Request) -> Findings:
    """Compare groups of test rows.

    Raises:
        UserError: a run without its test row by row, runs of other rows, data that are not there.
    """
    share = _share(request)
    number = request.whole("length_groups", 5, least=2)
    runs = [read_kept_rows(name, folder) for name, folder in named_runs(request.options["runs"])]
    check_same_rows(runs)
    metrics = [name for name in in_order(runs[0].metrics) if all(name in run.metrics for run in runs)]
    cutoff = _cutoff(request, runs[0], metrics)
    data = read_test_data(runs[0], request.data_path)
    head = head_items(data.counts, share)
    shown = [name for name in metrics if name.endswith(f"@{cutoff}")]
    lines: list[list[Any]] = []
    rows: Rows = {}
    for run in runs:
        targets = data.targets_of(run)
        for group in groups_of(targets, data, data.lengths_of(run), head, number):
            about, values = _values(run, targets.where(group.chosen), group, metrics, len(head))
            lines += [[*about, name, float(values[name].mean()), *interval_of_users(values[name])] for name in metrics]
            rows.update({(group.grouping, group.name, name, run.name): values[name] for name in shown})
        logger.info("%s: %d rows", run.name, len(run))
    files = save(_drawn(lines, shown), request.output / "groups", about="metrics by item frequency and history length")
    files.append(request.write_csv("groups.csv", COLUMNS, lines))
    if len(runs) > 1:
        pairs = itertools.combinations([run.name for run in runs], 2)
        files.append(request.write_csv("differences.csv", DIFFERENCES, differences(list(pairs), rows)))
    return Findings(_text(runs, lines, shown), files)


def _share(request: Request) -> float:
    """The share of items that are head."""
    values = request.numbers("head_share", [0.2])
    if len(values) != 1 or not 0 < values[0] < 1:
        raise UserError(f"--head_share must be one number between 0 and 1, got {values}")
    return values[0]


def _cutoff(request: Request, run: KeptRows, metrics: list[str]) -> int:
    """The cut-off of the picture's metrics."""
    if not metrics:
        raise UserError("--runs have no metric of ranks in common; repeat their tests with equal metrics and topk")
    cutoffs = sorted({int(name.partition("@")[2]) for name in metrics})
    path = run.record.folder / "config.yaml"
    own = str(values_of(settings(run.record.folder), path, ["valid_metric"]).get("valid_metric")).partition("@")[2]
    cutoff = request.whole("cutoff", int(own) if own.isdigit() and int(own) in cutoffs else cutoffs[-1])
    if cutoff not in cutoffs:
        raise UserError(f"--cutoff is {cutoff}; the tests have {', '.join(map(str, cutoffs))}")
    return cutoff


def groups_of(
    targets: RankedTargets, data: TestData, lengths: np.ndarray, head: np.ndarray, number: int
) -> list[Group]:
    """All rows, head and long tail, and the groups of length; empty ones are left out.

    Args:
        targets: of a run.
        data: of all runs.
        lengths: (R,) of each row's history.
        head: (V,) of `head_items`.
        number: of groups of length.
    """
    own = lengths[targets.rows]
    everything = np.ones(len(own), dtype=bool)
    found = [Group(ALL, ALL, (int(lengths.min()), int(lengths.max())), len(head) - 1, everything)]
    for name, members in (("head", head), ("long tail", ~head)):
        counts = data.counts[1:][members[1:]]
        if len(counts):
            bounds = (int(counts.min()), int(counts.max()))
            found.append(Group(ITEMS, name, bounds, len(counts), members[targets.targets]))
    group_of_row = length_groups(lengths, number)
    for group in np.unique(group_of_row):
        members = lengths[group_of_row == group]
        bounds = (int(members.min()), int(members.max()))
        found.append(Group(LENGTHS, span(members), bounds, None, group_of_row[targets.rows] == group))
    return [group for group in found if group.chosen.any()]


def differences(pairs: Sequence[tuple[str, str]], rows: Rows) -> list[list[Any]]:
    """A line of DIFFERENCES for each group and metric of each pair of runs: the first less the second.

    Args:
        pairs: names of runs.
        rows: metrics of every row, indexed by user, by grouping, group, metric and run.
    """
    lines = []
    for first, second in pairs:
        for grouping, name, metric, run in rows:
            if run != first or (grouping, name, metric, second) not in rows:
                continue
            own = [rows[grouping, name, metric, of] for of in (first, second)]
            values = paired_differences(*(user_parts([of.to_frame()]).iloc[:, 0] for of in own))
            interval = bootstrap_interval(resampled_parts(values, row_shares(own[0].index)))
            ends = [None, None] if interval is None else [interval.low, interval.high]
            lines.append([first, second, grouping, name, len(values), metric, float(values.mean()), *ends])
    return lines


def _values(
    run: KeptRows, targets: RankedTargets, group: Group, metrics: list[str], n_items: int
) -> tuple[list[Any], dict[str, pd.Series]]:
    """What a line says before its metric, and each metric of every row, indexed by user."""
    names = list(dict.fromkeys(name.partition("@")[0] for name in metrics))
    cutoffs = sorted({int(name.partition("@")[2]) for name in metrics})
    ranking, rows = targets.ranking(max(cutoffs), n_items, run.label_repeats)
    values = row_metrics(ranking, names, cutoffs)
    index = pd.Index(rows, name="row") if run.users is None else pd.Index(run.users[rows], name="user")
    about = [run.name, run.record.model, run.record.seed, group.grouping, group.name, *group.bounds, group.items]
    about += [len(rows), index.nunique()]
    for name in metrics:
        value = float(values[name].mean())
        if group.grouping == ALL and abs(value - run.metrics[name]) > 1e-9:
            raise UserError(
                f"{run.record.per_user}: its ranks give a {name} of {value:.6f}, its column {name} "
                f"{run.metrics[name]:.6f}; repeat the test with save_per_user: parquet"
            )
    return about, {name: pd.Series(values[name], index) for name in metrics}


def _text(runs: list[KeptRows], lines: list[list[Any]], shown: list[str]) -> str:
    header = ["group", "rows", *(f"{printed_name(name)} {run.name}" for name in shown for run in runs)]
    found = {(line[0], line[3], line[4], line[10]): line[11] for line in lines}
    groups = {(line[3], line[4]): line[8] for line in lines if line[0] == runs[0].name}
    rows = [
        [
            name if grouping == ALL else f"{grouping}: {name}",
            number,
            *(found.get((run.name, grouping, name, metric)) for metric in shown for run in runs),
        ]
        for (grouping, name), number in groups.items()
    ]
    return text_table(header, rows)


def _drawn(lines: list[list[Any]], shown: list[str]) -> Any:
    runs = list(dict.fromkeys(line[0] for line in lines))
    figure, panels = new_figure(len(shown), 2)
    width = 0.8 / len(runs)
    for place, (grouping, metric) in enumerate((grouping, name) for grouping in (ITEMS, LENGTHS) for name in shown):
        panel = panels[place]
        groups = list(dict.fromkeys(line[4] for line in lines if line[3] == grouping))
        for number, run in enumerate(runs):
            own = {line[4]: line[11:] for line in lines if (line[0], line[3], line[10]) == (run, grouping, metric)}
            known = [(groups.index(name), *own[name]) for name in groups if name in own]
            x = [spot + (number - (len(runs) - 1) / 2) * width for spot, *_ in known]
            heights = [value for _, value, _, _ in known]
            below = error_bars([None if low is None else max(0.0, value - low) for _, value, low, _ in known])
            above = error_bars([None if high is None else max(0.0, high - value) for _, value, _, high in known])
            panel.bar(x, heights, width, label=run, **bar_style(number))
            if below is not None and above is not None:
                panel.errorbar(x, heights, yerr=[below, above], fmt="none", ecolor="black", elinewidth=0.8, capsize=2)
        panel.set_xticks(range(len(groups)), groups)
        panel.set_xlabel("asked item" if grouping == ITEMS else "items in the history")
        panel.set_ylabel(printed_name(metric))
        panel.grid(False, axis="x")
    if len(runs) > 1:
        legend_below(figure, panels)
    return figure
