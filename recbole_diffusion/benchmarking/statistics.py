"""What can be said of a difference between two models: spread over seeds, paired tests and intervals over users.

Two things vary and are kept apart. Seeds: the same model trained again; a mean and a sample standard deviation over
runs. Users: the same models on other users of the same kind; paired tests and bootstrap intervals, in which a user is
one observation.

Several seeds of a model are averaged for each user before a test. The same user's results under two seeds are not two
independent users: counting them as such multiplies the sample by the number of seeds and makes any difference
significant (pseudoreplication: Hurlbert, Ecological Monographs 54, 1984). For the same reason several rows of a user
(`user_split_next` with all positions, `global_time` with successive targets) are one observation. A metric is a mean
over rows, so a user with many of them has that much of it: what is tested is the user's part c_u = (sum over the
user's rows) U / N of U users and N rows, whose mean is the metric. What is left out by this is another training of the
models, which the deviation over seeds shows (Bouthillier et al., Accounting for Variance in Machine Learning
Benchmarks, MLSys 2021).

Intervals over users are bootstrap's (`bootstrap`). Which tests, which correction and which interval, and why:
docs/decisions/101-tests-over-users.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.special

from recbole_diffusion.errors import UserError

TESTS = ("t-test", "wilcoxon")
CORRECTIONS = ("holm", "benjamini-hochberg", "none")
_DECIMALS = 12  # of a difference, relative to the largest value; what is below is rounding of the mean over seeds


# Over seeds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Mean of a metric over runs, the sample standard deviation (None for a single run), and how many runs."""

    mean: float
    deviation: float | None
    number: int


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation, s = sqrt(sum (x - mean)^2 / (n - 1)), of one value a run.

    The deviation of equal values is 0, whatever their mean is rounded to.

    Raises:
        ValueError: there is no value.
    """
    if not len(values):
        raise ValueError("a mean needs at least one run")
    equal = min(values) == max(values)
    deviation = None if len(values) == 1 else 0.0 if equal else float(np.std(values, ddof=1))
    return Summary(float(np.mean(values)), deviation, len(values))


@dataclass(frozen=True)
class Interval:
    """The ends of a confidence interval, in the unit of the values."""

    low: float
    high: float


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Student's confidence interval of the mean over runs, mean +- t_{n-1} s / sqrt(n); None for fewer than two runs.

    Raises:
        UserError: a level that cannot be.
    """
    if not 0 < level < 1:
        raise UserError(f"level: {level} is no confidence level; allowed: between 0 and 1, as 0.95")
    summary = summarise(values)
    if summary.deviation is None:
        return None
    half = float(scipy.special.stdtrit(summary.number - 1, (1 + level) / 2)) * summary.deviation / summary.number**0.5
    return Interval(summary.mean - half, summary.mean + half)


def welch_interval(first: Sequence[float], second: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """Confidence interval of mean(first) - mean(second), values of independent runs with variances of their own.

    (m1 - m2) +- t_nu sqrt(v1 + v2), v = s^2 / n, nu = (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)) (Welch,
    Biometrika 34, 1947; Satterthwaite, Biometrics Bulletin 2, 1946): that of `scipy.stats.ttest_ind` without equal
    variances. None for fewer than two runs of either, or where no run differs from its like.

    Raises:
        UserError: a level that cannot be.
    """
    if not 0 < level < 1:
        raise UserError(f"level: {level} is no confidence level; allowed: between 0 and 1, as 0.95")
    one, other = summarise(first), summarise(second)
    if one.deviation is None or other.deviation is None:
        return None
    parts = [(side.deviation or 0.0) ** 2 / side.number for side in (one, other)]
    if not sum(parts):
        return None
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (one.number - 1) + parts[1] ** 2 / (other.number - 1))
    half = float(scipy.special.stdtrit(freedom, (1 + level) / 2)) * sum(parts) ** 0.5
    return Interval(one.mean - other.mean - half, one.mean - other.mean + half)


# Over users ----------------------------------------------------------------------------------------------------------


