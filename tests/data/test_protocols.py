"""The protocols by hand, on real data against direct computations, and what they refuse."""

from __future__ import annotations

import logging
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recbole_diffusion.data.global_time import global_time
from recbole_diffusion.data.histories import Histories, Rows, Split, all_rows, group_by_user
from recbole_diffusion.data.protocols import (
    PROTOCOLS,
    UserParts,
    one_row_per_user,
    split_rows,
    split_users,
    user_split_multi,
    user_split_next,
)
from recbole_diffusion.errors import UserError

# The example of docs/protocols.md: one interaction at each time 1 .. 16, as user and item.
EXAMPLE = "ap aq bq br ar cp cr as at bs cu au bp bt dq ds"
SETTINGS: dict[str, Any] = {
    "protocol": "leave_one_out",
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "split_ratio": [0.8, 0.1, 0.1],
    "split_seed": 1230,
    "user_order": "shuffled",
    "split_time": None,
    "time_target": "last",
    "eval_target": "last",
    "min_history": None,
    "ITEM_ID_FIELD": "item_id",
}


def histories_of(words: str) -> Histories:
    """Words of a user's letter and an item's, one after the other in time; a is user 1, p is item 1."""
    users = np.array([ord(word[0]) - ord("a") + 1 for word in words.split()])
    items = np.array([ord(word[1]) - ord("p") + 1 for word in words.split()], dtype=np.int32)
    return group_by_user(users, {"item_id": items}, int(users.max()) + 1)


@pytest.fixture
def example() -> Histories:
    return histories_of(EXAMPLE)


def times_of(histories: Histories, kind: type = np.int64) -> np.ndarray:
    """1, 2, 3 ... in order of time."""
    return (histories.place.astype(np.int64) + 1).astype(kind)


def written(rows: Rows, histories: Histories) -> list[str]:
    """Rows as "a: pq|r", history and targets as letters."""
    letters = [chr(ord("p") + item - 1) for item in histories.columns["item_id"]]
    found = []
    for index, target in enumerate(rows.target.tolist()):
        stop = target + 1 if rows.stop is None else int(rows.stop[index])
        user = int(histories.users(np.array([target]))[0])
        begin = int(histories.offsets[user])
        assert histories.users(np.array([stop - 1]))[0] == user
        found.append(f"{chr(ord('a') + user - 1)}: {''.join(letters[begin:target])}|{''.join(letters[target:stop])}")
    return found


def parts(split: Split, histories: Histories) -> list[list[str]]:
    return [written(rows, histories) for rows in (split.train, split.valid, split.test)]


def users(*groups: list[int]) -> UserParts:
    return UserParts(*(np.array(group, dtype=np.int64) for group in groups))


# ---- leave_one_out ----


def test_leave_one_out(example: Histories) -> None:
    """c has two examples, the earlier one trains; d has one, which trains."""
    assert parts(split_rows(example, SETTINGS), example) == [
        ["a: p|q", "a: pq|r", "a: pqr|s", "b: q|r", "b: qr|s", "c: p|r", "d: q|s"],
        ["a: pqrs|t", "b: qrs|p"],
        ["a: pqrst|u", "b: qrsp|t", "c: pr|u"],
    ]


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "protocols.md"
BLOCKS = re.findall(r"```\n(\{.*\})\n((?:.*\n)*?)```", DOCUMENT.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("settings", "rows"), BLOCKS, ids=[settings for settings, _ in BLOCKS])
def test_the_examples_of_the_documentation(example: Histories, settings: str, rows: str) -> None:
    split = split_rows(example, {**SETTINGS, **yaml.safe_load(settings)}, times_of(example))
    expected = [line.split("  ") for line in rows.splitlines()]
    assert [line[0].strip() for line in expected] == ["train", "valid", "test"]
    assert parts(split, example) == [[row.strip() for row in line[1:] if row] for line in expected]


