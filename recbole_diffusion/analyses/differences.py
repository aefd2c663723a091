"""Pairs of a suite's models: by how much one is better than the other, how sure that is, and what each cost.

A difference has two intervals, which answer two questions. Over users (BCa bootstrap of each user's mean over seeds):
would other users of the same kind see it between these trained models? Over seeds (Welch's interval of the difference
of two means; Welch, Biometrika 34, 1947): would other trainings? With one seed there is none of the latter, and the
first says nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.analyses.training_curves import VALID, columns_of, curves_of
from recbole_diffusion.benchmarking.bootstrap import bootstrap_interval, resampled_parts
from recbole_diffusion.benchmarking.comparability import check_seeds, comparable
from recbole_diffusion.benchmarking.comparison import best_of
from recbole_diffusion.benchmarking.metric_names import factor, metric_key, printed_name, unit
from recbole_diffusion.benchmarking.printed import exact_p_value
from recbole_diffusion.benchmarking.results import CONFIG, RunRecord, has_rows, read_rows, read_run, settings, values_of
from recbole_diffusion.benchmarking.statistics import (
    Interval,
    corrected,
    paired_differences,
    paired_test,
    row_shares,
    user_parts,
    welch_interval,
)
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import COLOURS, GREY, new_figure, save
from recbole_diffusion.suites.plan_file import read_plan, read_reference

COLUMNS = (
    *("dataset", "first", "second", "metric", "first_seeds", "second_seeds", "users", "first_mean", "second_mean"),
    *("difference", "users_low", "users_high", "seeds_low", "seeds_high", "relative", "relative_low", "relative_high"),
    *("t_p_value", "t_p_corrected", "wilcoxon_p_value", "wilcoxon_p_corrected"),
)
COSTS = (
    *("dataset", "label", "seeds", "parameters", "epochs", "best_epoch", "processor_seconds", "wall_seconds"),
    *("ended_by_patience", "ended_by_time_limit", "device"),
)
Pair = tuple[str, str]


@dataclass(frozen=True)
class Difference:
    """One pair's difference in one metric, in the unit of tables.

    Attributes:
        dataset, pair, metric: of what.
        seeds: of the first and of the second.
        users: over how many.
        means: over seeds, of both.
        over_users, over_seeds: intervals of the difference of the means; None where there is none.
        p_values: of the t-test and of Wilcoxon's, over users.
    """

    dataset: str
    pair: Pair
    metric: str
    seeds: tuple[int, int]
    users: int
    means: tuple[float, float]
    over_users: Interval | None
    over_seeds: Interval | None
    p_values: tuple[float | None, float | None]

    @property
    def value(self) -> float:
        """First less second."""
        return self.means[0] - self.means[1]


def analyse(request: Request) -> Findings:
    """Compare pairs of the labels of a `suite`.

    Raises:
        UserError: no suite, a label or metric that it does not have, runs that must not be compared or that kept no
            rows.
    """
    folder = Path(request.options["suite"])
    runs = _runs(folder, request.options.get("evaluation"))
    texts, files, lines = [], [], []
    for dataset, labels in runs.items():
        asked = _asked_pairs(request, labels)
        metrics = _metrics(request, labels[asked[0][0]][0] if asked else next(iter(labels.values()))[0])
        found = [
            _difference(dataset, pair, metric, labels)
            for metric in metrics
            for pair in asked or _pairs_with_reference(folder, metric, labels)
        ]
        tests = [corrected([one.p_values[test] for one in found]) for test in (0, 1)]
        lines += [_line(one, *p_values) for one, *p_values in zip(found, *tests, strict=True)]
        stem = "differences" if len(runs) == 1 else f"differences_{dataset}"
        files += save(_drawn(found, metrics), request.output / stem, about=f"differences on {dataset}")
        texts.append(_text(dataset, found, tests[0]))
    files.append(request.write_csv("differences.csv", COLUMNS, lines))
    files.append(request.write_csv("costs.csv", COSTS, _costs(_runs(folder, None))))
    return Findings("\n\n".join(texts), files)


def _runs(folder: Path, evaluation: str | None) -> dict[str, dict[str, list[RunRecord]]]:
    """Dataset -> label -> its finished runs, or their finished evaluations of a name."""
    found: dict[str, dict[str, list[RunRecord]]] = {}
    for planned in read_plan(folder):
        if evaluation is not None and evaluation not in planned.evaluations:
            known = ", ".join(f"'{name}'" for name in planned.evaluations) or "none"
            raise UserError(f"--evaluation: the suite has none of the name '{evaluation}'; it has {known}")
        place = planned.run_folder if evaluation is None else planned.evaluation_folder(evaluation)
        if place is not None and (record := read_run(place, planned.label)).finished:
            found.setdefault(planned.dataset, {}).setdefault(planned.label, []).append(record)
    if not found:
        raise UserError(f"{folder}: no run is finished yet")
    for labels in found.values():
        for label, records in labels.items():
            check_seeds(label, records, ())
    return found


def _pairs_with_reference(folder: Path, metric: str, labels: Mapping[str, Sequence[RunRecord]]) -> list[Pair]:
    """Every other label with the suite's reference; of several with the one that is best by a metric."""
    references = [label for label in read_reference(folder) if label in labels]
    if not references:
        raise UserError("the suite has no finished reference; give --pairs='FIRST:SECOND' ...")
    means = {
        label: float(np.mean([run.test[metric] for run in labels[label]]))
        for label in references
        if all(metric in run.test for run in labels[label])
    }
    best = best_of(metric, means) or references[0]
    found = [(label, best) for label in labels if label not in references]
    if not found:
        raise UserError(f"{folder}: only {', '.join(labels)} is finished, so there is nothing to compare")
    return found


