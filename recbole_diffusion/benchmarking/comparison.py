"""The rows of a table against a reference: which, by which test, over which users.

A row is tested where each of its runs and each of the reference's kept its test row by row, and was asked for the same
rows of the same data. All tests of a table are corrected together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_diffusion.benchmarking.bootstrap import bootstrap_intervals, resampled_parts
from recbole_diffusion.benchmarking.comparability import comparable, listed
from recbole_diffusion.benchmarking.metric_names import bigger_is_better, factor, printed_name
from recbole_diffusion.benchmarking.results import RunRecord, has_rows, read_rows
from recbole_diffusion.benchmarking.statistics import (
    CORRECTIONS,
    TESTS,
    Interval,
    PairedTest,
    corrected,
    paired_differences,
    paired_test,
    row_shares,
    user_parts,
)
from recbole_diffusion.errors import UserError

BETTER, WORSE = "†", "‡"
Place = tuple[str, str]
"""Label and metric of a cell."""


@dataclass(frozen=True)
class Comparison:
    """What the rows of a table are tested against, and how.

    Attributes:
        reference: label of the row that all others are tested against.
        baselines: instead, labels of rows; in each column the other rows are tested against the best of these.
        test: t-test | wilcoxon.
        correction: holm | benjamini-hochberg | none, over all tests of a table.
        alpha: a corrected p below it is marked.
        level: confidence of the intervals.
        resamples, seed: of the bootstrap.

    Raises:
        UserError: neither or both of reference and baselines, or a value that cannot be.
    """

    reference: str | None = None
    baselines: tuple[str, ...] = ()
    test: str = "t-test"
    correction: str = "holm"
    alpha: float = 0.05
    level: float = 0.95
    resamples: int = 2_000
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.reference is None) == (not self.baselines):
            raise UserError(
                f"a comparison needs a reference or baselines, got reference: {self.reference} and baselines: "
                f"{list(self.baselines)}; set one of them"
            )
        for key, value, allowed in (("test", self.test, TESTS), ("correction", self.correction, CORRECTIONS)):
            if value not in allowed:
                raise UserError(f"{key}: {value!r} is unknown; allowed: {', '.join(allowed)}")
        if not 0 < self.alpha < 1:
            raise UserError(f"alpha: {self.alpha} is no level of significance; allowed: between 0 and 1, as 0.05")

    @property
    def references(self) -> tuple[str, ...]:
        """Labels that rows may be tested against."""
        return self.baselines if self.reference is None else (self.reference,)


@dataclass(frozen=True)
class Tested:
    """A row's metric against that of another row.

    Attributes:
        reference: label of the other row.
        result: the test; its difference is in the table's unit.
        interval: of the difference, in the table's unit.
        p_corrected: the p-value after correction.
        mark: † significantly better | ‡ significantly worse | empty.
    """

    reference: str
    result: PairedTest
    interval: Interval | None
    p_corrected: float | None
    mark: str


@dataclass(frozen=True)
class Compared:
    """What comparing the rows of a table gave.

    Attributes:
        tested: of the cells that were tested.
        intervals: of the mean over users, in the table's unit, of the cells whose rows were read.
        notes: which test it was, and what was not tested.
    """

    tested: Mapping[Place, Tested]
    intervals: Mapping[Place, Interval]
    notes: Sequence[str]


def compare_rows(
    rows: Mapping[str, Sequence[RunRecord]], means: Mapping[Place, float], comparison: Comparison
) -> Compared:
    """Test the rows of a table.

    Args:
        rows: label -> its finished runs.
        means: of every cell that has one.
        comparison: against what, and how.

    Raises:
        UserError: row-by-row results that are not of the reported test, or not of the same users.
    """
    metrics = list(dict.fromkeys(metric for _, metric in means))
    users, shares, without = _users_of(rows, metrics)
    notes: dict[str, None] = {}
    if without:
        notes[f"Not tested, run without save_per_user: parquet: {listed(without)}."] = None
    results: dict[Place, tuple[str, PairedTest]] = {}
    columns: dict[tuple[str, Place], np.ndarray] = {}  # what intervals are made of
    alike: dict[tuple[str, str], bool] = {}  # rows, whatever the metric
    for metric in metrics:
        reference = _reference(metric, means, comparison)
        if reference not in users:
            continue
        for label in users:
            if label == reference or label in comparison.references or (label, metric) not in means:
                continue
            if (label, reference) not in alike:
                alike[label, reference] = all(
                    comparable(one, other) for one in rows[label] for other in rows[reference]
                )
            if metric not in users[label] or metric not in users[reference]:
                notes[f"Not tested: {printed_name(metric)}, which has no value for a user."] = None
            elif not alike[label, reference]:
                notes[f"Not tested: {label} against {reference}, of other data or another protocol."] = None
            else:
                differences = factor(metric) * _differences(metric, label, reference, rows, users)
                result = paired_test(differences, comparison.test)
                results[label, metric] = (reference, result)
                columns["difference", (label, metric)] = resampled_parts(differences, shares[label])
                reason = result.reason or _against_the_mean(result)
                if reason:
                    notes[f"{label} against {reference}, {printed_name(metric)}: {reason}."] = None
    for label, frame in users.items():
        for metric in metrics:
            if metric in frame:
                columns["mean", (label, metric)] = resampled_parts(
                    factor(metric) * frame[metric].to_numpy(), shares[label]
                )
    found = dict(zip(columns, _intervals(list(columns.values()), comparison), strict=True))
    p_values = corrected([result.p_value for _, result in results.values()], comparison.correction)
    tested = {
        place: Tested(
            reference,
            result,
            found["difference", place],
            p_value,
            _mark(place[1], result, p_value, comparison.alpha),
        )
        for (place, (reference, result)), p_value in zip(results.items(), p_values, strict=True)
    }
    intervals = {place: ends for (kind, place), ends in found.items() if kind == "mean" and ends is not None}
    present = any(label in comparison.references for label, _ in means)
    several = any(of_label is not None for of_label in shares.values())
    return Compared(tested, intervals, [_what_is_tested(list(tested.values()), comparison, present, several), *notes])


def _users_of(
    rows: Mapping[str, Sequence[RunRecord]], metrics: Sequence[str]
) -> tuple[dict[str, pd.DataFrame], dict[str, np.ndarray | None], list[str]]:
    """Each row's metrics of every user, averaged over its seeds, its `row_shares`, and the rows that have none."""
    users: dict[str, pd.DataFrame] = {}
    shares: dict[str, np.ndarray | None] = {}
    without = []
    for label, runs in rows.items():
        if not all(has_rows(run) for run in runs):
            without.append(label)
        elif runs and all(comparable(runs[0], run) for run in runs):
            users[label], shares[label] = _read_users(runs, metrics)
    return users, shares, without


