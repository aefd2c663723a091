"""Rows of the speed benchmark: split, padding, and the counts that are known for Amazon Beauty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from leave_one_out import LeaveOneOut, Rows, read_leave_one_out


def write_interactions(folder: Path, lines: list[str]) -> Path:
    (folder / "small").mkdir()
    path = folder / "small" / "small.inter"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_sequences_follow_time_and_keep_the_file_order_of_equal_times(tmp_path: Path) -> None:
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += ["u\ta\t30", "u\tb\t10", "v\tb\t5", "u\tc\t10", "u\td\t20"]
    write_interactions(tmp_path, lines)
    data = read_leave_one_out(tmp_path, "small")
    numbers = {"a": 1, "b": 2, "c": 3, "d": 4}
    assert data.sequences == [[numbers[item] for item in "bcda"], [numbers["b"]]]
    assert data.n_items == 4


def test_training_rows_leave_out_the_last_two_items() -> None:
    data = LeaveOneOut([[1, 2, 3, 4, 5], [6, 7, 8], [9, 1]], 9)
    assert data.prefixes.tolist() == [[0, 1], [0, 2]]
    assert data.test_users.tolist() == [0, 1]
    rows = data.random_prefixes(2, np.random.default_rng(0), max_length=50)
    assert sorted(zip(rows.histories, rows.targets.tolist())) == [([1], 2), ([1, 2], 3)]
    users = data.random_test_users(2, np.random.default_rng(0), max_length=3)
    assert sorted(zip(users.histories, users.targets.tolist())) == [([2, 3, 4], 5), ([6, 7], 8)]


def test_padding() -> None:
    rows = Rows([[1, 2], [3, 4, 5]], np.array([6, 7]))  # type: ignore[arg-type]
    assert rows.left_padded(4).tolist() == [[0, 0, 1, 2], [0, 3, 4, 5]]
    assert rows.right_padded(4).tolist() == [[1, 2, 0, 0], [3, 4, 5, 0]]
    assert rows.lengths().tolist() == [2, 3]


def test_a_missing_file_or_column_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--data_path"):
        read_leave_one_out(tmp_path, "small")
    path = write_interactions(tmp_path, ["user_id:token\titem_id:token", "u\ta"])
    with pytest.raises(ValueError, match=f"{path.name}:1: .*timestamp is needed"):
        read_leave_one_out(tmp_path, "small")


def test_amazon_beauty_has_its_known_rows(shared: Path) -> None:
    data = read_leave_one_out(shared / "data", "amazon-beauty")
    assert (len(data.prefixes), len(data.test_users), data.n_items) == (131_413, 22_363, 12_101)
