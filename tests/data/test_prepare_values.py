"""Values of every type become the text of an atomic file, or a fault that says why not."""

from __future__ import annotations

import datetime
import random
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recbole_diffusion.data.atomic_writing import DistinctTokens
from recbole_diffusion.data.tables.values import (
    Column,
    NumberColumn,
    SequenceColumn,
    TokenColumn,
    has_control_characters,
)
from recbole_diffusion.errors import UserError


def read(column: Column, values: Any, type: pa.DataType | None = None) -> list[str]:
    array = values if isinstance(values, pa.Array) else pa.array(values, type)
    converted = column.convert(array)
    assert converted.faults == []
    assert converted.texts.type == pa.string()
    assert converted.texts.null_count == 0
    return converted.texts.to_pylist()


def faults(column: Column, values: Any, type: pa.DataType | None = None) -> list[tuple[list[int], str]]:
    array = values if isinstance(values, pa.Array) else pa.array(values, type)
    return [(one.rows.tolist(), one.what) for one in column.convert(array).faults]


def identifier(**settings: Any) -> TokenColumn:
    return TokenColumn("id", identifier=True, **settings)


# ---- tokens ----


@pytest.mark.parametrize(
    ("values", "type", "expected"),
    [
        (["u1", "007", "7", "7.0", 'a "b"', "naïve", "日本", " x"], pa.string(), None),
        (["NA", "None", "null", "nan"], pa.string(), None),
        (["a", "b"], pa.large_string(), None),
        (["a", "ü"], pa.string_view(), None),
        ([b"a", "ü".encode()], pa.binary(), ["a", "ü"]),
        ([b"ab", b"cd"], pa.binary(2), ["ab", "cd"]),
        ([1, -2, 9223372036854775807], pa.int64(), ["1", "-2", "9223372036854775807"]),
        ([18446744073709551615], pa.uint64(), ["18446744073709551615"]),
        ([12.0, 9007199254740991.0, -0.0], pa.float64(), ["12", "9007199254740991", "0"]),
        ([12.0], pa.float32(), ["12"]),
        ([Decimal(12), Decimal(10**19)], pa.decimal128(20, 0), ["12", "1" + "0" * 19]),
        ([Decimal("12.00"), Decimal("100.00")], pa.decimal128(20, 2), ["12", "100"]),
    ],
)
def test_ids(values: list[Any], type: pa.DataType, expected: list[str] | None) -> None:
    assert read(identifier(), values, type) == (values if expected is None else expected)


def test_ids_in_a_dictionary_and_in_a_slice() -> None:
    assert read(identifier(), pa.array(["a", "b", "a"]).dictionary_encode()) == ["a", "b", "a"]
    assert read(identifier(), pa.array([1, 2, 1]).dictionary_encode()) == ["1", "2", "1"]
    assert read(identifier(), pa.array(["x\ty", "a", "b", "p\nq"])[1:3]) == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "type", "rows", "message"),
    [
        (["a", "", None, "  ", "\u3000"], pa.string(), [1, 2, 3, 4], "column 'id' is empty"),
        ([1, None], pa.int64(), [1], "is empty"),
        ([1.0, None, float("nan")], pa.float64(), [1, 2], "is empty"),
        ([1.0, 1.5, float("inf")], pa.float64(), [1, 2], "is the number 1.5: an id is text or a whole number"),
        ([2.0**53], pa.float64(), [0], "an id is text or a whole number below"),
        ([Decimal("1.5")], pa.decimal128(20, 2), [0], "is the number 1.50: an id"),
        (["a", "[PAD]"], pa.string(), [1], "is '[PAD]', RecBole's name for padding"),
        (["a\tb", "c", "d\n", "\re", "f\0"], pa.string(), [0, 2, 3, 4], r"is 'a\tb', with a tab or line end in it"),
        ([b"a", b"\xff\xfe", None], pa.binary(), [1], "bytes that are not UTF-8"),
        ([None, None], pa.null(), [0, 1], "is empty"),
    ],
)
def test_values_that_are_no_ids(values: list[Any], type: pa.DataType, rows: list[int], message: str) -> None:
    found = faults(identifier(), values, type)
    assert message in found[-1][1] or message in found[0][1]
    assert sorted({row for part, _ in found for row in part} - ({2} if type == pa.binary() else set())) == rows


