"""RecBole's own splits of the examples of histories: leave-one-out, by ratio, by time and ratio.

Same rows in the same order as `recbole.data.dataset.SequentialDataset.build`, which cuts out every prefix as an
example, sorts the examples by time (stable), and then groups them by user: users stand in the order of their first
example, the examples of one user in order of time. Here an example is the position of its target (:mod:`.histories`), a
user's examples lie side by side, and every part of a split is a run of positions for each user: no loop over users.

Shapes: N interactions, U users, V users with at least one example, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from recbole_diffusion.data.histories import Histories, Rows, Split, smallest_integer_type
from recbole_diffusion.errors import UserError

LEAVE_ONE_OUT_MODES = ("valid_and_test", "valid_only", "test_only")


def runs(begin: np.ndarray, count: np.ndarray, histories: Histories) -> np.ndarray:
    """Positions begin[0] .. begin[0] + count[0] - 1, then those from begin[1], and so on, end to end.

    Args:
        begin: (V,) first positions.
        count: (V,) how many from each, none negative.
        histories: what the positions are of; their number decides the integer type.

    Returns:
        (sum of count,) in the narrowest integer type that holds every position.
    """
    positions_type = smallest_integer_type(len(histories))
    signed = np.promote_types(positions_type, np.int32)
    ends = np.cumsum(count, dtype=np.int64)
    positions = np.arange(int(ends[-1]) if len(ends) else 0, dtype=signed)
    positions += np.repeat((begin - (ends - count)).astype(signed), count)
    return positions.astype(positions_type, copy=False)


def positions_of(positions: np.ndarray, histories: Histories) -> Rows:
    """Rows with one target each, at `positions` (R,), in the narrowest integer type."""
    return Rows(positions.astype(smallest_integer_type(len(histories)), copy=False))


def leave_one_out(histories: Histories, mode: str = "valid_and_test") -> Split:
    """RecBole's ``eval_args.split: {LS: mode}``: each user's last example tests, the one before it validates.

    A user keeps at least one training example: with two examples there is no validation row, with one neither.

    Args:
        histories: the interactions.
        mode: ``valid_and_test``, ``valid_only`` (the last one validates) or ``test_only`` (the last one tests).

    Raises:
        UserError: no such mode, or no history is long enough for a part that the mode has.
    """
    if mode not in LEAVE_ONE_OUT_MODES:
        raise UserError(f"eval_args.split.LS must be one of {', '.join(LEAVE_ONE_OUT_MODES)}, got {mode!r}")
    leave = 2 if mode == "valid_and_test" else 1
    longest = int(histories.lengths.max(initial=0))
    if longest < leave + 2:
        raise UserError(
            f"the longest history has {longest} interactions, leave-one-out ({mode}) needs at least {leave + 2}; "
            "relax user_inter_num_interval or set eval_args.split"
        )
    begin, count = _examples_by_user(histories)
    left = np.minimum(leave, count - 1)
    last = positions_of((begin + count - 1)[left >= 1], histories)
    before = positions_of((begin + count - 2)[left >= 2], histories)
    nothing = positions_of(begin[:0], histories)
    train = Rows(runs(begin, count - left, histories))
    if mode == "valid_and_test":
        return Split(train, before, last)
    return Split(train, last, nothing) if mode == "valid_only" else Split(train, nothing, last)


def by_ratio(histories: Histories, ratios: Sequence[float], group_by_user: bool) -> Split:
    """RecBole's ``eval_args.split: {RS: ratios}`` in order of time.

    Args:
        histories: the interactions.
        ratios: training, validation, test; their sum need not be 1.
        group_by_user: each user's examples are cut (``group_by: user``), or those of all users together (``~``).

    Raises:
        UserError: not three ratios, or a part with a ratio above 0 gets no row.
    """
    shares = normalised_shares(ratios, "eval_args.split.RS")
    if group_by_user:
        begin, count = _examples_by_user(histories)
        first, second = _cuts(count, shares)
        split = Split(
            Rows(runs(begin, first, histories)),
            Rows(runs(begin + first, second - first, histories)),
            Rows(runs(begin + second, count - second, histories)),
        )
    else:
        order = _examples_by_time(histories)
        train, earlier = (int(cut[0]) for cut in _cuts(np.array([len(order)]), shares))
        split = Split(Rows(order[:train]), Rows(order[train:earlier]), Rows(order[earlier:]))
    refuse_empty(split, shares, "eval_args.split.RS")
    return split


def by_time_ratio(histories: Histories, ratios: Sequence[float], times: np.ndarray) -> Split:
    """RecBole's ``eval_args.split: {TS: ratios}``: examples after one date test, each user's others are cut by ratio.

    The date is the time below which a share of 1 - ratios[2] of all examples lies, by linear interpolation as RecBole
    has it; whole numbers, which RecBole would round to float32, are compared exactly.

    Args:
        histories: the interactions.
        ratios: training, validation, test; their sum need not be 1.
        times: (N,) time of each interaction, in the order of the histories, never falling within one of them.

    Raises:
        UserError: not three ratios, or a part with a ratio above 0 gets no row.
    """
    shares = normalised_shares(ratios, "eval_args.split.TS")
    example = _is_example(histories)
    if not example.any():
        raise UserError("no user has two interactions, so there is no example to split; relax user_inter_num_interval")
    # Between two neighbouring times the interpolated boundary decides like the lower of them. Interpolating would take
    # whole numbers to float64, in which neighbours above 2**53 are one.
    method: Literal["linear", "lower"] = "linear" if times.dtype.kind == "f" else "lower"
    boundary = np.percentile(times[example], 100 * (1 - shares[2]), method=method)
    begin, count = _examples_by_user(histories)
    example &= times <= boundary
    before = count_by_user(histories, example)[histories.users(begin)]
    first = (before * (shares[0] / (1 - shares[2]))).astype(np.int64)
    split = Split(
        Rows(runs(begin, first, histories)),
        Rows(runs(begin + first, before - first, histories)),
        Rows(runs(begin + before, count - before, histories)),
    )
    refuse_empty(split, shares, "eval_args.split.TS")
    return split


def count_by_user(histories: Histories, chosen: np.ndarray) -> np.ndarray:
    """How many interactions of each user are chosen by a mask (N,): (U,) int64."""
    owners = np.flatnonzero(histories.lengths)
    counts = np.zeros(len(histories.offsets) - 1, dtype=np.int64)
    if len(owners):
        counts[owners] = np.add.reduceat(chosen, histories.offsets[owners], dtype=np.int64)
    return counts


def normalised_shares(ratios: Sequence[float], key: str) -> list[float]:
    """Three ratios divided by their sum.

    Raises:
        UserError: not three numbers of at least 0, the first above 0; names `key`.
    """
    numbers = list(ratios)
    if len(numbers) != 3 or not all(0 <= ratio < np.inf for ratio in numbers) or numbers[0] <= 0:
        raise UserError(
            f"{key} must be three ratios of training, validation and test such as [0.8, 0.1, 0.1], the first above 0, "
            f"got {ratios!r}"
        )
    total = sum(numbers)
    return [ratio / total for ratio in numbers]


def cut_points(n: int, shares: Sequence[float]) -> tuple[int, int]:
    """Where the second and the third part of `n` begin, rounded down; 0.7 + 0.2 counts as 0.9."""
    first, second = (int(round(n * share, 6)) for share in (shares[0], shares[0] + shares[1]))
    return first, second


def refuse_empty(split: Split, shares: Sequence[float], key: str) -> None:
    """Refuse a split in which a part with a share above 0 has no row.

    Raises:
        UserError: names the part and `key`.
    """
    parts = zip(("training", "validation", "test"), (split.train, split.valid, split.test), shares, strict=True)
    for name, rows, share in parts:
        if share > 0 and not len(rows):
            raise UserError(
                f"{key} {[round(share, 6) for share in shares]} leaves no {name} row of "
                f"{len(split.train) + len(split.valid) + len(split.test)}; change {key} or relax the filters"
            )


def _is_example(histories: Histories) -> np.ndarray:
    """Which interactions have one before them, (N,) bool."""
    example = np.ones(len(histories), dtype=bool)
    example[histories.offsets[:-1][histories.lengths > 0]] = False
    return example


def _examples_by_user(histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """First example and number of examples of the users who have any, in order of their first example: (V,) twice."""
    count = histories.lengths - 1
    users = np.flatnonzero(count > 0)
    begin = histories.offsets[users] + 1
    order = np.argsort(histories.place[begin], kind="stable")
    return begin[order], count[users][order]


def _examples_by_time(histories: Histories) -> np.ndarray:
    """Positions of all examples in order of time, (R,)."""
    order = np.empty(len(histories), dtype=smallest_integer_type(len(histories)))
    order[histories.place] = np.arange(len(histories), dtype=order.dtype)
    return order[_is_example(histories)[order]]


def _cuts(count: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Where validation and test begin among `count` (V,) examples, in RecBole's arithmetic.

    Every part but the first is rounded down; a part that should have less than one example but more than none gets one,
    test before validation, while training keeps more than one.
    """
    expected = [share * count for share in shares]
    parts = [number.astype(np.int64) for number in expected]
    parts[0] = count - parts[1] - parts[2]
    going = np.ones(len(count), dtype=bool)
    for part in (2, 1):
        going &= parts[0] > 1
        one_more = going & (expected[part] > 0) & (expected[part] < 1)
        parts[part] += one_more
        parts[0] -= one_more
    return parts[0], parts[0] + parts[1]