def _asked_pairs(request: Request, labels: Mapping[str, Sequence[RunRecord]]) -> list[Pair]:
    """The pairs of the key `pairs`, ``FIRST:SECOND``; none without it."""
    pairs = []
    for word in request.words("pairs"):
        parts = word.split(":")
        splits = [(":".join(parts[:at]).strip(), ":".join(parts[at:]).strip()) for at in range(1, len(parts))]
        pair = next((pair for pair in splits if pair[0] in labels and pair[1] in labels and pair[0] != pair[1]), None)
        if pair is None:
            known = ", ".join(f"'{label}'" for label in labels)
            raise UserError(f"--pairs: '{word}' is not FIRST:SECOND of two finished labels; these are {known}")
        pairs.append(pair)
    return list(dict.fromkeys(pairs))


def _metrics(request: Request, first: RunRecord) -> list[str]:
    """Which metrics are compared: those of the key `metric`, or what the first run chose its best epoch by."""
    asked = request.options.get("metric", "").replace(",", " ").split()
    keys = list(dict.fromkeys(map(metric_key, asked or [first.valid_metric])))
    for key in keys:
        if key not in first.test:
            known = ", ".join(map(printed_name, first.test))
            raise UserError(f"the tests have no {printed_name(key)}; --metric may be {known}")
    return keys


def _difference(dataset: str, pair: Pair, metric: str, labels: Mapping[str, Sequence[RunRecord]]) -> Difference:
    both = [labels[label] for label in pair]
    for runs in both:
        for run in runs:
            if metric not in run.test:
                raise UserError(f"{run.folder}: its test has no {printed_name(metric)}; repeat it with that metric")
            if not has_rows(run):
                raise UserError(
                    f"{run.folder}: its test was not kept row by row; repeat it with save_per_user: parquet"
                )
            if not comparable(both[0][0], run):
                raise UserError(f"{both[0][0].folder} and {run.folder} are of other data or another protocol")
    scale = factor(metric)
    values = [scale * np.array([run.test[metric] for run in runs]) for runs in both]
    rows = [[read_rows(run, [metric]) for run in runs] for runs in both]
    if any(metric not in frame for frames in rows for frame in frames):
        raise UserError(f"{printed_name(metric)} has no value for a single user, so it cannot be compared")
    users = [user_parts(frames)[metric] for frames in rows]
    differences = scale * paired_differences(*users)
    tests = [paired_test(differences, name).p_value for name in ("t-test", "wilcoxon")]
    return Difference(
        dataset=dataset,
        pair=pair,
        metric=metric,
        seeds=(len(both[0]), len(both[1])),
        users=len(differences),
        means=(float(values[0].mean()), float(values[1].mean())),
        over_users=bootstrap_interval(resampled_parts(differences, row_shares(rows[0][0].index))),
        over_seeds=welch_interval(values[0].tolist(), values[1].tolist()),
        p_values=(tests[0], tests[1]),
    )


