"""A stable sort is a stable sort, whichever way it is done."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recbole_diffusion.data.history_checks import check_histories
from recbole_diffusion.data.stable_order import repeats, stable_order
from recbole_diffusion.errors import UserError

rng = np.random.default_rng(0)
KEYS = {
    "few values": rng.integers(0, 5, 1000),
    "seconds": rng.integers(1_300_000_000, 1_300_000_500, 1000),
    "seconds as float64": rng.integers(1_300_000_000, 1_300_000_500, 1000).astype(np.float64),
    "negative": rng.integers(-50, 50, 1000),
    "int8": rng.integers(-128, 128, 1000).astype(np.int8),
    "uint16": rng.integers(0, 1 << 16, 1000).astype(np.uint16),
    "uint64": rng.integers(0, 1 << 63, 1000, dtype=np.uint64) * np.uint64(2),
    "nanoseconds": rng.integers(1_700_000_000_000_000_000, 1_700_000_000_000_000_099, 1000),
    "the whole range of int64": np.concatenate([[np.iinfo(np.int64).min, np.iinfo(np.int64).max] * 3, np.arange(9)]),
    "a wide range": rng.integers(-(1 << 60), 1 << 60, 1000),
    "fractions": rng.integers(0, 50, 1000) / 7,
    "one fraction": np.array([3.0, 1.0, 2.5, 1.0]),
    "not a number": np.array([3.0, np.nan, 1.0, np.nan, -np.inf]),
    "infinite": np.array([3.0, np.inf, 1.0, np.inf]),
    "huge floats": np.array([1e300, -1e300, 1e300]),
    "negative zero": np.array([0.0, -0.0, -1.0, 0.0]),
    "booleans": np.array([True, False, True]),
    "one": np.array([7]),
    "none": np.array([], dtype=np.int64),
}


@pytest.mark.parametrize("kind", KEYS)
def test_stable_order_is_that_of_numpy(kind: str) -> None:
    keys = KEYS[kind]
    before = keys.copy()
    found = stable_order(keys)
    assert found.dtype == np.int64
    assert found.tolist() == np.argsort(keys, kind="stable").tolist()
    np.testing.assert_array_equal(keys, before)


@pytest.mark.parametrize("keys", [keys for keys in KEYS.values() if keys.dtype.kind == "i"], ids=str)
def test_repeats_are_those_of_pandas(keys: np.ndarray) -> None:
    assert repeats(keys).tolist() == pd.Series(keys).duplicated().tolist()


def test_repeats_by_hand() -> None:
    assert repeats(np.array([5, 3, 5, 5, 4, 3])).tolist() == [False, False, True, True, False, True]
    assert not repeats(np.arange(5)).any()


def test_repeated_interactions_are_those_of_pandas(caplog: pytest.LogCaptureFixture) -> None:
    users = np.sort(rng.integers(1, 60, 1000))
    items = rng.integers(1, 80, 1000)
    check_histories("toy", users, items)
    expected = int(pd.DataFrame({"user": users, "item": items}).duplicated().sum())
    assert expected > 0
    assert f"toy: {expected} of 1000 interactions repeat an earlier (user, item)" in caplog.text


def test_targets_in_their_own_history_by_hand(caplog: pytest.LogCaptureFixture) -> None:
    """u1: a b a b (test b is known, so is validation a); u2: a b c a (test known); u3: a a (too short to have one)."""
    users, items = np.array([1] * 4 + [2] * 4 + [3] * 2), np.array([1, 2, 1, 2, 1, 2, 3, 1, 1, 1])
    with caplog.at_level("INFO"):
        check_histories("toy", users, items, leave_one_out="valid_and_test")
    assert "toy: 1 of 3 users have fewer than 4 interactions" in caplog.text
    assert "toy: 4 of 10 interactions repeat" in caplog.text
    assert "in their own history stand 2 of 2 test targets and 1 of 2 validation targets" in caplog.text


def test_interactions_of_users_may_lie_anywhere(caplog: pytest.LogCaptureFixture) -> None:
    """The same three users, their interactions mixed, each one's own in the same order."""
    users, items = np.array([2, 1, 1, 3, 2, 1, 2, 3, 2, 1]), np.array([1, 1, 2, 1, 2, 1, 3, 1, 1, 2])
    check_histories("toy", users, items, leave_one_out="valid_and_test")
    assert "in their own history stand 2 of 2 test targets and 1 of 2 validation targets" in caplog.text


def test_histories_too_short_for_anyone() -> None:
    with pytest.raises(UserError, match=r"longest history has 2 .* at least 3; change the filters \(none\) or"):
        check_histories("toy", np.array([1, 1]), np.array([1, 2]), leave_one_out="test_only", filters="none")
