"""Examples as RecBole's Interaction: the same answers as RecBole's own, from positions."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_diffusion.data.histories import Rows, all_rows, group_by_user
from recbole_diffusion.data.sequences import ExampleFields, ExampleRows

NAMES = ["user_id", "item_id", "timestamp", "item_length", "item_id_list", "timestamp_list"]


def examples(fixed_width: bool = True, keep: bool = False) -> ExampleRows:
    """20 users of 1 to 9 interactions, limit 6."""
    generator = np.random.default_rng(7)
    users = np.repeat(np.arange(1, 21), generator.integers(1, 10, 20))
    columns = {
        "item_id": generator.integers(1, 200, len(users)).astype(np.uint8),
        "timestamp": np.arange(len(users), dtype=np.int32),
    }
    histories = group_by_user(users, columns, n_users=21)
    fields = ExampleFields("user_id", "item_length", "_list", frozenset({"timestamp"}), 6, fixed_width)
    return ExampleRows(histories, fields, all_rows(histories), keep=keep)


def written_out(rows: ExampleRows) -> Interaction:
    """The same rows as RecBole holds them."""
    return Interaction({name: rows[name].clone() for name in rows})


def same(found: Interaction, expected: Interaction) -> None:
    assert set(found.columns) == set(expected.columns)
    assert len(found) == len(expected)
    for name in expected.columns:
        assert found[name].dtype == expected[name].dtype, name
        assert torch.equal(found[name], expected[name]), name


def test_columns_types_and_shapes() -> None:
    rows = examples()
    assert rows.columns == NAMES
    assert rows["item_id_list"].shape == (len(rows), 6)
    assert (rows["item_id"].dtype, rows["timestamp"].dtype) == (torch.int64, torch.float32)
    assert "item_id_list" in rows
    assert "rating" not in rows


@pytest.mark.parametrize(
    "index",
    [
        np.array([3, 0, 5]),
        [4, 4, 1],
        slice(2, 30, 5),
        torch.tensor([8, 2]),
        range(3),
        "mask",
    ],
    ids=str,
)
def test_rows_of_an_index_are_those_of_recbole(index: Any) -> None:
    rows = examples()
    expected = written_out(rows)
    if isinstance(index, str):
        index = rows["item_length"] == 1
    theirs = list(index) if isinstance(index, range) else index
    same(rows[index], expected[theirs])


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.repeat(3),
        lambda rows: rows.repeat_interleave(2),
        lambda rows: rows.to("cpu"),
        lambda rows: rows.cpu(),
        copy.deepcopy,
        lambda rows: pickle.loads(pickle.dumps(rows)),  # noqa: S301
        lambda rows: rows[[1, 0]][[1]],
    ],
    ids=["repeat", "repeat_interleave", "to", "cpu", "deepcopy", "pickle", "twice"],
)
@pytest.mark.parametrize("read_before", [[], ["item_id_list"], NAMES], ids=["unread", "history", "all"])
def test_changes_give_what_recbole_gives(change: Callable[[Any], Any], read_before: list[str]) -> None:
    batch = examples()[np.arange(4, 12)]
    expected = change(written_out(batch))
    for name in read_before:
        batch[name]
    same(change(batch), expected)


def test_sort_and_shuffle_in_place() -> None:
    rows = examples()
    expected = written_out(rows)
    for interaction in (rows, expected):
        interaction.sort(by=["item_length", "item_id"])
    same(rows, expected)
    torch.manual_seed(0)
    rows.shuffle()
    torch.manual_seed(0)
    expected.shuffle()
    same(rows, expected)


def test_added_changed_and_dropped_columns() -> None:
    batch = examples()[np.arange(5)]
    batch.update(Interaction({"label": torch.ones(5)}))
    batch["item_id"][0] = 199
    batch.drop("timestamp_list")
    assert "timestamp_list" not in batch
    taken = batch[[0, 4]]
    assert taken["label"].tolist() == [1.0, 1.0]
    assert taken["item_id"][0] == 199
    assert "timestamp_list" not in taken
    with pytest.raises(ValueError, match="not in"):
        batch.drop("timestamp_list")
    batch.add_prefix("neg_")
    assert batch.columns == [
        "neg_user_id",
        "neg_item_id",
        "neg_timestamp",
        "neg_item_length",
        "neg_item_id_list",
        "neg_label",
    ]


def test_nothing_is_gathered_before_it_is_read() -> None:
    batch = examples()[np.arange(5)].to("cpu")
    assert dict(batch.interaction.computed()) == {}
    batch["item_id_list"]
    assert list(dict(batch.interaction.computed())) == ["item_id_list"]


def test_histories_are_as_wide_as_the_longest_of_the_batch() -> None:
    rows = examples(fixed_width=False)
    lengths = rows["item_length"]
    short = np.flatnonzero(lengths.numpy() <= 2)
    batch = rows[short]
    assert batch["item_id_list"].shape[1] == 2
    assert batch[[0]]["item_id_list"].shape[1] == 2  # rows of a batch keep its width
    assert batch[[0]]["timestamp_list"].shape[1] == 2
    fixed = examples(fixed_width=True)[short]["item_id_list"]
    assert torch.equal(batch["item_id_list"], fixed[:, :2])
    assert int(fixed[:, 2:].abs().sum()) == 0
    assert rows.part(rows.rows, fixed_width=True)[short]["item_id_list"].shape[1] == 6


def test_a_whole_part_keeps_no_column() -> None:
    rows = examples()
    rows["item_id_list"]
    assert dict(rows.interaction.computed()) == {}
    wide = examples(fixed_width=False)
    wide["item_id_list"]
    assert wide.width is None


def test_a_part_has_its_own_rows() -> None:
    rows = examples()
    part = rows.part(Rows(rows.rows.target[:3]))
    assert len(part) == 3
    assert torch.equal(part["item_id"], rows["item_id"][:3])