def test_the_documentation_has_an_example_of_every_protocol() -> None:
    assert {yaml.safe_load(settings)["protocol"] for settings, _ in BLOCKS} == set(PROTOCOLS)


# ---- users apart ----


def test_user_split_multi(example: Histories) -> None:
    """b trains on items with four before them; floor(0.8 * 3) = 2 and floor(0.8 * 6) = 4 items are history."""
    split = user_split_multi(example, users([2], [3], [1]))
    assert parts(split, example) == [["b: qrsp|t"], ["c: pr|u"], ["a: pqrs|tu"]]
    two = user_split_multi(example, users([2, 3], [1], [1]), min_history=2)
    assert written(two.train, example) == ["b: qr|s", "b: qrs|p", "b: qrsp|t", "c: pr|u"]


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 10, 15, 20, 35, 45, 95, 1000])
def test_the_share_of_history_is_rounded_down_as_comirec_does(length: int) -> None:
    """ComiRec has int(len * 0.8)."""
    histories = group_by_user(np.ones(length, dtype=np.int64), {"item_id": np.arange(length)}, 2)
    split = user_split_multi(histories, users([1], [1], [1]))
    assert split.test.stop is not None
    assert split.test.target.tolist() == [int(length * 0.8)]
    assert split.test.stop.tolist() == [length]


def test_user_split_next(example: Histories) -> None:
    last = user_split_next(example, users([2, 4], [3], [1]))
    assert parts(last, example) == [
        ["b: q|r", "b: qr|s", "b: qrs|p", "b: qrsp|t", "d: q|s"],
        ["c: pr|u"],
        ["a: pqrst|u"],
    ]
    every = user_split_next(example, users([4], [3], [2]), eval_target="all_positions")
    assert parts(every, example)[1:] == [["c: p|r", "c: pr|u"], ["b: q|r", "b: qr|s", "b: qrs|p", "b: qrsp|t"]]


def test_evaluation_users_with_one_interaction_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    histories = histories_of("ap aq bp cq")
    with caplog.at_level(logging.INFO):
        split = user_split_next(histories, users([1], [2, 1], [3]))
    assert parts(split, histories) == [["a: p|q"], ["a: p|q"], []]
    assert "1 of 2 validation users have a single interaction and no row" in caplog.text
    assert "1 of 1 test users have a single interaction and no row" in caplog.text


def test_the_shuffle_is_that_of_comirecs_script() -> None:
    """Users in order of their first line, Python's shuffle, int(0.8 n) and int(0.9 n)."""
    n = 1003
    histories = group_by_user(np.repeat(np.arange(1, n + 1), 2), {}, n + 3)
    ids = list(range(1, n + 1))
    random.Random(1230).shuffle(ids)
    found = split_users(histories, [0.8, 0.1, 0.1], 1230)
    assert [part.tolist() for part in found] == [sorted(ids[:802]), sorted(ids[802:902]), sorted(ids[902:])]
    assert found.train.tolist() != split_users(histories, [0.8, 0.1, 0.1], 1231).train.tolist()


def test_ten_users_and_seed_1230() -> None:
    """A golden value, so that a split does not change with the version of Python or numpy."""
    histories = group_by_user(np.arange(1, 11), {}, 11)
    assert [part.tolist() for part in split_users(histories)] == [[1, 2, 3, 4, 5, 6, 7, 10], [8], [9]]


def test_shares_of_users_are_not_lost_to_floating_point() -> None:
    """0.7 + 0.2 is 0.8999..., and ten users are seven, two and one all the same."""
    histories = group_by_user(np.arange(1, 11), {}, 11)
    assert [len(part) for part in split_users(histories, [0.7, 0.2, 0.1])] == [7, 2, 1]
    assert [len(part) for part in split_users(histories, [7, 2, 1])] == [7, 2, 1]


