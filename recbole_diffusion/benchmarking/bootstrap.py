"""Bootstrap intervals over users: other users of the same kind, these trained models.

A user is one observation. Where users have several rows a metric of resampled users is a ratio (`resampled_parts`).
Why this interval: docs/decisions/101-tests-over-users.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special

from recbole_diffusion.benchmarking.statistics import Interval
from recbole_diffusion.errors import UserError

_DRAWS = 2**22  # numbers of one piece of the bootstrap
_ONE_BY_ONE = 2**22  # up to so many draws users are drawn one by one, once for all columns
_COST_OF_A_COUNT = 10  # drawing how often a value occurs takes about as long as drawing so many users


def resampled_parts(parts: np.ndarray, shares: np.ndarray | None) -> np.ndarray:
    """What to bootstrap so that a resample with more rows is not taken for one with higher values.

    A metric of resampled users is sum (c_u) / sum (n_u), a ratio; to first order its deviation is that of the mean of
    c_u - R (n_u / n - 1), R the metric and n the mean number of rows (the linearised ratio estimator: Cochran, Sampling
    Techniques, 1977, chapter 6).

    Args:
        parts: (users,) c_u of `user_parts`, or differences of such.
        shares: (users,) n_u / n - 1 of `row_shares`.
    """
    return parts if shares is None else parts - parts.mean() * shares


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval | None:
    """Bootstrap confidence interval, bias-corrected and accelerated, of the mean of one value (or difference) a user.

    BCa (Efron, JASA 82, 1987): gains of a few percent of users are skewed, which it corrects for and a percentile
    interval does not. With B means of resampled users, z0 = Phi^-1(share of them below the mean, those equal half),
    a = sum (x - mean)^3 / (6 (sum (x - mean)^2)^1.5), which is the jackknife's acceleration of a mean, and z the
    normal quantile of an end, the end is the quantile Phi(z0 + (z0 + z) / (1 - a (z0 + z))) of the B means.

    Where users are many and the values few different ones, as hits are, a resample is a multinomial draw of how often
    each occurs, which is the same distribution as drawing users one by one. `scipy.stats.bootstrap` gives the same ends
    from the same means (tested), but its jackknife needs users x users numbers.

    Args:
        values: (users,).
        level: of confidence, between 0 and 1.
        resamples: B.
        seed: the same seed gives the same interval.

    Returns:
        None for fewer than two users; both ends at the value where all users have the same.

    Raises:
        UserError: a level or a number of resamples that cannot be.
    """
    return bootstrap_intervals([values], level=level, resamples=resamples, seed=seed)[0]


def bootstrap_intervals(
    columns: Sequence[np.ndarray], *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> list[Interval | None]:
    """`bootstrap_interval` of several columns: the same ends, but users are drawn once for all columns of a length.

    Args:
        columns: (users,) each.
        level, resamples, seed: of `bootstrap_interval`.

    Raises:
        UserError: a level or a number of resamples that cannot be.
    """
    if not 0 < level < 1:
        raise UserError(f"level: {level} is no confidence level; allowed: between 0 and 1, as 0.95")
    if resamples < 100:
        raise UserError(f"resamples: {resamples} are too few for the ends of an interval; allowed: 100 or more")
    intervals: list[Interval | None] = [None] * len(columns)
    by_users: dict[int, list[int]] = {}
    for place, values in enumerate(columns):
        if len(values) < 2:
            continue
        distinct, counts = np.unique(values, return_counts=True)
        if len(distinct) == 1:
            intervals[place] = Interval(float(distinct[0]), float(distinct[0]))
        elif len(values) * resamples > _ONE_BY_ONE and len(distinct) * _COST_OF_A_COUNT < len(values):
            means = _means_by_count(distinct, counts, resamples, np.random.default_rng(seed))
            intervals[place] = _ends(distinct[:, None], counts, means[:, None], level)[0]
        else:
            by_users.setdefault(len(values), []).append(place)
    for users, places in by_users.items():
        in_order = np.sort(np.stack([columns[place] for place in places], axis=1), axis=0)
        means = _means_by_user(in_order, resamples, np.random.default_rng(seed))
        for place, ends in zip(places, _ends(in_order, np.ones(users), means, level), strict=True):
            intervals[place] = ends
    return intervals


def _ends(values: np.ndarray, counts: np.ndarray, means: np.ndarray, level: float) -> list[Interval]:
    """The BCa intervals of the means of some columns.

    Args:
        values: (values, columns).
        counts: (values,) how often a row of them occurs.
        means: (resamples, columns) of resamples.
        level: of confidence.
    """
    resamples = len(means)
    mean = counts @ values / counts.sum()
    rounding = 1e-12 * np.abs(values).max(axis=0)  # the order of a sum must not decide which means equal the mean
    below = ((means < mean - rounding).mean(axis=0) + (means <= mean + rounding).mean(axis=0)) / 2
    bias = scipy.special.ndtri(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    centred = values - mean
    acceleration = counts @ centred**3 / (6 * (counts @ centred**2) ** 1.5)
    in_order = np.sort(means, axis=0)
    low, high = (
        _quantiles(in_order, scipy.special.ndtr(bias + shifted / (1 - acceleration * shifted)))
        for shifted in (bias + scipy.special.ndtri((1 - level) / 2), bias + scipy.special.ndtri((1 + level) / 2))
    )
    return [Interval(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]


def _quantiles(in_order: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """(columns,) a quantile of each sorted column, between two values in proportion as `numpy.quantile` has it."""
    places = shares * (len(in_order) - 1)
    before = np.floor(places).astype(np.intp)
    after = np.minimum(before + 1, len(in_order) - 1)
    first, second = (np.take_along_axis(in_order, rows[None], axis=0)[0] for rows in (before, after))
    quantiles: np.ndarray = first + (second - first) * (places - before)
    return quantiles


def _means_by_count(
    distinct: np.ndarray, counts: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """(resamples,) means of as many values as there are, drawn with replacement: how often each occurs is drawn."""
    users = int(counts.sum())
    piece = max(1, _DRAWS // len(distinct))
    sizes = [min(piece, resamples - done) for done in range(0, resamples, piece)]
    return np.concatenate(
        [generator.multinomial(users, counts / users, size=size) @ distinct / users for size in sizes]
    )


def _means_by_user(columns: np.ndarray, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """(resamples, columns) means of as many rows as there are, drawn with replacement and the same for all columns."""
    users = len(columns)
    piece = max(1, _DRAWS // users)
    means = []
    for done in range(0, resamples, piece):
        size = min(piece, resamples - done)
        drawn = generator.integers(users, size=(size, users)) + users * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * users).reshape(size, users)
        means.append(times.astype(np.float64) @ columns / users)
    return np.concatenate(means)
