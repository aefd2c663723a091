"""Histories kept once: hand-computed layouts, spans and gathers."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_diffusion.data.histories import (
    Rows,
    all_rows,
    gather,
    group_by_user,
    history_spans,
    smallest_integer_type,
)


def small() -> tuple[np.ndarray, np.ndarray]:
    """Six interactions in order of time: users 2 1 2 2 3 1, items 5 6 7 8 9 4."""
    return np.array([2, 1, 2, 2, 3, 1]), np.array([5, 6, 7, 8, 9, 4], dtype=np.uint8)


def test_interactions_lie_by_user_in_order_of_time() -> None:
    users, items = small()
    histories = group_by_user(users, {"item": items}, n_users=5)
    assert histories.offsets.tolist() == [0, 0, 2, 5, 6, 6]  # ids 0 (padding) and 4 own nothing
    assert histories.columns["item"].tolist() == [6, 4, 5, 7, 8, 9]
    assert histories.place.tolist() == [1, 5, 0, 2, 3, 4]
    assert histories.lengths.tolist() == [0, 2, 3, 1, 0]
    assert len(histories) == 6
    assert histories.users(np.arange(6)).tolist() == [1, 1, 2, 2, 2, 3]


def test_every_interaction_but_a_users_first_is_an_example() -> None:
    users, items = small()
    histories = group_by_user(users, {"item": items}, n_users=5)
    assert all_rows(histories).target.tolist() == [1, 3, 4]


def test_spans_and_gather_by_hand() -> None:
    users, items = small()
    histories = group_by_user(users, {"item": items}, n_users=5)
    begin, length = history_spans(histories, np.array([0, 1, 4, 5]), limit=50)
    assert begin.tolist() == [0, 0, 2, 5]
    assert length.tolist() == [0, 1, 2, 0]
    assert gather(histories.columns["item"], begin, length, 3).tolist() == [[0, 0, 0], [6, 0, 0], [5, 7, 0], [0, 0, 0]]
    begin, length = history_spans(histories, np.array([4]), limit=1)
    assert (begin.tolist(), length.tolist()) == ([3], [1])  # the latest item, not the first


def test_gather_of_pairs_and_of_nothing() -> None:
    column = np.arange(8, dtype=np.float32).reshape(4, 2)
    found = gather(column, np.array([1]), np.array([2]), 3)
    assert found.tolist() == [[[2.0, 3.0], [4.0, 5.0], [0.0, 0.0]]]
    assert gather(np.array([], dtype=np.uint8), np.array([], dtype=int), np.array([], dtype=int), 4).shape == (0, 4)


@pytest.mark.parametrize("limit", [1, 3, 50])
def test_gather_equals_a_loop(limit: int) -> None:
    generator = np.random.default_rng(limit)
    users = np.sort(generator.integers(1, 30, 400))
    items = generator.integers(1, 1000, 400).astype(np.uint16)
    histories = group_by_user(users, {"item": items}, n_users=30)
    target = all_rows(histories).target
    begin, length = history_spans(histories, target, limit)
    found = gather(histories.columns["item"], begin, length, limit)
    for row, position in enumerate(target.tolist()):
        own = [items[i] for i in range(position) if users[i] == users[position]][-limit:]
        assert found[row].tolist() == own + [0] * (limit - len(own))


def test_types_are_the_narrowest_that_hold_the_values() -> None:
    kinds = [smallest_integer_type(largest) for largest in (255, 256, 65535, 65536, 2**31 - 1, 2**31)]
    assert kinds == [np.uint8, np.uint16, np.uint16, np.int32, np.int32, np.int64]


def test_rows_are_taken_with_their_stops() -> None:
    rows = Rows(np.array([3, 7, 9]), np.array([5, 8, 12]))
    taken = rows.take(np.array([2, 0]))
    assert (taken.target.tolist(), taken.stop.tolist() if taken.stop is not None else None) == ([9, 3], [12, 5])
    assert len(rows.take(np.array([True, False, True]))) == 2
