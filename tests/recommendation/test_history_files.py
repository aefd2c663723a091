"""Histories of both forms as a stream of users: order, cuts, types; what is refused."""

from __future__ import annotations

import datetime
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation import history_files
from recbole_diffusion.recommendation.history_files import HistoryFields, HistoryFile


def write(path: Path, columns: dict[str, Any], row_group: int = 1000) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=row_group)
    return path


def sort_in_memory(folder: Path, columns: list[str]) -> Iterator[pyarrow.Table]:
    """What Ray Data does, for tests without it: two rows at a time."""
    table = pyarrow.parquet.read_table(folder).sort_by([(name, "ascending") for name in columns])
    for begin in range(0, len(table), 2):
        yield table.slice(begin, 2)


def never(folder: Path, columns: list[str]) -> Iterator[pyarrow.Table]:
    raise AssertionError("there is nothing to sort")


def users_of(source: HistoryFile, size: int, work: Path, sort: Any = never) -> list[list[tuple[Any, Any]]]:
    tables = source.users(size, work, sort)
    return [[(row["user"], row["items"]) for row in table.to_pylist()] for table in tables]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lists_come_as_they_stand(size: int, tmp_path: Path) -> None:
    rows = [(3, ["a", "b"]), (1, []), (2, None), (1, ["c"]), (9, ["d"])]
    file = write(
        tmp_path / "in.parquet",
        {
            "item_id": pyarrow.array([items for _, items in rows]),
            "user_id": [user for user, _ in rows],
            "more": [0] * 5,
        },
        row_group=2,
    )
    source = HistoryFile(file, HistoryFields())
    assert source.lists and source.rows == 5 and source.user_type == pyarrow.int64()
    parts = users_of(source, size, tmp_path)
    assert [row for part in parts for row in part] == rows
    assert all(len(part) == size for part in parts[:-1]) and len(parts[-1]) <= size


def test_a_folder_of_files_is_one_after_the_other(tmp_path: Path) -> None:
    for name, user in (("b.parquet", "v"), ("a.parquet", "u")):
        write(tmp_path / name, {"user_id": [user], "item_id": pyarrow.array([[user]])})
    source = HistoryFile(tmp_path, HistoryFields())
    assert users_of(source, 10, tmp_path) == [[("u", ["u"]), ("v", ["v"])]]
    write(tmp_path / "c.parquet", {"user_id": [1], "item_id": pyarrow.array([["c"]])})
    with pytest.raises(UserError, match="columns of different types"):
        HistoryFile(tmp_path, HistoryFields())


INTERACTIONS = {
    "user_id": ["a", "a", "a", "b", "c", "c"],
    "item_id": [5, 3, 4, 1, 2, 1],
    "timestamp": [1.0, 2.0, 2.0, 0.0, 7.0, 8.0],
}
GROUPED = [("a", [5, 3, 4]), ("b", [1]), ("c", [2, 1])]


@pytest.mark.parametrize("rows", [1, 2, 65_536])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_interactions_in_order_are_read_as_they_come(
    rows: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_files, "ROWS", rows)
    source = HistoryFile(write(tmp_path / "in.parquet", INTERACTIONS), HistoryFields())
    assert not source.lists and source.item_type == pyarrow.int64()
    parts = users_of(source, size, tmp_path / "work")
    assert [row for part in parts for row in part] == GROUPED
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("rows", [1, 2, 65_536])
@pytest.mark.parametrize("order", [[3, 0, 4, 1, 5, 2], [0, 1, 2, 4, 3, 5], [5, 4, 3, 0, 1, 2]])
def test_other_interactions_are_sorted_and_equal_times_keep_their_order(
    rows: int, order: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_files, "ROWS", rows)
    columns = {name: [values[place] for place in order] for name, values in INTERACTIONS.items()}
    source = HistoryFile(write(tmp_path / "in.parquet", columns), HistoryFields())
    (users,) = users_of(source, 10, tmp_path / "work", sort_in_memory)
    assert users == GROUPED


