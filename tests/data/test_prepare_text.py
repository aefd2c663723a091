"""Text tables: every dialect that leaves no choice is read, every damage has its line, and blocks leave no trace."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from recbole_diffusion.data.tables import delimited_text, text_blocks
from recbole_diffusion.data.tables.delimited_text import DelimitedText
from recbole_diffusion.data.tables.dialects import TextFormat
from recbole_diffusion.data.tables.files import BadRows
from recbole_diffusion.errors import UserError

ROWS = [["u1", "i1", "5"], ["u2", "i2", "6"], ["u1", "i3", "7"]]
NAMES = ["user", "item", "time"]
PLAIN = "user,item,time\nu1,i1,5\nu2,i2,6\nu1,i3,7\n"


def rows_of(
    table: DelimitedText, names: Sequence[str] | None = None, bad_rows: BadRows | None = None
) -> list[list[str]]:
    """All rows of a table."""
    names = list(table.names) if names is None else names
    found: list[list[str]] = []
    for batch in table.batches(names, bad_rows or BadRows()):
        assert all(batch.columns[name].type == pa.string() for name in names)
        found += [list(row) for row in zip(*(batch.columns[name].to_pylist() for name in names), strict=True)]
        assert batch.rows == len(batch.columns[names[0]])
    return found


def table(folder: Path, content: str | bytes, name: str = "x.csv", **format: object) -> DelimitedText:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return DelimitedText(path, TextFormat(**format))  # type: ignore[arg-type]


def message(folder: Path, content: str | bytes, name: str = "x.csv", **format: object) -> str:
    """The error about a file, without its folder."""
    with pytest.raises(UserError) as error:
        rows_of(table(folder, content, name, **format))
    assert "\n" not in str(error.value)
    return str(error.value).replace(f"{folder}/", "")


# ---- dialects ----


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::", " "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt", "ratings"])
def test_separators_and_line_ends_are_found(tmp_path: Path, separator: str, end: str, name: str) -> None:
    content = end.join(separator.join(row) for row in [NAMES, *ROWS]) + end
    found = table(tmp_path, content, name)
    assert list(found.names) == NAMES
    assert rows_of(found) == ROWS
    usual = {"x.csv": ",", "x.tsv": "\t"}.get(name) == separator
    assert any("separated by" in note for note in found.notes) is not usual
    assert rows_of(table(tmp_path, content.removesuffix(end), name)) == ROWS


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (gzip.compress(PLAIN.encode(), mtime=0), "x.csv.gz"),
        # two members
        (gzip.compress(PLAIN.encode()[:20], mtime=0) + gzip.compress(PLAIN.encode()[20:], mtime=0), "x.csv.gz"),
        (gzip.compress(PLAIN.encode(), mtime=0), "x.csv"),
        (bz2.compress(PLAIN.encode()), "x.csv.bz2"),
        (lzma.compress(PLAIN.encode()), "x.csv.xz"),
        (pa.compress(PLAIN.encode(), "zstd", asbytes=True), "x.csv.zst"),
        (PLAIN.encode("utf-8-sig"), "x.csv"),
        (PLAIN.encode("utf-16"), "x.csv"),
        (PLAIN.encode("utf-32"), "x.csv"),
        (gzip.compress(PLAIN.encode("utf-8-sig"), mtime=0), "x.csv.gz"),
        (b"sep=,\r\n" + PLAIN.encode(), "x.csv"),
        (b'"user","item","time"\n"u1","i1","5"\n"u2","i2","6"\n"u1","i3","7"\n', "x.csv"),
        (b'"user"\t"item"\t"time"\n"u1"\t"i1"\t"5"\n"u2"\t"i2"\t"6"\n"u1"\t"i3"\t"7"\n', "x.tsv"),
        (b"\n\nuser,item,time\n\nu1,i1,5\nu2,i2,6\n\n\nu1,i3,7\n\n", "x.csv"),
        (b" user , item,time \nu1,i1,5\nu2,i2,6\nu1,i3,7\n", "x.csv"),
    ],
)
def test_files_that_are_the_same_table(tmp_path: Path, raw: bytes, name: str) -> None:
    found = table(tmp_path, raw, name)
    assert list(found.names) == NAMES
    assert rows_of(found) == ROWS
    assert found.done == found.total == len(raw)


def test_lz4_is_read(tmp_path: Path) -> None:
    with pa.CompressedOutputStream(str(tmp_path / "x.csv.lz4"), "lz4") as file:
        file.write(PLAIN.encode())
    assert rows_of(DelimitedText(tmp_path / "x.csv.lz4")) == ROWS


@pytest.mark.parametrize(
    ("encoding", "word"), [("latin-1", "été"), ("cp1252", "€"), ("gb18030", "日本"), ("utf-16-le", "ü")]
)
def test_other_encodings(tmp_path: Path, encoding: str, word: str) -> None:
    content = f"user,item,time\n{word},i1,5\n".encode(encoding)
    assert rows_of(table(tmp_path, content, encoding=encoding)) == [[word, "i1", "5"]]


@pytest.mark.parametrize(
    ("content", "format", "rows"),
    [
        ("u1,i1,5\nu2,i2,6\n", {"columns": ("user", "item", "time")}, [["u1", "i1", "5"], ["u2", "i2", "6"]]),
        ("# made by x\n#\nuser,item,time\nu1,i1,5\n", {"skip_lines": 2}, [["u1", "i1", "5"]]),
        ("user;item;time\nu,1;i1;5\n", {"separator": "semicolon"}, [["u,1", "i1", "5"]]),
        ("user§item§time\nu1§i1§5\n", {"separator": "§"}, [["u1", "i1", "5"]]),
        ("user::item::time\nu:1::i:1::5\n", {"separator": "::"}, [["u:1", "i:1", "5"]]),
        ('user,item,time\n"u1",i"1,5\n', {"quote": "none"}, [['"u1"', 'i"1', "5"]]),
        ('user,item,time\n"u""1","i,1","5\n6"\n', {}, [['u"1', "i,1", "5\n6"]]),
        ('user\titem\ttime\n"u1\ti"1\t5\n', {}, [['"u1', 'i"1', "5"]]),  # between tabs quotes are ordinary
        ('user\titem\ttime\n"u\t1"\ti1\t5\n', {"quote": '"'}, [["u\t1", "i1", "5"]]),
        ('user,item,time\n"","",""\n,,\n', {}, [["", "", ""], ["", "", ""]]),
        ("user,item,time\nNA,null,None\n", {}, [["NA", "null", "None"]]),
        ("user,item,time\n u , i,5 \n", {}, [[" u ", " i", "5 "]]),
        ("user,item,time\n\ufeffu,\u2028,\x85\n", {}, [["\ufeffu", "\u2028", "\x85"]]),
    ],
)
def test_values_are_what_stands_there(
    tmp_path: Path, content: str, format: dict[str, object], rows: list[list[str]]
) -> None:
    assert rows_of(table(tmp_path, content, **format)) == rows


def test_columns_may_be_named_alike_where_they_are_not_wanted(tmp_path: Path) -> None:
    found = table(tmp_path, "user,x,item,x,time,\nu,1,i,2,5,3\n")
    assert rows_of(found, ["time", "user"]) == [["5", "u"]]


# ---- damage ----


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "x.csv: the file is empty (zero bytes)"),
        (b"\n\r\n", "x.csv: no line with anything in it"),
        (b"user,item,time\n", "x.csv: a header but no row after it"),
        (b"user,item,time\n\n", "x.csv: a header but no row after it"),
        (PLAIN + "u9,i9\n", "x.csv:5: 2 fields where there should be 3: 'u9,i9'; a value that holds the separator"),
        (PLAIN + "u9,i9", "x.csv:5: 2 fields where there should be 3: 'u9,i9', and the line has no end"),
        (PLAIN + "u9,i9,1,\n", "x.csv:5: 4 fields where there should be 3: 'u9,i9,1,'"),
        (PLAIN + "   \n", "x.csv:5: 1 field where there should be 3"),
        (PLAIN + '"u9\nx",i9\n', "x.csv:5: 2 fields where there should be 3"),
        (PLAIN + '"a\n\nb",i,1\n\nu9,i9\n', "x.csv:9: 2 fields where there should be 3"),
        (PLAIN + '"u9,i9,1\nu9,i9,2\n', "x.csv:5: a value in quotes begins here and never ends"),
        (PLAIN + 'u"9,i9,1\nu9,i"9,2\n', "x.csv:5: a quote in a value that does not stand in quotes"),
        (PLAIN + '"u"9,i9,1\n"x",i9,2\n', "x.csv:5: a quote in a value that does not stand in quotes"),
        (PLAIN + '"u9" ,i9,1\n', "x.csv:5: a quote in a value that does not stand in quotes"),
        (PLAIN + '"u\\"9\\"",i9,1\n', "x.csv:5: a quote behind a backslash; quotes in a quoted value must be doubled"),
        (PLAIN + "u\0,i9,1\n", "x.csv:5: a NUL byte"),
        (PLAIN + "u\r9,i9,1\n", "x.csv:5: a carriage return (CR) inside the line"),
        (PLAIN.encode() + b"u\xff,i9,1\n", "x.csv:5: byte 0xff is not UTF-8 text; set encoding="),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-12], "x.csv: is damaged or cut short (Compressed file ended before"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-8] + b"\0" * 8, "x.csv: is damaged or cut short (CRC check failed"),
        (bz2.compress(PLAIN.encode())[:-12], "x.csv: is damaged or cut short (Compressed file ended before"),
        (lzma.compress(PLAIN.encode())[:-12], "x.csv: is damaged or cut short (Compressed file ended before"),
        (gzip.compress(PLAIN.encode(), mtime=0) + b"trailing", "x.csv: is damaged or cut short (Not a gzipped file"),
        (gzip.compress(gzip.compress(PLAIN.encode(), mtime=0), mtime=0), "x.csv:1: byte 0x8b is not UTF-8 text"),
        (gzip.compress(b"PAR1xxxx", mtime=0), "x.csv: this is a compressed Parquet file; unpack it first"),
        (b"PK\x03\x04xxxx", "x.csv: this is a zip archive or an Excel file"),
        (b'{"user": 1}\n', "x.csv: this is JSON; write it as CSV or Parquet"),
        (b'\xef\xbb\xbf[{"user": 1}]\n', "x.csv: this is JSON"),
        (b"\n<!DOCTYPE html><html>", "x.csv: this is a web page or XML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x.csv: this is the place-holder of a Git LFS file"),
        (b"SQLite format 3\0", "x.csv: this is an SQLite database"),
        (b"\x80\x04\x95xxxx", "x.csv: this is a Python pickle, which is never opened"),
    ],
)
def test_damage_has_its_line(tmp_path: Path, content: str | bytes, expected: str) -> None:
    assert message(tmp_path, content).startswith(expected)


@pytest.mark.parametrize(
    ("content", "format", "expected"),
    [
        ("u1,i1,5\n", {"columns": ("user", "item")}, "x.csv:1: 3 fields in the first line where columns= names 2"),
        ("a,b,c;d\n1,2,3;4\n", {}, "x.txt: fields may be separated by a comma or a semicolon; say which"),
        ("one\ntwo\n", {}, "x.txt: no separator gives all lines as many fields as the first: 'one'"),
        (
            "user::item\nu\x1f::i\n",
            {},
            "x.txt:2: the character '\\x1f', which cannot stand in a file separated by '::'",
        ),
        (b"\xff\xfeu\x00\n", {}, "x.txt:1: not utf-16 text"),
        (b"user,item\n\xff\xff\xff,x\n", {"encoding": "gb18030"}, "x.txt:1: not gb18030 text"),
        (
            PLAIN.encode("utf-16-le"),
            {"encoding": "utf-16"},
            "x.txt:1: not utf-16 text (UTF-16 stream does not start with BOM), in this line or later; correct "
            "encoding=, e.g. encoding=utf-16-le or utf-16-be",
        ),
        (PLAIN.encode("utf-32-be"), {"encoding": "utf-32"}, "x.txt:1: not utf-32 text ("),
        (b"user,item\n+2AA-,x\n", {"encoding": "utf-7"}, "x.txt:1: not utf-7 text (surrogates not allowed)"),
        (b"user,item\n\\ud800,x\n", {"encoding": "unicode_escape"}, "x.txt:1: not unicode-escape text (surrogates"),
        (
            b"a;b\n1;2;3\n",
            {"separator": ",", "key_prefix": "items_", "columns": ("a", "b")},
            "x.txt:1: 1 fields in the first line where items_columns= names 2",
        ),
        (
            "a,b,c;d\n1,2,3;4\n",
            {"key_prefix": "items_"},
            "x.txt: fields may be separated by a comma or a semicolon; say which with items_separator=",
        ),
        (
            "one\ntwo\n",
            {"key_prefix": "items_"},
            "x.txt: no separator gives all lines as many fields as the first: "
            "'one'; say what separates fields with items_separator=",
        ),
        (b"a,b\n\xff,x\n", {"key_prefix": "items_"}, "x.txt:2: byte 0xff is not UTF-8 text; set items_encoding="),
        (
            "a,b\nu\0,x\n",
            {"key_prefix": "items_"},
            "x.txt:2: a NUL byte: the file is binary, damaged, or UTF-16; write "
            "it again as UTF-8, or set items_encoding=, e.g. utf-16-le",
        ),
        (
            'a::b\n"u\n',
            {"key_prefix": "items_", "separator": "::"},
            "x.txt:2: 1 field where there should be 2: '\"u'; items_separator= says "
            "what separates fields, items_quote='\"'",
        ),
        (
            'a,b\n"u,x\n',
            {"key_prefix": "items_", "separator": ","},
            "x.txt:2: a value in quotes begins here and never ends; correct it, or "
            "take quotes for ordinary characters with items_quote=none",
        ),
        (
            'a,b\nu"v",x\n',
            {"key_prefix": "items_"},
            "x.txt:2: a quote in a value that does not stand in quotes as a "
            "whole, or is not doubled in one that does: 'u\"v\",x'; write the file anew, or take quotes for ordinary "
            "characters with items_quote=none",
        ),
    ],
)
def test_what_is_said_about_a_file_must_fit(
    tmp_path: Path, content: str | bytes, format: dict[str, object], expected: str
) -> None:
    name = "x.csv" if expected.startswith("x.csv") else "x.txt"
    assert message(tmp_path, content, name, **format).startswith(expected)


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ({"separator": ""}, "separator is ''"),
        ({"separator": "\n"}, r"separator is '\\n'"),
        ({"separator": "", "key_prefix": "items_"}, "items_separator is ''"),
        ({"quote": "'", "key_prefix": "items_"}, "items_quote is "),
        ({"separator": "::", "quote": '"', "key_prefix": "items_"}, 'items_quote=" does not go with'),
        ({"encoding": "utf-99", "key_prefix": "items_"}, "items_encoding is 'utf-99'"),
        ({"skip_lines": -1, "key_prefix": "items_"}, "items_skip_lines is -1"),
        ({"columns": ("a", "a"), "key_prefix": "items_"}, "items_columns is 'a,a'"),
        ({"separator": '"'}, "separator is '\"'"),
        ({"quote": "'"}, 'quote is "\'"; allowed'),
        ({"separator": "::", "quote": '"'}, "quote=\" does not go with the separator '::'"),
        ({"encoding": "utf-99"}, "encoding is 'utf-99', which Python does not know"),
        ({"encoding": "zlib"}, "encoding is 'zlib', which Python does not know"),
        ({"skip_lines": -1}, "skip_lines is -1"),
        ({"columns": ("a", "a")}, "columns is 'a,a'; every column needs a name of its own"),
        ({"columns": ("a", "")}, "columns is 'a,'"),
    ],
)
def test_formats_that_cannot_be(tmp_path: Path, format: dict[str, object], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        table(tmp_path, PLAIN, **format)


def test_a_part_of_another_encoding_far_into_the_file_has_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(delimited_text, "_SAMPLE_BYTES", 64)
    content = b"user,item\n" + b"uuu,iii\n" * 50 + b"+2AA-,x\n"
    found = message(tmp_path, content, encoding="utf-7")
    line = int(found.split(":")[1])
    assert 40 <= line <= 52 and "not utf-7 text (surrogates not allowed), in this line or later" in found


def test_malformed_rows_are_dropped_and_counted_on_request(tmp_path: Path) -> None:
    bad_rows = BadRows(drop=True)
    content = PLAIN + "u9\n\nu4,i4,8\nu9,i9,1,1,1\n"
    found = table(tmp_path, content)
    assert rows_of(found, bad_rows=bad_rows) == [*ROWS, ["u4", "i4", "8"]]
    assert bad_rows.counts == {"another number of fields": 2}
    assert bad_rows.first["another number of fields"].startswith(f"{tmp_path / 'x.csv'}:5: 1 field where")
    assert found.notes == ["passed over: 1 empty line"]


# ---- blocks ----


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 16, 64, 1000])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_size_of_blocks_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, encoding: str
) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", size)
    content = 'user,item,time\r\n"ü,\r\n""1",i1,5\r\n\r\n日本,"i\n\n2",6\nu1,i3,"7"'
    found = table(tmp_path, content.encode(encoding))
    places = [(batch.place(row), batch.columns["user"][row].as_py())
              for batch in found.batches(["user"], BadRows()) for row in range(batch.rows)]  # fmt: skip
    name = tmp_path / "x.csv"
    assert places == [(f"{name}:2", 'ü,\r\n"1'), (f"{name}:5", "日本"), (f"{name}:8", "u1")]
    assert rows_of(found) == [['ü,\r\n"1', "i1", "5"], ["日本", "i\n\n2", "6"], ["u1", "i3", "7"]]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_separators_of_several_characters_may_lie_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", size)
    assert rows_of(table(tmp_path, PLAIN.replace(",", "::"), "x.dat")) == ROWS


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_lines_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", size)
    assert message(tmp_path, PLAIN + '\n"a\n\nb",c,d\nu9\n').startswith("x.csv:9: 1 field")
    assert message(tmp_path, PLAIN + 'u,i,1\n"u,i,2\nu,i,3\n').startswith("x.csv:6: a value in quotes begins here")
    assert message(tmp_path, "note\n" + PLAIN + "u9\n", skip_lines=1).startswith("x.csv:6: 1 field")


def test_a_record_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(text_blocks, "_LONGEST_RECORD", 1 << 12)
    endless = PLAIN + '"' + "x,y,z\n" * 10000
    assert message(tmp_path, endless).startswith("x.csv:5: a value in quotes begins here and never ends")
    assert "no line end in 0 MiB" in message(tmp_path, PLAIN + "x" * 10000, quote="none")


# ---- against Python's own reader ----


def random_table(draw: random.Random, characters: str) -> list[list[str]]:
    def value() -> str:
        return "".join(draw.choice(characters) for _ in range(draw.randrange(5)))

    return [["user", "item", "time"], *([value() for _ in range(3)] for _ in range(draw.randrange(1, 12)))]


@pytest.mark.parametrize("seed", range(60))
def test_random_tables_equal_pythons_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", draw.choice([1, 3, 10, 1 << 20]))
    quoting = draw.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
    returns = "\r" if quoting == csv.QUOTE_ALL else ""  # which Python up to 3.12 does not quote when it alone needs it
    rows = random_table(draw, f'ab,;|\t "\n日é{returns}')
    separator = draw.choice(",;|\t")
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=draw.choice(["\n", "\r\n"])).writerows(rows)
    expected = list(csv.reader(io.StringIO(text.getvalue(), newline=""), delimiter=separator))
    assert expected == rows
    assert rows_of(table(tmp_path, text.getvalue(), separator=separator, quote='"')) == rows[1:]


@pytest.mark.parametrize("seed", range(150))
def test_random_damage_is_refused_or_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """After a random change a file is refused, or read as Python's strict reader reads it."""
    draw = random.Random(seed)
    monkeypatch.setattr(text_blocks, "_BLOCK_BYTES", draw.choice([1, 7, 1 << 20]))
    rows = random_table(draw, 'abc,"\n ')
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    content = text.getvalue()
    for _ in range(draw.randrange(1, 3)):
        place = draw.randrange(15, len(content) + 1)
        content = (
            content[:place] + draw.choice(['"', ",", "\n", "x", "", "\r\n"]) + content[place + draw.randrange(2) :]
        )
    try:
        found = rows_of(table(tmp_path, content, separator=",", quote='"'))
    except UserError as error:
        assert "\n" not in str(error)
        return
    strict = csv.reader(io.StringIO(content, newline=""), strict=True)
    assert found == [row for row in strict if row][1:]
