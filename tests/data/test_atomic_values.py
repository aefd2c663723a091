"""Columns read in chunks and threads are what splitting the text gives: ids, numbers and exact times."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from small_tables import HEADER, table

from recbole_diffusion.data import atomic_columns, progress
from recbole_diffusion.data.atomic_columns import encoded, finite_numbers, joined, text_columns, whole_numbers
from recbole_diffusion.data.atomic_files import check_layout, exact_order, read_columns
from recbole_diffusion.errors import UserError

COLUMNS = ["user_id", "item_id", "timestamp"]


def made_rows(number: int, seed: int = 0) -> list[tuple[str, str, str]]:
    draw = random.Random(seed)
    return [(f"ü{draw.randrange(50)}", f"i{draw.randrange(300)}", str(draw.randrange(10**9))) for _ in range(number)]


@pytest.fixture(params=[(1 << 24, 1 << 22), (1 << 24, 64), (100, 64), (1, 64), (700, 1 << 22)], ids=str)
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Rows that are taken at once, and bytes that are split at once."""
    rows, size = request.param
    monkeypatch.setattr(atomic_columns, "ROWS_AT_ONCE", rows)
    monkeypatch.setattr(atomic_columns, "BLOCK_BYTES", size)
    return rows, size


def test_chunks_do_not_show(written: Callable[..., Path], chunks: tuple[int, int]) -> None:
    rows = made_rows(2000)
    rows[1200] = ("ü1", "x" * 5000, "7")  # a line longer than a block
    file = check_layout(written(table(rows)) / "toy" / "toy.inter")
    assert file.longest_line == len("ü1\t\t7".encode()) + 5000
    frame = read_columns(file, COLUMNS, identifiers=COLUMNS[:2], times=COLUMNS[2:])
    assert list(frame.itertuples(index=False, name=None)) == [(user, item, int(time)) for user, item, time in rows]
    for place, name in enumerate(COLUMNS[:2]):
        column = frame[name].array
        assert isinstance(column, pd.Categorical)
        assert column.categories.tolist() == list(dict.fromkeys(row[place] for row in rows)), "first appearance"
    assert frame["timestamp"].dtype == np.int64


def test_the_first_of_several_bad_rows_is_named_and_all_are_counted(
    written: Callable[..., Path], chunks: tuple[int, int]
) -> None:
    rows = made_rows(2000)
    for row in (431, 432, 1803):
        rows[row] = ("u", "i", "?")
    file = check_layout(written(table(rows)) / "toy" / "toy.inter")
    with pytest.raises(UserError, match=r"toy.inter:433: column timestamp is '\?', not .* \(and 2 more rows\)"):
        read_columns(file, COLUMNS, times=COLUMNS[2:])


def test_columns_come_in_the_order_of_the_file(written: Callable[..., Path]) -> None:
    file = check_layout(written(table(made_rows(5))) / "toy" / "toy.inter")
    assert list(read_columns(file, ["timestamp", "user_id"])) == ["user_id", "timestamp"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["5", "-7", "007", "-0"], [5, -7, 7, 0]),
        (["9223372036854775807", "-9223372036854775808"], [2**63 - 1, -(2**63)]),
        (["9223372036854775808"], None),
        (["0x10"], None),
        (["+5"], None),
        (["5.0"], None),
        (["1e5"], None),
        ([" 5"], None),
        (["5", ""], None),
        (["-"], None),
        (["5-3"], None),
        (["٣"], None),
    ],
)
def test_whole_numbers(texts: list[str], expected: list[int] | None) -> None:
    found = whole_numbers(pa.chunked_array([texts]))
    assert (None if found is None else found.tolist()) == expected


def test_whole_numbers_of_a_part_of_an_array() -> None:
    array = pa.array(["x", "5", "6", "y"])
    found = whole_numbers(pa.chunked_array([array.slice(1, 2)]))
    assert found is not None
    assert found.tolist() == [5, 6]


@pytest.mark.parametrize("text", ["inf", "-Infinity", "nan", "NaN", "1e999", "", "x", "0x1p3", "1_000"])
def test_what_is_no_finite_number_is_left_to_the_slow_way(text: str) -> None:
    assert finite_numbers(pa.chunked_array([["1.5", text]])) is None


def test_numbers_are_rounded_as_python_rounds(written: Callable[..., Path]) -> None:
    """Random spellings of 17 and more digits, halfway cases among them, against Python's own float()."""
    draw = random.Random(3)
    texts = [
        "9007199254740993",
        "9007199254740993.0",
        "0.1",
        "1e-320",
        "2.2250738585072011e-308",
        "1.7976931348623157e308",
    ]
    for _ in range(500):
        digits = "".join(draw.choices("0123456789", k=draw.randrange(1, 25)))
        texts.append(f"{draw.choice(['', '-', '+'])}{digits}.{draw.randrange(10**9)}e{draw.randrange(-300, 280)}")
    plain = [text for text in texts if not text.startswith("+")]
    for values in (texts, plain):
        path = written(table([("u", "i", text) for text in values])) / "toy" / "toy.inter"
        found = read_columns(check_layout(path), ["timestamp"], times=["timestamp"])["timestamp"]
        assert found.tolist() == [float(text) for text in values]