def test_times_may_be_dates_and_names_the_runs(tmp_path: Path) -> None:
    days = [datetime.datetime(2024, 1, day) for day in (3, 1, 2)]
    columns = {"who": pyarrow.array(["a", "a", "a"]).dictionary_encode(), "what": ["x", "y", "z"], "when": days}
    source = HistoryFile(write(tmp_path / "in.parquet", columns), HistoryFields("who", "what", "when"))
    assert users_of(source, 5, tmp_path / "work", sort_in_memory) == [[("a", ["y", "z", "x"])]]


def test_no_users_at_all(tmp_path: Path) -> None:
    columns = {"user_id": pyarrow.array([], "string"), "item_id": pyarrow.array([], pyarrow.list_(pyarrow.string()))}
    assert users_of(HistoryFile(write(tmp_path / "in.parquet", columns), HistoryFields()), 5, tmp_path) == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": ["a"], "item_id": [["x"]]}, "no column user_id; it has user, item_id"),
        ({"user_id": [1.5], "item_id": [["x"]]}, "user_id is double; it must be text or whole numbers"),
        ({"user_id": ["a"], "item_id": [[1.5]]}, "its lists must be of text or whole numbers"),
        ({"user_id": ["a"], "item_id": [1.5]}, "it must be lists of items, one row a user"),
        ({"user_id": ["a"], "item_id": ["x"]}, "there is no column timestamp to order"),
        (
            {"user_id": ["a"], "item_id": ["x"], "timestamp": ["now"]},
            "timestamp is string; it must be numbers or times",
        ),
    ],
)
def test_other_columns_are_refused(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        HistoryFile(write(tmp_path / "in.parquet", columns), HistoryFields())
    assert "\n" not in str(caught.value) and "in.parquet" in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": ["a", None], "item_id": [["x"], ["y"]]}, "user_id is null in row 2"),
        ({"user_id": ["a", "b"], "item_id": ["x", None], "timestamp": [1, 2]}, "item_id is null in row 2"),
        ({"user_id": ["a", "b"], "item_id": ["x", "y"], "timestamp": [float("nan"), 2]}, "timestamp is null in row 1"),
    ],
)
def test_nulls_are_refused_by_row(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = HistoryFile(write(tmp_path / "in.parquet", columns), HistoryFields())
    with pytest.raises(UserError, match=message):
        users_of(source, 5, tmp_path / "work", sort_in_memory)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*in\.parquet; give one with --histories"):
        HistoryFile(tmp_path / "in.parquet", HistoryFields())
    (tmp_path / "in.parquet").write_text("user_id,item_id\n")
    with pytest.raises(UserError, match="is no readable Parquet file"):
        HistoryFile(tmp_path / "in.parquet", HistoryFields())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.parquet file"):
        HistoryFile(tmp_path / "empty", HistoryFields())


def test_the_digest_is_of_the_contents(tmp_path: Path) -> None:
    one = HistoryFile(write(tmp_path / "one.parquet", INTERACTIONS), HistoryFields())
    two = HistoryFile(write(tmp_path / "two.parquet", INTERACTIONS), HistoryFields())
    read: list[int] = []
    assert one.digest(read.append) == two.digest() and sum(read) == one.size
    other = {**INTERACTIONS, "item_id": [5, 3, 4, 1, 2, 2]}
    assert HistoryFile(write(tmp_path / "two.parquet", other), HistoryFields()).digest() != one.digest()


@pytest.mark.parametrize("lists", [True, False])
def test_reading_holds_no_more_of_a_larger_file(lists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of a row group: here the file is one, of text that does not compress."""
    monkeypatch.setattr(history_files, "ROWS", 1_600)
    held = []
    for users in (4_000, 40_000):
        draw = random.Random(users)
        names = [f"{user:06d}{draw.randbytes(500).hex()}" for user in range(users)]
        items = {"item_id": [["a"]] * users} if lists else {"item_id": ["a"] * users, "timestamp": list(range(users))}
        path = write(tmp_path / f"{users}.parquet", {"user_id": names, **items}, row_group=users)
        before, most, read = pyarrow.total_allocated_bytes(), 0, 0
        for table in HistoryFile(path, HistoryFields()).users(100, tmp_path, never):
            most, read = max(most, pyarrow.total_allocated_bytes() - before), read + len(table)
        assert read == users
        held.append(most)
    assert held[1] < held[0] + 4 * 2**20, held