@pytest.mark.parametrize(
    ("type", "message"),
    [
        (pa.timestamp("s"), "an id is text or a whole number: choose another column"),
        (pa.bool_(), "an id is text or a whole number"),
        (pa.list_(pa.string()), "text or numbers are needed"),
        (pa.struct([("a", pa.int64())]), "text or numbers are needed"),
    ],
)
def test_types_that_are_no_ids(type: pa.DataType, message: str) -> None:
    with pytest.raises(UserError, match=message):
        identifier().convert(pa.nulls(2, type))


@pytest.mark.skipif(not hasattr(pa, "uuid"), reason="this version of Arrow has no UUIDs")
def test_uuids_are_text() -> None:
    text = "123e4567-e89b-12d3-a456-426614174000"
    assert read(identifier(), [uuid.UUID(text).bytes], pa.uuid()) == [text]


def test_tabs_and_line_ends_are_replaced_when_asked_and_counted() -> None:
    column = identifier(replace="\\1_")
    assert read(column, ["a\tb", "c\r\nd\ne", "e"]) == ["a\\1_b", "c\\1_d\\1_e", "e"]
    assert read(column, ["f\0"]) == ["f\\1_"]
    assert column.notes() == ["id: tabs or line ends became '\\\\1_' in 3 values"]


def test_white_space_is_kept_or_taken_off() -> None:
    kept, trimmed = identifier(), identifier(trim=True)
    assert read(kept, [" a", "b ", "c"]) == [" a", "b ", "c"]
    assert kept.notes() == ["id: white space at an end of 2 values is kept (trim takes it off)"]
    assert read(trimmed, [" a", "b\t", "c"]) == ["a", "b", "c"]
    assert trimmed.notes() == ["id: white space at an end of 2 values was taken off"]


def test_ids_that_look_like_something_else_are_named() -> None:
    column = identifier()
    read(column, ["NULL", "nan", '"a"', "b", "12.0", "7.50"])
    first, floats, second = column.notes()
    assert "kept as they are: 1 value such as 12.0; where other files have 12, these are two ids" in floats
    assert "kept as ids: 2 values such as NULL or NaN" in first
    assert "kept as they are: 1 value between quotation marks" in second


def test_other_tokens_may_be_missing_and_of_any_type() -> None:
    column = TokenColumn("c", identifier=False)
    assert read(column, ["a", None, ""]) == ["a", "", ""]
    assert read(column, [True, None], pa.bool_()) == ["true", ""]
    assert read(column, [datetime.date(2014, 4, 6)], pa.date32()) == ["2014-04-06"]
    assert faults(column, ["[PAD]"])[0][0] == [0]


def test_control_characters_are_seen_in_slices() -> None:
    texts = pa.array(["a\tb", "c", None, "d"])
    assert has_control_characters(texts)
    assert not has_control_characters(texts[1:])
    assert not has_control_characters(texts[:0])
    assert not has_control_characters(pa.nulls(3, pa.string()))


# ---- numbers ----


@pytest.mark.parametrize(
    ("values", "type", "expected"),
    [
        (
            ["1", " 2.5 ", "-3e-2", "+4", "", "NaN", None, "NULL"],
            pa.string(),
            ["1", "2.5", "-3e-2", "4", "", "", "", ""],
        ),
        ([1, None], pa.int8(), ["1", ""]),
        ([0.1, None, float("nan"), 1e300], pa.float64(), ["0.1", "", "", "1e+300"]),
        ([True, False, None], pa.bool_(), ["1", "0", ""]),
        ([Decimal("1.50"), None], pa.decimal128(10, 2), ["1.50", ""]),
        ([np.float32(0.1)], pa.float32(), ["0.10000000149011612"]),
    ],
)
def test_numbers(values: list[Any], type: pa.DataType, expected: list[str]) -> None:
    assert read(NumberColumn("n"), values, type) == expected