def user_parts(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Each user's part in the metrics, averaged over runs of one model; their mean over users is that over rows.

    A user with one row has that row's values; of several rows the part is their sum, times users and by rows.

    Args:
        runs: a frame a run, indexed by user (or by row where the data have no users), a column a metric.

    Returns:
        (users, metrics), in the first run's order of users.

    Raises:
        UserError: the runs are not of the same users.
    """
    frames = [frame if frame.index.is_unique else _summed(frame) for frame in runs]
    users = frames[0].index
    total = frames[0].to_numpy(dtype=np.float64, copy=True)
    for frame in frames[1:]:
        total += _of_users(frame, users).to_numpy(dtype=np.float64)
    return pd.DataFrame(total / len(frames), index=users, columns=frames[0].columns)


def _summed(rows: pd.DataFrame) -> pd.DataFrame:
    sums = rows.groupby(level=0, sort=False).sum()
    return sums * (len(sums) / len(rows))


def row_shares(index: pd.Index) -> np.ndarray | None:
    """Each user's number of rows less the mean number and divided by it, (users,); None where every user has one row.

    Args:
        index: the user of every row.

    Returns:
        in order of first appearance, as `user_parts`.
    """
    if index.is_unique:
        return None
    counts = pd.Series(1.0, index).groupby(level=0, sort=False).sum().to_numpy()
    shares: np.ndarray = counts / counts.mean() - 1
    return shares


def paired_differences(first: pd.Series, second: pd.Series) -> np.ndarray:
    """first - second for each user, (users,) float64; both are matched by their index.

    Differences are rounded to 12 decimals (of the largest value, where that is above 1), so that two sums of the same
    numbers in another order are equal and not a difference of 1e-17 to which a rank test would give a rank.

    Raises:
        UserError: they are not of the same users.
    """
    one = first.to_numpy(dtype=np.float64)
    other = _of_users(second, first.index).to_numpy(dtype=np.float64)
    largest = max(np.abs(one).max(initial=1.0), np.abs(other).max(initial=1.0))
    scale = np.exp2(np.ceil(np.log2(largest)))  # a power of two, so that dividing by it rounds nothing
    differences: np.ndarray = np.round((one - other) / scale, _DECIMALS) * scale
    return differences


def _of_users(values: pd.DataFrame | pd.Series, users: pd.Index) -> pd.DataFrame | pd.Series:
    """The values in this order of users."""
    if values.index.equals(users):
        return values
    missing, more = users.difference(values.index), values.index.difference(users)
    if len(missing) or len(more) or values.index.name != users.name:
        raise UserError(
            f"per-user results are of other {users.name or 'user'}s: {len(users)} and {len(values)}, "
            f"{len(users) - len(missing)} in both; compare runs of one protocol on the same data"
        )
    return values.reindex(users)


@dataclass(frozen=True)
class PairedTest:
    """A paired test over users.

    Attributes:
        test: t-test | wilcoxon.
        users: how many.
        difference: mean difference, first model less second, in the metric's own unit; nan without users.
        statistic: t, or the smaller sum of ranks; None where there is none.
        p_value: two-sided; None where the test says nothing.
        reason: why there is no statistic; empty where there is one.
        direction: sign of what is tested: of the mean (t-test), of the sum of signed ranks (wilcoxon).
    """

    test: str
    users: int
    difference: float
    statistic: float | None
    p_value: float | None
    reason: str = ""
    direction: float = 0.0


def paired_test(differences: np.ndarray, test: str = "t-test") -> PairedTest:
    """Whether the mean (t-test) or the middle (wilcoxon) of the users' differences is other than 0, two-sided.

    * t-test: t = mean / (s / sqrt(n)) with n - 1 degrees of freedom; the figures of `scipy.stats.ttest_rel` (tested),
      whose checks of its arguments take ten times as long as the test.
    * wilcoxon: signed ranks without the users whose difference is 0, `scipy.stats.wilcoxon`. Of a metric that is 0 or
      1, one seed each, it is the sign test of the users in whom the models differ (McNemar's).

    Fewer than two users, or (t-test) equal differences other than 0, whose t is infinite, give no p-value; differences
    that are all 0 give 1.

    Args:
        differences: (users,) of `paired_differences`.
        test: which.

    Raises:
        UserError: an unknown test.
    """
    if test not in TESTS:
        raise UserError(f"test: {test!r} is unknown; allowed: {', '.join(TESTS)}")
    users = len(differences)
    mean = float(np.mean(differences)) if users else float("nan")
    if users < 2:
        return PairedTest(test, users, mean, None, None, "fewer than 2 users")
    if not differences.any():
        return PairedTest(test, users, 0.0, None, 1.0, "no user has a difference")
    if test == "wilcoxon":
        from scipy import stats

        other = differences[differences != 0]
        statistic, p_value = stats.wilcoxon(other)
        direction = float(np.sign(stats.rankdata(np.abs(other)) @ np.sign(other)))
    elif np.ptp(differences) == 0:
        return PairedTest(test, users, mean, None, None, "every user has the same difference")
    else:
        statistic = mean / (np.std(differences, ddof=1) / np.sqrt(users))
        p_value = 2 * scipy.special.stdtr(users - 1, -abs(statistic))
        direction = float(np.sign(mean))
    return PairedTest(test, users, mean, float(statistic), float(p_value), direction=direction)


def corrected(p_values: Sequence[float | None], correction: str = "holm") -> list[float | None]:
    """p-values corrected for being several; None stays None and is not counted.

    * holm: p_(i) becomes max over j <= i of min(1, (m - j + 1) p_(j)), p_(1) the smallest of m. Keeps the chance of a
      single false mark below alpha, however the tests depend on each other (Holm, Scandinavian Journal of Statistics
      6, 1979).
    * benjamini-hochberg: keeps the share of false marks among the marks below alpha, under independence or positive
      dependence (Benjamini, Hochberg, JRSS B 57, 1995); `scipy.stats.false_discovery_control`.
    * none: as they are.

    Raises:
        UserError: an unknown correction.
    """
    if correction not in CORRECTIONS:
        raise UserError(f"correction: {correction!r} is unknown; allowed: {', '.join(CORRECTIONS)}")
    places = [place for place, p_value in enumerate(p_values) if p_value is not None]
    known = np.array([p_values[place] for place in places], dtype=np.float64)
    if correction == "holm":
        order = np.argsort(known, kind="stable")
        steps = np.minimum(1.0, known[order] * np.arange(len(known), 0, -1))
        known[order] = np.maximum.accumulate(steps)
    elif correction == "benjamini-hochberg" and len(known):
        from scipy import stats

        known = stats.false_discovery_control(known, method="bh")
    result: list[float | None] = [None] * len(p_values)
    for place, value in zip(places, known.tolist(), strict=True):
        result[place] = value
    return result