def test_users_in_order_of_their_first_interaction() -> None:
    """b came first, then d, a, c."""
    histories = histories_of("bp dq ap bq cp aq dp cq")
    found = split_users(histories, [2, 1, 1], order="first_time")
    assert [part.tolist() for part in found] == [[2, 4], [1], [3]]


# ---- global_time ----

BEFORE_9 = ["a: p|q", "a: pq|r", "a: pqr|s", "b: q|r", "c: p|r"]


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(
    ("target", "valid", "test"),
    [
        ("last", ["a: pqrst|u", "b: qr|s", "c: pr|u"], ["b: qrsp|t"]),
        ("first", ["a: pqrs|t", "b: qr|s", "c: pr|u"], ["b: qrs|p"]),
        ("all", ["a: pqrs|tu", "b: qr|s", "c: pr|u"], ["b: qrs|pt"]),
        ("successive", ["a: pqrs|t", "a: pqrst|u", "b: qr|s", "c: pr|u"], ["b: qrs|p", "b: qrsp|t"]),
    ],
)
def test_global_time(example: Histories, target: str, valid: list[str], test: list[str], kind: type) -> None:
    """Training before 9, validation from 9 on, test from 13 on; d came at 15 and has no history before the test."""
    split = global_time(example, times_of(example, kind), split_time=[9, 13], target=target)
    assert parts(split, example) == [BEFORE_9, valid, test]


def test_the_same_dates_by_ratio(example: Histories) -> None:
    """8 of 16 interactions train and 4 validate: the first of validation is at time 9, the first of test at 13."""
    split = global_time(example, times_of(example), ratios=[0.5, 0.25, 0.25])
    assert parts(split, example) == [BEFORE_9, ["a: pqrst|u", "b: qr|s", "c: pr|u"], ["b: qrsp|t"]]