def _read_users(runs: Sequence[RunRecord], metrics: Sequence[str]) -> tuple[pd.DataFrame, np.ndarray | None]:
    frames = [read_rows(run, metrics) for run in runs]
    shared = [metric for metric in metrics if all(metric in frame for frame in frames)]
    try:
        return user_parts([frame[shared] for frame in frames]), row_shares(frames[0].index)
    except UserError as error:
        raise UserError(f"{', '.join(str(run.per_user) for run in runs)}: {error}") from error


def _reference(metric: str, means: Mapping[Place, float], comparison: Comparison) -> str | None:
    """The label of the row to test a column against: the named one, or the best baseline; None where it is absent."""
    return best_of(metric, {label: means[label, metric] for label in comparison.references if (label, metric) in means})


def best_of(metric: str, means: Mapping[str, float]) -> str | None:
    """The label whose mean of a metric is best, the first of equal ones; None of none."""
    best = max if bigger_is_better(metric) else min
    return best(means, key=lambda label: means[label]) if means else None


def _differences(
    metric: str,
    label: str,
    reference: str,
    rows: Mapping[str, Sequence[RunRecord]],
    users: Mapping[str, pd.DataFrame],
) -> np.ndarray:
    """(users,) the row's metric less the reference's."""
    try:
        return paired_differences(users[label][metric], users[reference][metric])
    except UserError as error:
        raise UserError(f"{rows[label][0].per_user}, {rows[reference][0].per_user}: {error}") from error


def _intervals(columns: Sequence[np.ndarray], comparison: Comparison) -> list[Interval | None]:
    return bootstrap_intervals(columns, level=comparison.level, resamples=comparison.resamples, seed=comparison.seed)


def _mark(metric: str, result: PairedTest, p_value: float | None, alpha: float) -> str:
    if p_value is None or p_value >= alpha or _against_the_mean(result):
        return ""
    return BETTER if (result.difference > 0) == bigger_is_better(metric) else WORSE


def _against_the_mean(result: PairedTest) -> str:
    """Why a test of ranks has no mark where it points the other way than the figures; empty where it does not."""
    if result.direction * result.difference >= 0:
        return ""
    return "ranks of the users' differences point the other way than their mean, so it has no mark"


def _what_is_tested(tested: Sequence[Tested], comparison: Comparison, present: bool, several: bool) -> str:
    """The line below a table that says which test it was.

    Args:
        tested: the tests.
        comparison: what was asked for.
        present: whether a reference has a figure.
        several: whether some user has several rows.
    """
    against = comparison.reference or f"the best of {listed(comparison.baselines)} in each column"
    if not tested:
        if not present:
            return f"No test against {against}: no such row has a finished run here."
        return f"No test against {against}: no other row has results for each user beside it."
    users = sorted({one.result.users for one in tested})
    count = sum(one.result.p_value is not None for one in tested)
    name = {"t-test": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test"}[comparison.test]
    correction = {
        "holm": "Holm's correction",
        "benjamini-hochberg": "Benjamini and Hochberg's correction",
        "none": "no correction",
    }[comparison.correction]
    parts = ", each with the sum of its rows" if several else ""
    return (
        f"{BETTER} better, {WORSE} worse than {against}: {name} over {' or '.join(f'{n:,}' for n in users)} users, "
        f"each averaged over seeds{parts}, p < {comparison.alpha:g} with {correction} for {count} "
        f"{'test' if count == 1 else 'tests'}. It speaks of other users for these trained models, not of other "
        "trainings."
    )
