"""Every folder of the collection of broken files works as its README says a user expects, or is refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_tables import samples

from recbole_diffusion.errors import UserError


@dataclass(frozen=True)
class Loads:
    rows: int


@dataclass(frozen=True)
class Refused:
    line: int
    what: str
    remedy: str


EXPECTED: dict[str, Loads | Refused] = {
    "good": Loads(375),
    "crlf": Loads(375),
    "timestamp-out-of-order": Loads(375),
    "timestamp-all-equal": Loads(375),
    "odd-tokens-valid": Loads(375),
    "bom": Loads(375),
    "na-like-tokens": Loads(375),
    "duplicates": Loads(411),
    "truncated-line": Refused(376, "2 fields where the header has 3, and the line has no end", "copy it again"),
    "header-no-type": Refused(1, "header field 'user_id' has no type", "name:type"),
    "header-unknown-type": Refused(
        1, "field 'timestamp' has the unknown type 'int'", "allowed: token, float, token_seq, float_seq"
    ),
    "comma-separator": Refused(1, "separated by a comma, expected a tab", "field_separator"),
    "timestamp-text": Refused(19, "column timestamp is 'yesterday', not a finite number", "write a number"),
    "timestamp-date": Refused(2, "column timestamp is the date '2001-01-01 10:00:00'", "seconds since 1970"),
    "timestamp-nan": Refused(9, r"column timestamp has no time \('NaN'\) \(and 15 more rows\)", "add it, or remove"),
    "timestamp-missing-column": Refused(1, "no column 'timestamp', needed for ordering", "TIME_FIELD"),
    "empty": Refused(1, "the file is empty", "it must start with a header"),
    "header-only": Refused(1, "a header but no row", "add rows"),
    "tab-in-token": Refused(11, "4 fields where the header has 3", "a value must not contain"),
    "binary-garbage": Refused(1, "no header, the first line is 'R+'", "header of name:type fields"),
    "gzip-bytes": Refused(1, "gzip-compressed", "gunzip"),
    "missing-header": Refused(1, r"no header, the first line is '27\\t1617\\t978386400'", "header of name:type fields"),
}


def test_every_folder_has_its_row(shared: Path) -> None:
    folders = {path.name for path in (shared / "data" / "bad").iterdir() if path.is_dir()}
    assert folders == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_outcome(shared: Path, sequential: Callable[..., Any], name: str) -> None:
    folder = shared / "data" / "bad"
    expected = EXPECTED[name]
    if isinstance(expected, Loads):
        dataset = sequential(folder, name)
        assert len(dataset.inter_feat) == expected.rows
        train, valid, test = dataset.build()
        assert (len(valid), len(test)) == (40, 40)
        assert len(train) + len(valid) + len(test) == expected.rows - 40  # the first of a history is no target
        return
    with pytest.raises(UserError) as raised:
        sequential(folder, name)
    place = re.escape(f"{folder / name / name}.inter:{expected.line}: ")
    assert re.fullmatch(f"{place}.*{expected.what}.*; .*{expected.remedy}.*", str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["crlf", "timestamp-out-of-order", "bom"])
def test_harmless_differences_give_the_same_split(shared: Path, sequential: Callable[..., Any], name: str) -> None:
    folder = shared / "data" / "bad"
    expected = [samples(part) for part in sequential(folder, "good").build()]
    found = [samples(part) for part in sequential(folder, name).build()]
    assert [len(rows) for rows in expected] == [255, 40, 40]
    assert found == expected


def test_equal_times_keep_file_order(shared: Path, sequential: Callable[..., Any]) -> None:
    """`timestamp-all-equal` is `good` without its times; `good` stands in time order per user."""
    folder = shared / "data" / "bad"
    good, equal = (
        [sorted(samples(part)) for part in sequential(folder, name).build()] for name in ("good", "timestamp-all-equal")
    )
    assert equal == good


@pytest.mark.parametrize("name", ["odd-tokens-valid", "na-like-tokens", "good"])
def test_tokens_come_back_unchanged(shared: Path, sequential: Callable[..., Any], name: str) -> None:
    folder = shared / "data" / "bad"
    lines = (folder / name / f"{name}.inter").read_text(encoding="utf-8").splitlines()[1:]
    dataset = sequential(folder, name)
    for column, field in enumerate(["user_id", "item_id"]):
        tokens = list(dict.fromkeys(line.split("\t")[column] for line in lines))
        assert dataset.field2id_token[field].tolist() == ["[PAD]", *tokens]
        assert dataset.id2token(field, dataset.token2id(field, tokens)).tolist() == tokens


def test_na_like_tokens_count(shared: Path, sequential: Callable[..., Any]) -> None:
    dataset = sequential(shared / "data" / "bad", "na-like-tokens")
    counts = dataset.item_counter
    ids = dataset.field2token_id["item_id"]
    assert [counts[ids[token]] for token in ("NA", "None", "nan", "null")] == [31, 31, 31, 31]


def test_repeats_are_kept_and_named_in_one_line(
    shared: Path, sequential: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = shared / "data" / "bad"
    dataset = sequential(folder, "duplicates")
    lines = [record.getMessage() for record in caplog.records if "repeat" in record.getMessage()]
    leaked = [sum(target in history for _, history, target in samples(part)) for part in dataset.build()[1:]]
    assert leaked[1] == 4
    assert lines == [
        "duplicates: 36 of 411 interactions repeat an earlier (user, item) and are kept (rm_dup_inter drops them); "
        f"in their own history stand 4 of 40 test targets and {leaked[0]} of 40 validation targets"
    ]


def test_byte_order_mark_is_logged(
    shared: Path, sequential: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        sequential(shared / "data" / "bad", "bom")
    assert "byte-order mark" in caplog.text