def test_missing_numbers_are_the_names_of_recbole_and_no_others(written: Callable[..., Path]) -> None:
    header = "item_id:token\tprice:float"
    path = written(table([("a", "1.5"), ("b", "NA"), ("c", ""), ("d", "+2")], header)) / "toy" / "toy.inter"
    assert read_columns(check_layout(path), ["price"])["price"].tolist()[::3] == [1.5, 2.0]
    for name in ("Nan", "NAN", "na", "+nan", "inf", "Null"):
        path = written(table([("a", "1.5"), ("b", name)], header)) / "toy" / "toy.inter"
        with pytest.raises(UserError, match=rf":3: column price is '{name}'".replace("+", r"\+")):
            read_columns(check_layout(path), ["price"])


def test_empty_tokens_are_missing_but_in_identifiers(written: Callable[..., Path]) -> None:
    header = "item_id:token\tbrand:token"
    path = written(table([("a", "x"), ("b", ""), ("c", "y"), ("d", "x")], header)) / "toy" / "toy.inter"
    brand = read_columns(check_layout(path), ["brand"])["brand"].array
    assert brand.codes.tolist() == [0, -1, 1, 0]
    assert brand.categories.tolist() == ["x", "y"]


def test_a_file_that_changes_between_the_passes_is_refused(written: Callable[..., Path]) -> None:
    path = written(table(made_rows(50))) / "toy" / "toy.inter"
    file = check_layout(path)
    for content in (table(made_rows(49)), table(made_rows(50)) + "u\ti\n", "", HEADER + "\n"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"toy.inter: .*while it was being read"):
            read_columns(file, COLUMNS)
    path.unlink()
    with pytest.raises(UserError, match=r"toy.inter: cannot be read"):
        read_columns(file, COLUMNS)


def test_encoded_texts_of_chunks_share_one_order() -> None:
    texts = [["b", "a", "b"], ["c", "a"], ["", "b", "c"]]
    together = encoded(pa.chunked_array(texts))
    apart = [encoded(pa.chunked_array([part])) for part in texts]
    wide = [encoded(pa.chunked_array([part], pa.large_string())) for part in texts[1:]]
    for parts in ([together], apart, [*apart[:1], *wide]):
        codes, distinct = joined(parts)
        assert (codes.tolist(), distinct) == ([0, 1, 0, 2, 1, 3, 0, 2], ["b", "a", "c", ""])
        assert codes.dtype == np.int32


def test_text_columns_hold_nothing_that_was_taken(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader lets go is free: the memory of a file is that of one chunk."""
    monkeypatch.setattr(atomic_columns, "ROWS_AT_ONCE", 10_000)
    monkeypatch.setattr(atomic_columns, "BLOCK_BYTES", 1 << 12)  # Arrow reads some thirty blocks ahead
    file = check_layout(written(table(made_rows(100_000))) / "toy" / "toy.inter")
    before = pa.total_allocated_bytes()
    held = []
    for chunk in text_columns(file, COLUMNS):
        chunk.clear()
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) >= 8
    assert max(held) < file.path.stat().st_size / 2


def test_progress(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = written(table(made_rows(5000))) / "toy" / "toy.inter"
    read_columns(check_layout(path, show_progress=True), COLUMNS, show_progress=True)
    assert capfd.readouterr().err == "", "it takes no two seconds"
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(atomic_columns, "BLOCK_BYTES", 1000)
    read_columns(check_layout(path), COLUMNS)
    assert capfd.readouterr().err == ""
    read_columns(check_layout(path, show_progress=True), COLUMNS, show_progress=True)
    shown = capfd.readouterr().err
    assert "Checking toy.inter: 100%" in shown
    assert "Reading toy.inter: 100%" in shown


# ------------------------------------------------------------------------------------------------------------- times


def spelled(draw: random.Random, value: Decimal) -> str:
    """One of several ways to write a number."""
    text = f"{value:f}"
    if "." in text:
        return text + "0" * draw.randrange(3)
    return draw.choice([text, text + ".0", f"{text}e0", text + ".", f"+{text}"])


@pytest.mark.parametrize("seed", range(20))
def test_exact_order_is_that_of_decimal_numbers(
    written: Callable[..., Path], seed: int, chunks: tuple[int, int]
) -> None:
    """Numbers that crowd where float64 cannot tell them apart, in many spellings: ranks are those of decimals."""
    draw = random.Random(seed)
    base = draw.choice([Decimal(10) ** 17, Decimal("1.3e9"), Decimal(2) ** 53, Decimal(0)])
    step = draw.choice([Decimal(1), Decimal("0.0000000001"), Decimal("0.5")])
    values = [base + step * draw.randrange(-20, 20) for _ in range(60)]
    texts = [spelled(draw, value) for value in values]
    file = check_layout(written(table([("u", "i", text) for text in texts])) / "toy" / "toy.inter")
    read = read_columns(file, ["timestamp"], times=["timestamp"])["timestamp"].to_numpy()
    found = exact_order(file, "timestamp", read)
    key = (read if found is None else found).tolist()
    for a in range(60):
        for b in range(60):
            assert (key[a] < key[b]) == (values[a] < values[b]), (texts[a], texts[b])


def test_whole_times_are_exact_without_a_second_look(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = check_layout(written(table([("u", "i", "5"), ("u", "i", "5")])) / "toy" / "toy.inter")
    read = read_columns(file, ["timestamp"], times=["timestamp"])["timestamp"].to_numpy()
    file.path.unlink()
    assert read.tolist() == [5, 5]
    assert exact_order(file, "timestamp", read) is None
    large = np.array([2**53, 2**53 + 1], dtype=np.int64)
    assert exact_order(file, "timestamp", large) is large