def _line(one: Difference, t_corrected: float | None, wilcoxon_corrected: float | None) -> list[Any]:
    """A line of COLUMNS; relative figures are shares of the second's mean, its uncertainty left out."""
    users = [None, None] if one.over_users is None else [one.over_users.low, one.over_users.high]
    seeds = [None, None] if one.over_seeds is None else [one.over_seeds.low, one.over_seeds.high]
    relative = [None if end is None or not one.means[1] else end / one.means[1] for end in (one.value, *users)]
    t_value, wilcoxon_value = one.p_values
    return [
        *(one.dataset, *one.pair, one.metric, *one.seeds, one.users, *one.means, one.value, *users, *seeds),
        *(*relative, t_value, t_corrected, wilcoxon_value, wilcoxon_corrected),
    ]


def _costs(runs: Mapping[str, Mapping[str, Sequence[RunRecord]]]) -> list[list[Any]]:
    """A line of COSTS for each label: means over its seeds."""
    lines = []
    for dataset, labels in runs.items():
        for label, records in labels.items():
            ends = [_ended_by(run) for run in records]
            lines.append([
                dataset, label, len(records), records[0].parameters,
                *(_mean([getattr(run, name) for run in records])
                  for name in ("epochs", "best_epoch", "processor_seconds", "seconds")),
                ends.count("patience"), ends.count("time limit"), records[0].device,
            ])  # fmt: skip
    return lines


def _ended_by(run: RunRecord) -> str:
    """What ended a training: patience | time limit | epochs; validations after the best one are counted."""
    keys = ["stopping_step", "epochs", "time_limit"]
    own = values_of(settings(run.folder), run.folder / CONFIG, keys)
    (curve,) = curves_of([run])
    metrics = columns_of([curve], lambda name: name.startswith(VALID))
    validated = curve.epochs[metrics].dropna(how="all").index
    if run.best_epoch is not None and sum(validated > run.best_epoch) > own.get("stopping_step", 10):
        return "patience"
    return "time limit" if own.get("time_limit") is not None and run.epochs < own.get("epochs", 0) else "epochs"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _text(dataset: str, found: Sequence[Difference], t_corrected: Sequence[float | None]) -> str:
    header = ["first less second", "metric", "seeds", "first", "second", "difference", "over users", "over seeds", "p"]
    rows = [
        [
            f"{one.pair[0]} - {one.pair[1]}",
            _with_unit(one.metric),
            f"{one.seeds[0]}, {one.seeds[1]}",
            *(f"{value:.4f}" for value in (*one.means, one.value)),
            *(
                "-" if ends is None else f"[{ends.low:.4f}, {ends.high:.4f}]"
                for ends in (one.over_users, one.over_seeds)
            ),
            exact_p_value(p_value),
        ]
        for one, p_value in zip(found, t_corrected, strict=True)
    ]
    foot = (
        "95 % intervals; p of the paired t-test over users with Holm's correction for "
        f"{len(rows)} {'test' if len(rows) == 1 else 'tests'}"
    )
    return f"{dataset}\n{text_table(header, rows)}\n{foot}"


def _with_unit(metric: str) -> str:
    """A metric's printed name and, where it has one, its unit."""
    return ", ".join(filter(None, [printed_name(metric), unit(metric)]))


def _drawn(found: Sequence[Difference], metrics: Sequence[str]) -> Any:
    """Every pair a line: the interval over users thick, that over seeds thin."""
    pairs = list(dict.fromkeys(one.pair for one in found))
    figure, panels = new_figure(len(metrics), width=5.4, height=1.0 + 0.55 * len(pairs))
    for panel, metric in zip(panels, metrics, strict=True):
        panel.axvline(0.0, color=GREY, linewidth=1.0)
        for one in (one for one in found if one.metric == metric):
            place = len(pairs) - 1 - pairs.index(one.pair)
            for ends, width, shift, colour in (
                (one.over_users, 3.0, 0.0, COLOURS[0]),
                (one.over_seeds, 1.2, -0.2, COLOURS[1]),
            ):
                if ends is not None:
                    panel.plot(
                        [ends.low, ends.high],
                        [place + shift] * 2,
                        color=colour,
                        linewidth=width,
                        solid_capstyle="butt",  # other caps reach beyond the interval, by half the line's width
                    )
            panel.plot(one.value, place, "o", color="black", markersize=4)
        panel.set_yticks(range(len(pairs)), [f"{first}\n- {second}" for first, second in reversed(pairs)], fontsize=8)
        panel.set_ylim(-0.6, len(pairs) - 0.4)
        panel.set_xlabel(_with_unit(metric))
    panels[0].plot([], [], color=COLOURS[0], linewidth=3.0, label="95 %, over users")
    panels[0].plot([], [], color=COLOURS[1], linewidth=1.2, label="95 %, over seeds")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8
    )
    return figure