def test_users_without_history_before_a_part_are_counted(example: Histories, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        global_time(example, times_of(example), split_time=[9, 13])
    assert "8 interactions before 9 train, 4 before 13 validate, 4 from then on test" in caplog.text
    assert "test: 1 of 2 users have no interaction before the part and are left out" in caplog.text
    assert "validation: " not in caplog.text


def test_equal_times_are_never_parted() -> None:
    """The first three of seven train; the fourth has time 5 as the third has, so that both belong to validation."""
    histories = histories_of("ap aq bp ar bq br as")
    times = np.array([1, 2, 5, 5, 5, 7, 8])[histories.place]
    split = global_time(histories, times, ratios=[3, 3, 1], target="successive")
    assert parts(split, histories) == [["a: p|q"], ["a: pq|r"], ["a: pqr|s"]]  # b has no interaction before 5


def test_whole_numbers_that_float64_cannot_tell_apart() -> None:
    """Near 1.7e18 the step of float64 is 256."""
    base = 1_700_000_000_000_000_000
    histories = histories_of("ap aq ar as at au")
    times = base + np.array([0, 1, 2, 3, 4, 1024])
    for split_time in ([base + 3, base + 5], [base + 3, float(base) + 1024]):
        split = global_time(histories, times, split_time=split_time)
        assert parts(split, histories) == [["a: p|q", "a: pq|r"], ["a: pqrs|t"], ["a: pqrst|u"]]


@pytest.mark.parametrize("dates", [["2014-09-01", "2014-09-02T00:00:00Z"], ["2014-09-01 02:00+02:00", 1409616000]])
@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_dates_are_seconds_since_1970_in_utc(dates: list[str], kind: type) -> None:
    """2014-09-01 begins at 1409529600; the boundary itself is validation's."""
    histories = histories_of("ap aq ar as at")
    times = np.array([1409443200, 1409529599, 1409529600, 1409615999, 1409616000], dtype=kind)
    split = global_time(histories, times, split_time=dates, target="first")
    assert parts(split, histories) == [["a: p|q"], ["a: pq|r"], ["a: pqrs|t"]]


def test_fractions_of_a_second() -> None:
    histories = histories_of("ap aq ar as")
    times = np.array([0.0, 0.25, 0.5, 0.75])
    split = global_time(histories, times, split_time=["1970-01-01T00:00:00.500000", 0.6])
    assert parts(split, histories) == [["a: p|q"], ["a: pq|r"], ["a: pqr|s"]]


def test_equal_dates_leave_no_validation(example: Histories) -> None:
    split = global_time(example, times_of(example), split_time=[13, 13])
    assert [len(rows) for rows in (split.train, split.valid, split.test)] == [9, 0, 1]
    by_ratio = global_time(example, times_of(example), ratios=[0.75, 0, 0.25])
    assert parts(by_ratio, example) == parts(split, example)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_time": [100, 200]}, r"split_time \[100, 200\] leaves no validation row; times run from 1 to 16"),
        ({"split_time": ["2014-09-01", "2014-10-01"]}, r"leaves no validation row; .* seconds since 1970-01-01 UTC"),
        ({"split_time": [1, 9]}, r"leaves no training row"),
        ({"split_time": [9, 9, 9]}, r"split_time must be \[first time of validation, first time of test\]"),
        ({"split_time": [9, "soon"]}, r"'soon' is neither a number nor a date"),
        ({"split_time": [13, 9]}, r"must begin test after validation, got \[13, 9\]"),
        ({"split_time": [10**30, 10**31]}, r"leaves no validation row"),
        ({"split_ratio": [0.98, 0.01, 0.01]}, r"split_ratio \[0\.98, 0\.01, 0\.01\] leaves no validation row"),
        ({"split_ratio": [1, 1]}, r"split_ratio must be three ratios"),
        ({"split_time": [9, 13], "time_target": "lst"}, r"time_target must be one of last, first, all, successive"),
    ],
)
def test_impossible_times(example: Histories, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        split_rows(example, {**SETTINGS, "protocol": "global_time", **settings}, times_of(example))
    assert "\n" not in str(caught.value)


# ---- by configuration ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protocol": "leave_two_out"}, r"protocol must be one of leave_one_out, user_split_multi"),
        ({"protocol": "user_split_multi"}, r"split_ratio \[0\.8, 0\.1, 0\.1\] leaves no validation row"),
        ({"protocol": "user_split_next", "user_order": "random"}, r"user_order must be one of shuffled, first_time"),
        ({"protocol": "user_split_next", "eval_target": "next"}, r"eval_target must be one of last, all_positions"),
        ({"protocol": "global_time"}, r"protocol: global_time needs the time of each interaction; set TIME_FIELD"),
        ({"eval_args": {"split": {"TS": [8, 1, 1]}, "order": "TO"}}, r"eval_args\.split\.TS needs the time"),
        ({"eval_args": {"split": {"LS": "test_only"}, "order": "RO"}}, r"eval_args\.order must be TO .*, got 'RO'"),
        ({"eval_args": {"split": {"XS": 1}, "order": "TO"}}, r"eval_args\.split must be LS, RS or TS, got 'XS'"),
    ],
)
def test_impossible_settings(example: Histories, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        split_rows(example, {**SETTINGS, **settings})
    assert "\n" not in str(caught.value)


def test_the_keys_reach_the_protocols(example: Histories) -> None:
    times = times_of(example)

    def found(**settings: Any) -> list[list[str]]:
        return parts(split_rows(example, {**SETTINGS, **settings}, times), example)

    quarters = {"split_ratio": [2, 1, 1], "user_order": "first_time"}
    assert found(protocol="user_split_next", **quarters, eval_target="all_positions")[1:] == [
        ["c: p|r", "c: pr|u"],
        ["d: q|s"],
    ]
    assert found(protocol="user_split_next", **quarters, min_history=5)[0] == ["a: pqrst|u"]
    assert found(protocol="user_split_multi", **quarters) == [
        ["a: pqrs|t", "a: pqrst|u", "b: qrsp|t"],
        ["c: pr|u"],
        ["d: q|s"],
    ]
    assert found(protocol="global_time", split_time=[9, 13], time_target="all")[2] == ["b: qrs|pt"]
    assert found(protocol="global_time", split_time=[9, 13], min_history=3)[0] == ["a: pqr|s"]
    ratio = {"split": {"RS": [1, 1, 1]}, "order": "TO", "group_by": None}
    assert [len(part) for part in found(protocol="eval_args", eval_args=ratio)] == [4, 4, 4]
    assert found(protocol=None, eval_args=ratio) == found(protocol="eval_args", eval_args=ratio)
    assert found(protocol=None, eval_args={**ratio, "group_by": "user"}) != found(protocol=None, eval_args=ratio)
    # three quarters of the examples lie at or below 12.25; before it a has 5, b 2, c 2, of which int(2 / 3) train
    by_time = {**ratio, "split": {"TS": [2, 1, 1]}}
    assert [len(part) for part in found(protocol="eval_args", eval_args=by_time)] == [5, 4, 3]


def test_targets_that_training_never_saw_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    """p, q are training targets, u stands in the history of one; r and t are new."""
    histories = histories_of("ap aq ar at bq bp br bu cu cp cq cr")
    with caplog.at_level(logging.INFO):
        split = split_rows(histories, SETTINGS)
    assert parts(split, histories)[2] == ["a: pqr|t", "b: qpr|u", "c: upq|r"]
    assert "protocol leave_one_out {'LS': 'valid_and_test'}: 3 training, 3 validation, 3 test rows" in caplog.text
    assert "2 of 3 validation targets are items that no training row has" in caplog.text  # r of a and of b
    assert "2 of 3 test targets are items that no training row has" in caplog.text  # t of a, r of c


# ---- one row of each user ----


def test_one_row_of_each_user(example: Histories) -> None:
    rows = all_rows(example)
    shuffled = rows.take(np.random.default_rng(0).permutation(len(rows)))
    for given in (rows, shuffled):
        counts: dict[int, int] = {}
        generator = torch.Generator().manual_seed(3)
        for _ in range(3000):
            chosen = given.take(one_row_per_user(given, example, generator))
            assert example.users(chosen.target).tolist() == [1, 2, 3, 4]
            for target in chosen.target.tolist():
                counts[target] = counts.get(target, 0) + 1
        # a has 5 rows, b 4, c 2, d 1; four standard deviations of a binomial of 3000
        assert sorted(counts) == rows.target.tolist()
        for target, count in counts.items():
            share = 1 / {1: 5, 2: 4, 3: 2, 4: 1}[int(example.users(np.array([target]))[0])]
            assert abs(count - 3000 * share) <= 4 * (3000 * share * (1 - share)) ** 0.5


def test_the_same_generator_draws_the_same_rows(example: Histories) -> None:
    rows = all_rows(example)

    def draw(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [one_row_per_user(rows, example, generator).tolist() for _ in range(5)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_users_without_rows_are_not_drawn() -> None:
    histories = histories_of("ap aq ar bp cp cq")
    split = user_split_multi(histories, users([1, 3], [1], [1]), min_history=1)
    chosen = one_row_per_user(split.train, histories, torch.Generator())
    assert histories.users(split.train.target[chosen]).tolist() == [1, 3]
    nobody = Rows(split.train.target[:0])
    assert one_row_per_user(nobody, histories, torch.Generator()).tolist() == []


# ---- real data ----


def real(shared: Path, name: str) -> tuple[Histories, list[list[int]]]:
    """Histories of a dataset whose times are positions, and the same as a list of item lists by user."""
    frame = pd.read_csv(shared / "data" / name / f"{name}.inter", sep="\t", dtype=str)
    frame.columns = [column.split(":")[0] for column in frame.columns]
    frame["user"] = pd.factorize(frame["user_id"])[0] + 1
    frame["item"] = pd.factorize(frame["item_id"])[0] + 1
    frame["time"] = frame["timestamp"].astype(np.float64)
    by_time = frame.sort_values("time", kind="stable")
    items = by_time["item"].to_numpy().astype(np.int32)
    histories = group_by_user(by_time["user"].to_numpy(), {"item_id": items}, int(frame["user"].max()) + 1)
    lists: list[list[int]] = [[] for _ in range(int(frame["user"].max()) + 1)]
    for user, item in zip(by_time["user"].tolist(), items.tolist(), strict=True):
        lists[user].append(item)
    return histories, lists


def test_user_split_multi_of_gowalla(shared: Path) -> None:
    """Row for row as ComiRec's script and iterator cut the same lists."""
    histories, lists = real(shared, "gowalla")
    split = split_rows(histories, {**SETTINGS, "protocol": "user_split_multi"})
    order = list(range(1, len(lists)))
    random.Random(1230).shuffle(order)
    assert len(order) == 29858
    groups = sorted(order[:23886]), sorted(order[23886:26872]), sorted(order[26872:])
    item = histories.columns["item_id"]
    expected = [lists[user][k] for user in groups[0] for k in range(4, len(lists[user]))]
    assert item[split.train.target].tolist() == expected
    for rows, group in ((split.valid, groups[1]), (split.test, groups[2])):
        assert rows.stop is not None
        assert len(rows) == len(group)
        for user, target, stop in zip(group, rows.target, rows.stop, strict=True):
            k = int(len(lists[user]) * 0.8)
            assert item[histories.offsets[user] : target].tolist() == lists[user][:k]
            assert item[target:stop].tolist() == lists[user][k:]


def test_user_split_next_of_yoochoose(shared: Path) -> None:
    histories, lists = real(shared, "yoochoose-valtest")
    split = split_rows(histories, {**SETTINGS, "protocol": "user_split_next"})
    assert len(split.valid) + len(split.test) == 25694 - int(0.8 * 25694)
    for rows in (split.valid, split.test):
        owners = histories.users(rows.target)
        assert (np.diff(owners) > 0).all()
        assert histories.columns["item_id"][rows.target].tolist() == [lists[user][-1] for user in owners]
    trained = np.unique(histories.users(split.train.target))
    evaluated = histories.users(np.concatenate([split.valid.target, split.test.target]))
    assert np.intersect1d(trained, evaluated).size == 0
    assert len(split.train) == sum(len(lists[user]) - 1 for user in trained)


def test_global_time_of_ml_100k(shared: Path) -> None:
    """Every training target is earlier than every validation target, and those than the test's."""
    frame = pd.read_csv(shared / "data" / "ml-100k" / "ml-100k.inter", sep="\t")
    frame.columns = [column.split(":")[0] for column in frame.columns]
    frame = frame.sort_values("timestamp", kind="stable")
    columns = {"item_id": frame["item_id"].to_numpy(), "time": frame["timestamp"].to_numpy().astype(np.int64)}
    histories = group_by_user(frame["user_id"].to_numpy(), columns, 944)
    times = histories.columns["time"]
    split = split_rows(
        histories, {**SETTINGS, "protocol": "global_time", "split_time": ["1998-03-01", "1998-04-01"]}, times
    )
    march, april = 888710400, 891388800
    assert times[split.train.target].max() < march <= times[split.valid.target].min()
    assert times[split.valid.target].max() < april <= times[split.test.target].min()
    ordered = frame.groupby("user_id")["timestamp"]
    before = ordered.apply(lambda own: int((own < march).sum()))
    assert len(split.train) == int((before - 1).clip(lower=0).sum())
    both = ordered.apply(lambda own: bool((own < april).any() and (own >= april).any()))
    assert len(split.test) == int(both.sum())
