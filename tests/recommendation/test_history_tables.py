"""Histories as text, and in CSV and JSON-lines files: what is read, and what is refused by its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation import history_tables
from recbole_diffusion.recommendation.history_files import HistoryFields, HistoryFile
from recbole_diffusion.recommendation.history_text import read_history, separator_of

from .test_history_files import sort_in_memory, users_of


@pytest.mark.parametrize(
    ("text", "separator", "tokens"),
    [
        ("a,b,c", ",", ["a", "b", "c"]),
        (" a , b c ", ",", ["a", "b c"]),
        ('["a,b", " c", 7]', ",", ["a,b", " c", "7"]),
        ("a  b c", " ", ["a", "b", "c"]),
        ("a|b,c", "|", ["a", "b,c"]),
        ("  ", ",", []),
        ("[]", ",", []),
    ],
)
def test_a_history_as_text(text: str, separator: str, tokens: list[str]) -> None:
    assert read_history(text, "it", separator) == tokens


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,,b", "it is a,,b: item 2 is empty"),
        ("a,", "item 2 is empty"),
        ("['a', 'b']", "begins like a JSON list and is none"),
        ('["a"', "begins like a JSON list and is none"),
        ("[1.5]", "it has the item 1.5; items are text or whole numbers"),
        ("[[1]]", r"it has the item \[1\]"),
        ("[null]", "it has the item null"),
        ("[true]", "it has the item true"),
    ],
)
def test_texts_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_history(text, "it")
    assert "\n" not in str(caught.value)


def test_separators_have_names() -> None:
    assert [separator_of(name) for name in ("comma", "blank", "tab", ";")] == [",", " ", "\t", ";"]
    for wrong in (",,", "[", "nothing"):
        with pytest.raises(UserError, match="item_separator is"):
            separator_of(wrong)


def never(folder: Path, columns: list[str]) -> Iterator[pyarrow.Table]:
    raise AssertionError("there is nothing to sort")


WHOLE = [[("u1", ["a", "b"]), ("u2", ["c"]), ("u3", None)]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.csv", 'user_id,history\nu1,"a,b"\nu2,c\nu3,""\n'),
        ("in.tsv", 'user_id\tother\thistory\nu1\t1\ta,b\nu2\t2\t["c"]\nu3\t3\t\n'),
        ("in.jsonl", '{"user_id": "u1", "history": ["a", "b"]}\n{"user_id": "u2", "history": "c"}\n'),
        ("in.ndjson", '\n{"item_id": ["a", "b"], "user_id": "u1"}\n{"user_id": "u2", "item_id": ["c"]}\n'),
        ("in", '{"user_id": "u1", "history": ["a", "b"]}\n{"user_id": "u2", "history": ["c"]}'),
    ],
)
def test_whole_histories_in_text_files(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    source = HistoryFile(path, HistoryFields())
    assert source.lists and source.rows is None
    found = [[(user, items or None) for user, items in part] for part in users_of(source, 10, tmp_path, never)]
    assert found == [WHOLE[0][: len(found[0])]] and len(found[0]) >= 2


def test_histories_alone_are_numbered_by_their_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('["x", "y"]\n[]\n["z"]\n')
    source = HistoryFile(tmp_path / "a.jsonl", HistoryFields())
    assert users_of(source, 10, tmp_path, never) == [[(1, ["x", "y"]), (2, []), (3, ["z"])]]
    assert source.user_type == pyarrow.int64()
    (tmp_path / "b.csv").write_text("history\nx y\nz\n")
    source = HistoryFile(tmp_path / "b.csv", HistoryFields(), " ")
    assert users_of(source, 1, tmp_path, never) == [[(1, ["x", "y"])], [(2, ["z"])]]
    texts = {"history": ["x,y", None, "z"]}
    pyarrow.parquet.write_table(pyarrow.table(texts), tmp_path / "c.parquet")
    source = HistoryFile(tmp_path / "c.parquet", HistoryFields())
    assert users_of(source, 9, tmp_path, never) == [[(1, ["x", "y"]), (2, None), (3, ["z"])]]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_whole_numbers_of_json_stay_whole_numbers(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[Any] = [
        {"user_id": 5, "history": []},
        {"user_id": 6, "history": [1, 2]},
        {"user_id": 7, "history": None},
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = HistoryFile(tmp_path / "in.jsonl", HistoryFields())
    monkeypatch.setattr("recbole_diffusion.recommendation.history_files.ROWS", 16 * size)
    assert (source.user_type, source.item_type) == (pyarrow.int64(), pyarrow.int64())
    assert users_of(source, 10, tmp_path, never) == [[(5, []), (6, [1, 2]), (7, None)]]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("in.csv", "user_id,item_id,timestamp\nb,1,3\na,3,2.5\na,2,2.25\na,4,2.5\n"),
        ("in.csv", "user_id,item_id,timestamp\nb,1,2024-01-03\na,3,2024-01-02\na,2,2024-01-01\na,4,2024-01-02\n"),
        (
            "in.jsonl",
            "\n".join(
                json.dumps({"user_id": user, "item_id": item, "timestamp": time})
                for user, item, time in [("b", "1", 3), ("a", "3", 2), ("a", "2", 1), ("a", "4", 2)]
            ),
        ),
    ],
)
def test_interactions_in_text_files_come_in_order_of_time(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    source = HistoryFile(tmp_path / name, HistoryFields())
    assert not source.lists
    assert users_of(source, 10, tmp_path / "work", sort_in_memory) == [[("a", ["2", "3", "4"]), ("b", ["1"])]]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.csv", "user_id,history\nu1,a\nu2\n", r"in\.csv:3: 1 field where there should be 2"),
        ("in.csv", 'user_id,history\nu1,a\nu2,"a,,b"\n', r"in\.csv:3: the history is a,,b: item 2 is empty"),
        ("in.csv", "user_id,history\nu1,a\n,b\n", "user_id is null in row 2"),
        ("in.csv", "user_id,items\nu1,a\n", "has no column item_id or history; it has user_id, items"),
        ("in.csv", "who,history\nu1,a\n", "has no column user_id; it has who, history"),
        ("in.csv", "user_id,item_id\nu1,a\n", "a column of whole histories is named history"),
        ("in.csv", "user_id,item_id,timestamp\nu1,a,1\nu1,b,soon\n", r"in\.csv:3: .*soon"),
        ("in.csv", "", "the file is empty"),
        ("in.jsonl", "", "there is no line in it"),
        ("in.jsonl", '{"user_id": "u", "history": ["a"]}\n{"user_id"\n', r"in\.jsonl:2: no JSON"),
        ("in.jsonl", '{"user_id": "u", "history": ["a"]}\n{"user_id": "v"}\n', r"in\.jsonl:2: there is no history"),
        (
            "in.jsonl",
            '{"user_id": "u", "history": ["a"]}\n{"user_id": 3, "history": ["a"]}\n',
            r":2: user_id is 3, and",
        ),
        ("in.jsonl", '{"user_id": "u", "history": [1]}\n{"user_id": "v", "history": ["a"]}\n', r":2: history has text"),
        ("in.jsonl", '{"user_id": "u", "history": ["a"]}\n{"user_id": "v", "history": [1]}\n', "has whole numbers"),
        ("in.jsonl", '{"user_id": "u", "history": [1.5]}\n', r":1: history has the item 1.5"),
        ("in.jsonl", '{"user_id": "u", "history": {"a": 1}}\n', "column history is double"),
        ("in.jsonl", '{"user_id": 1.5, "history": ["a"]}\n', "column user_id is double"),
        ("in.jsonl", "7\n", r":1: 7 is neither an object nor a list"),
        (
            "in.jsonl",
            '{"user_id": 1, "history": ["a"]}\n{"user_id": 18446744073709551615, "history": ["a"]}\n',
            r"in\.jsonl:2: user_id has 18446744073709551615; whole numbers are from .* write all of user_id as text",
        ),
        ("in.jsonl", '{"user_id": 1, "history": [1, 9223372036854775808]}\n', r":1: history has 9223372036854775808"),
        ("in.jsonl", '{"user_id": "\\ud800", "history": ["a"]}\n', r':1: user_id has "\\ud800", half of a surrogate'),
        ("in.jsonl", '{"user_id": "u", "history": ["a", "\\ud800"]}\n', r':1: history has "\\ud800", half of'),
        ("in.tsv", 'user_id\thistory\nu\t["\\ud800"]\n', r'in\.tsv:2: the history has "\\ud800", half of'),
        ("in.jsonl", '{"user_id": null, "history": ["a"]}\n', "user_id is null in row 1"),
        (
            "in.jsonl",
            '{"user_id": "u", "item_id": "a", "timestamp": "\\ud800"}\n',
            r':1: timestamp has "\\ud800", half of',
        ),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        users_of(HistoryFile(tmp_path / name, HistoryFields()), 10, tmp_path / "work", sort_in_memory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind", [pyarrow.large_string(), pyarrow.string_view(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())]
)
def test_text_of_every_layout_in_parquet(kind: pyarrow.DataType, tmp_path: Path) -> None:
    users, texts = pyarrow.array(["u", "v", "w"]), pyarrow.array(["a,b", None, "c"])
    columns = {
        name: values.dictionary_encode() if pyarrow.types.is_dictionary(kind) else values.cast(kind)
        for name, values in (("user_id", users), ("history", texts))
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    source = HistoryFile(tmp_path / "in.parquet", HistoryFields())
    found = users_of(source, 9, tmp_path, never)
    assert found == [[("u", ["a", "b"]), ("v", None), ("w", ["c"])]]
    columns = {"user_id": columns["user_id"], "item_id": columns["user_id"], "timestamp": pyarrow.array([1, 2, 3])}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet")
    source = HistoryFile(tmp_path / "in.parquet", HistoryFields())
    assert users_of(source, 9, tmp_path, never) == [[("u", ["u"]), ("v", ["v"]), ("w", ["w"])]]


@pytest.mark.parametrize(
    ("lines", "items"),
    [
        ([None, ["a"]], [None, ["a"]]),
        ([None, [1], None], [None, [1], None]),
        ([[], None, [1]], [[], None, [1]]),
        ([None, "a,b"], [None, ["a", "b"]]),
        ([None, None], [None, None]),
    ],
)
def test_a_null_says_nothing_of_a_columns_type(lines: list[Any], items: list[Any], tmp_path: Path) -> None:
    rows = [{"user_id": number, "note": None, "history": value} for number, value in enumerate(lines)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = HistoryFile(tmp_path / "in.jsonl", HistoryFields())
    assert users_of(source, 9, tmp_path, never) == [list(enumerate(items))]


def test_a_folder_has_files_of_one_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user_id,history\nu,a\n")
    (tmp_path / "b.csv").write_text("user_id,history\nv,b\n")
    assert users_of(HistoryFile(tmp_path, HistoryFields()), 9, tmp_path, never) == [[("u", ["a"]), ("v", ["b"])]]
    (tmp_path / "c.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match="files of several kinds"):
        HistoryFile(tmp_path, HistoryFields())


def test_times_of_text_keep_their_digits() -> None:
    kept = pyarrow.array(["1700000000123456789.5", "3"]).cast(history_tables.TIME).to_pylist()
    assert str(kept[0]).startswith("1700000000123456789.5")