def test_values_that_are_no_numbers() -> None:
    assert faults(NumberColumn("n"), ["1", "x", "1_0", "0x1"]) == [
        ([1, 2, 3], "column 'n' is 'x', not a finite number")
    ]
    assert faults(NumberColumn("n"), [1.0, float("inf")])[0][0] == [1]
    beyond = ["1e308", "1e309", "", "-1e400", "+1e400", "9" * 309, "1e-400"]
    assert faults(NumberColumn("n"), beyond) == [([1, 3, 4, 5], "column 'n' is '1e309', not a finite number")]
    (comma,) = NumberColumn("n").convert(pa.array(["1,5"])).faults
    assert "decimal mark as a point" in comma.remedy
    with pytest.raises(UserError, match="a number is needed: keep it as a token"):
        NumberColumn("n").convert(pa.array([5], pa.timestamp("s")))


def test_missing_numbers_are_counted_over_batches() -> None:
    column = NumberColumn("n")
    read(column, ["", ""])
    assert column.empty
    read(column, ["1", ""])
    assert not column.empty
    assert column.notes() == ["n: 3 of 4 values are missing; RecBole takes the mean for them"]


# ---- sequences ----


@pytest.mark.parametrize(
    ("values", "type", "settings", "expected"),
    [
        (["a|b", "c", "", None, "|d||e|"], pa.string(), {"separator": "|"}, ["a b", "c", "", "", "d e"]),
        (["a b", " c  d "], pa.string(), {}, ["a b", "c d"]),
        (["a::b"], pa.string(), {"separator": "::"}, ["a b"]),
        ([["a", "b"], [], None, ["c"]], pa.list_(pa.string()), {}, ["a b", "", "", "c"]),
        ([[1, 2], [3]], pa.large_list(pa.int32()), {}, ["1 2", "3"]),
        ([[1, 2], [3, 4]], pa.list_(pa.int32(), 2), {}, ["1 2", "3 4"]),
        ([["a b", "c"]], pa.list_(pa.string()), {"replace": "_"}, ["a_b c"]),
        ([[None, "c"]], pa.list_(pa.string()), {}, ["c"]),
    ],
)
def test_sequences(values: list[Any], type: pa.DataType, settings: dict[str, str], expected: list[str]) -> None:
    assert read(SequenceColumn("s", numbers=False, **settings), values, type) == expected


def test_sequences_of_numbers() -> None:
    column = SequenceColumn("s", numbers=True)
    assert read(column, [[0.5, 1.0], None, [2.25]], pa.list_(pa.float64())) == ["0.5 1", "", "2.25"]
    assert read(column, ["0.5 1", ""]) == ["0.5 1", ""]
    assert faults(column, ["1 2", "3 x y", "4"]) == [([1], "column 's' is 'x', not a finite number")]
    assert faults(column, ["1 2", "3 1e400"]) == [([1], "column 's' is '1e400', not a finite number")]


def test_sequences_in_a_slice() -> None:
    lists = pa.array([["x y"], ["a"], None, ["b", "c"], ["d"]])[1:4]
    assert read(SequenceColumn("s", numbers=False), lists) == ["a", "", "b c"]


def test_a_blank_in_an_element_is_refused() -> None:
    column = SequenceColumn("s", numbers=False, separator="|")
    ((rows, what),) = faults(column, ["a|b", "Sci Fi|c", "d", "e f|g h"])
    assert rows == [1, 3]
    assert "the element 'Sci Fi' with a blank" in what


# ---- counting ----


def test_distinct_tokens_are_counted_over_batches() -> None:
    draw = random.Random(0)
    counted = DistinctTokens()
    seen: set[str] = set()
    assert len(counted) == 0
    for _ in range(40):
        tokens = [f"t{draw.randrange(3000)}" for _ in range(draw.randrange(1, 400))]
        counted.add(pa.array(tokens))
        seen.update(tokens)
        assert len(counted) == len(seen)
    other = DistinctTokens()
    other.add(pa.array([*sorted(seen)[:10], "new"]))
    assert int(np.isin(other.hashes(), counted.hashes()).sum()) == 10
