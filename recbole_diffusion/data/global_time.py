"""Train before a date, validate and test after it: one date for all users, so that nothing is learnt from the future.

    | training ........ | validation ..... | test ......... |
                   valid_start         test_start

An interaction at a boundary belongs to the later part. Which of a user's interactions in the validation or test part
are asked for is a choice (`TIME_TARGETS`, named as in Gusak et al., "Time to Split", arXiv 2507.16289); their history
is everything the user did before, also within the part. Users without an interaction before the part are left out and
counted: before it there is nothing to predict from.

Times are compared as they are, int64 or float64; equal times are never parted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from logging import getLogger

import numpy as np

from recbole_diffusion.data.histories import Histories, Rows, Split
from recbole_diffusion.data.recbole_splits import (
    count_by_user,
    cut_points,
    normalised_shares,
    positions_of,
    refuse_empty,
    runs,
)
from recbole_diffusion.dates import moment
from recbole_diffusion.errors import UserError

logger = getLogger(__name__)

TIME_TARGETS = ("last", "first", "all", "successive")


def global_time(
    histories: Histories,
    times: np.ndarray,
    *,
    split_time: Sequence[float | str] | None = None,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    target: str = "last",
    min_history: int = 1,
) -> Split:
    """Rows before, between and after two dates.

    Training rows are all items before the first date with at least `min_history` items of their user before them.

    Args:
        histories: the interactions.
        times: (N,) time of each interaction, in the order of the histories, never falling within one of them.
        split_time: first time of validation and first time of test, numbers in the unit of `times` or ISO dates where
            that unit is the second; equal where there is no validation. None takes `ratios`.
        ratios: shares of all interactions in order of time; interactions at the time of the first one of a part all
            belong to that part.
        target: of a user's interactions in the part, ``last`` or ``first`` is asked for, ``all`` in one row with the
            history before the part, or ``successive``: each in its own row.
        min_history: items before a training target, at least.

    Raises:
        UserError: no such target, no such date, or a part gets no row.
    """
    if target not in TIME_TARGETS:
        raise UserError(f"time_target must be one of {', '.join(TIME_TARGETS)}, got {target!r}")
    if not len(histories):
        raise UserError("protocol global_time: there are no interactions; relax the filters")
    key = "split_ratio" if split_time is None else "split_time"
    if split_time is None:
        shares = normalised_shares(ratios, key)
        boundaries = _times_of_shares(histories, times, shares)
    else:
        first, second = moments(split_time)
        shares = [1.0, float(first < second), 1.0]
        boundaries = [_first_not_below(first, times.dtype), _first_not_below(second, times.dtype)]
    before_valid, before_test = (
        histories.lengths if boundary is None else count_by_user(histories, times < boundary) for boundary in boundaries
    )
    _log_parts(histories, before_valid, before_test, boundaries)
    offsets = histories.offsets[:-1]
    split = Split(
        Rows(runs(offsets + min_history, np.maximum(before_valid - min_history, 0), histories)),
        _asked_for(histories, before_valid, before_test, target, "validation"),
        _asked_for(histories, before_test, histories.lengths, target, "test"),
    )
    if split_time is None:
        refuse_empty(split, shares, key)
    else:
        _refuse_dates(split, split_time, shares, times)
    return split


def moments(split_time: Sequence[float | str]) -> tuple[Fraction, Fraction]:
    """The two dates of ``split_time`` as exact numbers.

    Raises:
        UserError: not two, not dates or numbers, or the second before the first.
    """
    try:
        first, second = (moment(value) for value in split_time)
    except (TypeError, ValueError) as error:
        raise UserError(f"split_time must be [first time of validation, first time of test]: {error}") from None
    if second < first:
        raise UserError(f"split_time must begin test after validation, got {list(split_time)}")
    return first, second


def _times_of_shares(histories: Histories, times: np.ndarray, shares: Sequence[float]) -> list[int | float | None]:
    """Time of the first interaction of validation and of test, None where there is none."""

    def time_at(rank: int) -> int | float | None:
        return times[int(np.argmax(histories.place == rank))].item() if rank < len(histories) else None

    return [time_at(rank) for rank in cut_points(len(histories), shares)]


def _first_not_below(boundary: Fraction, kind: np.dtype) -> int | float | None:
    """The least number of type `kind` not below `boundary`, so that comparing with it is exact; None: there is none."""
    if kind.kind != "f":
        limits = np.iinfo(kind)
        least = max(math.ceil(boundary), int(limits.min))
        return least if least <= limits.max else None
    nearest = kind.type(float(boundary))
    if np.isfinite(nearest) and Fraction(float(nearest)) < boundary:
        nearest = np.nextafter(nearest, kind.type(np.inf))
    return float(nearest)


def _asked_for(histories: Histories, begin: np.ndarray, end: np.ndarray, target: str, name: str) -> Rows:
    """Rows of the users with interactions begin .. end - 1 of their own (U,) in a part, and at least one before it."""
    active = np.flatnonzero(end > begin)
    users = active[begin[active] > 0]
    if len(users) < len(active):
        logger.info(
            "%s: %d of %d users have no interaction before the part and are left out",
            name,
            len(active) - len(users),
            len(active),
        )
    first, stop = histories.offsets[users] + begin[users], histories.offsets[users] + end[users]
    if target == "successive":
        return Rows(runs(first, stop - first, histories))
    if target == "all":
        return Rows(positions_of(first, histories).target, positions_of(stop, histories).target)
    return positions_of(first if target == "first" else stop - 1, histories)


def _log_parts(
    histories: Histories, before_valid: np.ndarray, before_test: np.ndarray, boundaries: Sequence[object]
) -> None:
    training, earlier = int(before_valid.sum()), int(before_test.sum())
    logger.info(
        "global_time: %d interactions before %s train, %d before %s validate, %d from then on test",
        training,
        "the end" if boundaries[0] is None else boundaries[0],
        earlier - training,
        "the end" if boundaries[1] is None else boundaries[1],
        len(histories) - earlier,
    )


def _refuse_dates(split: Split, split_time: Sequence[float | str], shares: Sequence[float], times: np.ndarray) -> None:
    parts = zip(("training", "validation", "test"), (split.train, split.valid, split.test), shares, strict=True)
    for name, rows, share in parts:
        if share and not len(rows):
            raise UserError(
                f"split_time {list(split_time)} leaves no {name} row; times run from {times.min()} to {times.max()}"
                " (a date is in seconds since 1970-01-01 UTC)"
            )
