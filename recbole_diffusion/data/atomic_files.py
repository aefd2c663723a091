"""Strict reading of RecBole's atomic files (``.inter``, ``.user``, ``.item`` ...): a table arrives whole or not at all.

An atomic file is text: a header of ``name:type`` fields, then one row per line, all separated by one character
(a tab), the type one of ``token``, ``float``, ``token_seq``, ``float_seq``
(format: https://recbole.io/docs/user_guide/data/atomic_files.html).

RecBole 1.2.1 reads it with pandas' defaults, and those alter data in silence: ids that look like a missing value
(``NA``, ``None``, ``null``) lose their rows, a double quote opens a field that can swallow the lines after it, a row
with an extra field shifts its columns, a missing time becomes the mean time. Here nothing is dropped or changed:
every oddity is kept as it stands, logged, or refused by a one-line :class:`UserError` ``FILE:LINE: what; remedy``.

Two passes, both vectorised: over the bytes (:func:`check_layout`: encoding, line ends, fields per line), then pandas'
C parser with quoting and missing-value guessing off (:func:`read_columns`: ids, numbers). A line is looked for one by
one only once a pass has found that something is wrong. Why each rule is as it is: docs/decisions/020-strict-reading.md.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from logging import getLogger
from pathlib import Path
from typing import IO, NoReturn, cast

import numpy as np
import pandas as pd

from recbole_diffusion.errors import UserError

logger = getLogger(__name__)

TYPES = ("token", "float", "token_seq", "float_seq")
EXAMPLE_HEADER = "user_id:token<TAB>item_id:token<TAB>timestamp:float"

# What RecBole (pandas' defaults) takes for a missing value. Here it counts in float columns only.
MISSING_NUMBERS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip

# RecBole's name for the padding token (id 0) of every token field; an id of that name would be two things at once.
PADDING_TOKEN = "[PAD]"

_BLOCK_BYTES = 1 << 23
_LONGEST_HEADER = 1 << 20
_SEPARATOR_NAMES = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a vertical bar", " ": "a space"}
_COMPRESSED = {
    b"\x1f\x8b": ("gzip-compressed", "unpack it with `gunzip` (rename it to end in .gz first)"),
    b"PK\x03\x04": ("a zip archive", "unpack it first"),
    b"BZh": ("bzip2-compressed", "unpack it with `bunzip2`"),
    b"\xfd7zXZ\x00": ("xz-compressed", "unpack it with `unxz`"),
    b"\x28\xb5\x2f\xfd": ("zstd-compressed", "unpack it with `unzstd`"),
    b"PAR1": ("a Parquet file", "write it as tab-separated text"),
    b"\x89HDF": ("an HDF5 file", "write it as tab-separated text"),
    b"\x80\x04\x95": ("a Python pickle", "write it as tab-separated text"),
}
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}:\d{2}")


@dataclass(frozen=True)
class Field:
    """One column of an atomic file: its name and its type (one of :data:`TYPES`)."""

    name: str
    type: str


@dataclass(frozen=True)
class RequiredColumn:
    """A column that has to be there: the configuration key that names it, its type, and what it is needed for."""

    name: str
    key: str
    type: str
    purpose: str


@dataclass(frozen=True)
class AtomicFile:
    """An atomic file whose layout has been checked: every row has as many fields as the header."""

    path: Path
    fields: tuple[Field, ...]
    rows: int
    separator: str
    encoding: str

    def line(self, row: int) -> int:
        """Line number (from 1) of row ``row`` (from 0): the header is line 1 and no line between rows is empty."""
        return row + 2

    def type_of(self, name: str) -> str:
        """Type of the column ``name``."""
        return next(field.type for field in self.fields if field.name == name)


def shown(text: str, longest: int = 40) -> str:
    """``text`` for a message: quoted, control characters escaped, cut after ``longest`` characters."""
    return repr(text) if len(text) <= longest else f"{text[:longest]!r}... ({len(text)} characters)"


def _refuse(path: Path, line: int | None, what: str, remedy: str) -> NoReturn:
    place = str(path) if line is None else f"{path}:{line}"
    message = f"{place}: {what}; {remedy}"
    raise UserError("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def _separator_name(separator: str) -> str:
    return _SEPARATOR_NAMES.get(separator, repr(separator))


# ---------------------------------------------------------------------------------------------------------- bytes


def check_layout(
    path: Path | str, *, separator: str = "\t", encoding: str = "utf-8", required: Sequence[RequiredColumn] = ()
) -> AtomicFile:
    """Check all that can be said about an atomic file without reading its values.

    Args:
        path: the file.
        separator: one ASCII character between fields (RecBole's ``field_separator``).
        encoding: RecBole's ``encoding``; a UTF-8 byte-order mark is skipped and logged.
        required: columns that have to be there.

    Returns:
        The header's fields and the number of rows.

    Raises:
        UserError: empty, compressed, binary or wrongly encoded; header missing, untyped, of unknown types or with
            duplicate names; wrong separator; a required column missing or of the wrong type; a row with too many or
            too few fields; no row at all.
    """
    path = Path(path)
    if len(separator) != 1 or not separator.isascii() or separator in '\n\r\0"':
        raise UserError(f"field_separator is {separator!r}; it must be one ASCII character, normally a tab ('\\t')")
    try:
        codec = codecs.lookup(encoding).name
        codec = "utf-8" if codec == "ascii" else codec
    except LookupError:
        raise UserError(f"encoding is {encoding!r}, which Python does not know; normally it is utf-8") from None
    try:
        with path.open("rb") as handle:
            return _check_open_file(path, handle, separator, codec, required)
    except OSError as error:
        _refuse(path, None, f"cannot be read ({error.strerror or error})", "check the path and its permissions")


def _check_open_file(
    path: Path, handle: IO[bytes], separator: str, codec: str, required: Sequence[RequiredColumn]
) -> AtomicFile:
    _check_kind(path, handle.read(8), codec)
    handle.seek(0)
    fields: tuple[Field, ...] = ()
    lines = 0
    blank_line = 0  # first of a run of empty lines that may turn out to be the end of the file
    open_end = False
    for block in _blocks_of_lines(path, handle, codec):
        _check_characters(path, block, lines)
        if not fields:
            if block.startswith(codecs.BOM_UTF8):
                logger.info("%s: the UTF-8 byte-order mark at its start is skipped", path)
            fields = _parse_header(path, block.removeprefix(codecs.BOM_UTF8), separator, required)
        if blank_line and block.strip(b"\r\n"):
            _refuse(path, blank_line, "the line is empty", "remove it")
        starts_blank, counted = _check_field_counts(path, block, lines, separator, len(fields))
        blank_line = blank_line or starts_blank
        lines += counted
        open_end = not block.endswith(b"\n")
    rows = (blank_line - 1 if blank_line else lines) - 1
    if rows < 1:
        _refuse(path, 1, "a header but no row after it", "add rows, or point data_path and dataset at another file")
    if open_end:
        logger.warning(
            "%s:%d: the last line has no line end; if the file was cut short in copying, its last value is incomplete",
            path,
            rows + 1,
        )
    return AtomicFile(path, fields, rows, separator, codec)


def _check_kind(path: Path, start: bytes, codec: str) -> None:
    """Refuse a file whose first bytes say that it is something else than text in this encoding."""
    if not start:
        _refuse(path, 1, "the file is empty (zero bytes)", f"it must start with a header such as {EXAMPLE_HEADER}")
    for mark, (kind, remedy) in _COMPRESSED.items():
        if start.startswith(mark):
            _refuse(path, 1, f"this is {kind}, not text", remedy)
    if not codec.startswith(("utf-16", "utf-32")):
        for mark, name in _WIDE_MARKS:
            if start.startswith(mark):
                remedy = f"save it as UTF-8 (`iconv -f {name} -t UTF-8`) or set encoding: {name.lower()}"
                _refuse(path, 1, f"this is {name} text, expected UTF-8", remedy)


def _blocks_of_lines(path: Path, handle: IO[bytes], codec: str) -> Iterator[bytes]:
    """The file as UTF-8 in blocks of whole lines; only the last block may lack its line end."""
    decoder = None if codec in ("utf-8", "utf-8-sig") else codecs.getincrementaldecoder(codec)()
    rest = b""
    lines = 0
    while True:
        raw = handle.read(_BLOCK_BYTES)
        if decoder is None:
            block = raw
        else:
            try:
                block = decoder.decode(raw, final=not raw).encode("utf-8")
            except UnicodeDecodeError as error:
                what = f"not {codec} text ({error.reason}), in this line or later"
                _refuse(path, lines + 1, what, "save it as UTF-8, or correct the key encoding")
        if raw:
            block = rest + block
            cut = block.rfind(b"\n") + 1
            if cut == 0 and len(block) > _LONGEST_HEADER and lines == 0:
                _refuse(path, 1, "no line end in the first megabyte", "this is not an atomic file (one row per line)")
            block, rest = block[:cut], block[cut:]
        else:
            block, rest = rest + block, b""
        lines += block.count(b"\n")
        if block:
            yield block
        if not raw:
            return


def _check_characters(path: Path, block: bytes, lines_before: int) -> None:
    """Refuse NUL bytes, anything that is not UTF-8, and carriage returns that do not belong to a line end."""
    nul = block.find(b"\0")
    bad, byte = -1, 0
    if not block.isascii():
        try:
            block.decode("utf-8")
        except UnicodeDecodeError as error:
            bad, byte = error.start, block[error.start]
    if nul >= 0 and (bad < 0 or nul < bad):
        line = lines_before + block.count(b"\n", 0, nul) + 1
        remedy = "an atomic file is UTF-8 text: write it again, or set encoding if it is UTF-16 text"
        _refuse(path, line, "a NUL byte: the file is binary or damaged", remedy)
    if bad >= 0:
        line = lines_before + block.count(b"\n", 0, bad) + 1
        remedy = "save it as UTF-8 or, if it is text in another encoding, set the key encoding (e.g. latin-1)"
        _refuse(path, line, f"byte 0x{byte:02x} is not UTF-8 text", remedy)
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        alone = cast("re.Match[bytes]", re.search(rb"\r(?!\n)", block)).start()
        line = lines_before + block.count(b"\n", 0, alone) + 1
        remedy = "end lines with LF or CR LF (`tr '\\r' '\\n'` for an old Macintosh file)"
        _refuse(path, line, "a carriage return (CR) inside the line", remedy)


def _check_field_counts(path: Path, block: bytes, lines_before: int, separator: str, expected: int) -> tuple[int, int]:
    """Check that every line of a block has ``expected`` fields.

    Returns:
        The line number of the first empty line if only empty lines follow it in this block, else 0; and the number of
        lines in the block.
    """
    data = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    separators = np.flatnonzero(data == ord(separator))
    counts = np.diff(np.searchsorted(separators, ends), prepend=0)
    wrong = counts != expected - 1
    if expected == 1:  # an empty line has the one field that is expected
        lengths = np.diff(ends, prepend=-1) - 1
        wrong |= (lengths == 0) | ((lengths == 1) & (data[np.maximum(ends - 1, 0)] == ord("\r")))
    if not wrong.any():
        return 0, len(ends)
    first = int(np.argmax(wrong))
    line = lines_before + first + 1
    begin = int(ends[first - 1]) + 1 if first else 0
    text = block[begin : ends[first]].decode("utf-8").rstrip("\r")
    if not text:
        if not block[begin:].strip(b"\r\n"):
            return line, len(ends)
        _refuse(path, line, "the line is empty", "remove it")
    found = int(counts[first]) + 1
    what = f"{found} field{'s' if found > 1 else ''} where the header has {expected}"
    remedy = f"fields are separated by {_separator_name(separator)} (field_separator)"
    if found > expected:
        remedy += ", which a value must not contain, quoted or not"
    elif first == len(ends) - 1 and not block.endswith(b"\n"):
        what += ", and the line has no end: the file was probably cut short"
        remedy = "copy it again, or remove that line"
    else:
        other = _other_separator(text, separator, expected)
        if other is not None:
            what += f" (the line looks separated by {_separator_name(other)})"
    _refuse(path, line, f"{what}: {shown(text)}", remedy)


def _other_separator(text: str, separator: str, expected: int | None = None) -> str | None:
    """The separator that ``text`` seems to use instead: one that gives ``expected`` (None: two or more) fields."""
    for other in ("\t", ",", ";", "|", " "):
        fields = text.count(other) + 1
        if other != separator and (fields == expected if expected else fields > 1):
            return other
    return None


# --------------------------------------------------------------------------------------------------------- header


def _parse_header(path: Path, block: bytes, separator: str, required: Sequence[RequiredColumn]) -> tuple[Field, ...]:
    end = block.find(b"\n")
    head = block[: end if end >= 0 else len(block)].decode("utf-8").rstrip("\r")
    parts = head.split(separator)
    pattern = "the first line must be a header of name:type fields"
    if not head.strip():
        _refuse(path, 1, "the first line is empty", f"{pattern}, e.g. {EXAMPLE_HEADER}")
    if len(parts) == 1:
        other = _other_separator(head, separator)
        if other is not None:
            what = f"fields are separated by {_separator_name(other)}, expected {_separator_name(separator)}"
            _refuse(path, 1, what, "rewrite the file, or set field_separator")
    if not any(":" in part for part in parts):
        known = {column.name for column in required}
        if any(_is_number(part) for part in parts) or (len(parts) == 1 and head.strip() not in known):
            _refuse(path, 1, f"no header, the first line is {shown(head)}", f"{pattern}, e.g. {EXAMPLE_HEADER}")
    fields = tuple(_parse_field(path, part) for part in parts)
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            _refuse(path, 1, f"{names.count(name)} columns are named {shown(name)}", "names must differ: rename one")
    for column in required:
        _check_required(path, fields, column)
    return fields


def _parse_field(path: Path, text: str) -> Field:
    allowed = ", ".join(TYPES)
    name, colon, kind = text.partition(":")
    if not colon:
        what = f"header field {shown(text)} has no type"
        _refuse(path, 1, what, f"write it as name:type, type one of {allowed}, e.g. user_id:token")
    if not name.strip() or name != name.strip():
        _refuse(path, 1, f"header field {shown(text)} has no proper name", "write it as name:type without spaces")
    if kind not in TYPES:
        near = difflib.get_close_matches(kind.strip().lower(), TYPES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        if _is_number(kind):
            hint = "; if this line is data, the header is missing"
        _refuse(path, 1, f"field {shown(name)} has the unknown type {shown(kind)}{hint}", f"allowed: {allowed}")
    return Field(name, kind)


def _check_required(path: Path, fields: Sequence[Field], column: RequiredColumn) -> None:
    for field in fields:
        if field.name == column.name:
            if field.type != column.type:
                what = f"column {shown(field.name)} ({column.key}) has type {field.type}"
                _refuse(path, 1, what, f"it must be {column.type}: write {field.name}:{column.type}")
            return
    names = [field.name for field in fields]
    near = difflib.get_close_matches(column.name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    what = f"no column {column.name!r}, needed for {column.purpose}; columns are {', '.join(names)}{hint}"
    _refuse(path, 1, what, f"add the column, or name another one with {column.key}")


def _is_number(text: str) -> bool:
    """Whether ``text`` is one finite decimal number, as pandas' C parser reads it (ASCII, no underscores)."""
    if not text.isascii() or "_" in text:
        return False
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


# --------------------------------------------------------------------------------------------------------- values


def read_columns(
    file: AtomicFile, columns: Sequence[str], *, identifiers: Sequence[str] = (), times: Sequence[str] = ()
) -> pd.DataFrame:
    """Read ``columns`` of a checked file, row for row, tokens exactly as written.

    Args:
        file: what :func:`check_layout` returned.
        columns: names of the columns to read.
        identifiers: token columns in which no value may be empty or the padding token.
        times: float columns in which every value must be a finite number.

    Returns:
        A frame of ``file.rows`` rows, columns in the file's order. ``token`` and sequence columns hold strings,
        ``float`` columns float64 with NaN where the value is missing (RecBole fills these with the column's mean,
        which is logged). In token columns other than ``identifiers`` an empty value is missing (NaN), as in RecBole.

    Raises:
        UserError: an empty identifier; a float that is no finite number; a missing time.
    """
    numbers = [name for name in columns if file.type_of(name) == "float"]
    try:
        frame = _parse(file, columns, numbers=numbers)
    except (ValueError, OverflowError) as error:
        for name in numbers:
            _check_numbers(file, name, may_be_missing=name not in times)
        _refuse(file.path, None, f"pandas cannot read it ({error})", "check the columns of type float")
    for name in numbers:
        values = frame[name].to_numpy()
        missing = np.isnan(values)
        if np.isinf(values).any() or (name in times and missing.any()):
            _check_numbers(file, name, may_be_missing=name not in times)
        if missing.all():
            _refuse(file.path, file.line(0), f"column {name} has no value in any row", "do not load it (unload_col)")
        if missing.any():
            logger.warning(
                "%s:%d: column %s: %d of %d values are missing, first here; RecBole puts the column's mean there",
                file.path,
                file.line(int(np.argmax(missing))),
                name,
                int(missing.sum()),
                len(values),
            )
    for name in columns:
        if name in identifiers:
            _check_identifiers(file, name, frame[name])
        elif file.type_of(name) == "token":
            frame[name] = _tokens_with_missing(file, name, frame[name])
    return frame


def _parse(
    file: AtomicFile, columns: Sequence[str], *, numbers: Sequence[str] = (), integers: Sequence[str] = ()
) -> pd.DataFrame:
    """pandas' C parser with nothing left to guess: ``numbers`` as float64, ``integers`` as int64, the rest as text."""
    kinds: dict[str, type] = dict.fromkeys(numbers, np.float64) | dict.fromkeys(integers, np.int64)
    names = [field.name for field in file.fields]
    frame = pd.read_csv(
        file.path,
        sep=file.separator,
        header=None,
        skiprows=1,
        names=names,
        usecols=[name for name in names if name in set(columns)],
        index_col=False,
        nrows=file.rows,
        skip_blank_lines=False,
        dtype={name: kinds.get(name, str) for name in columns},
        keep_default_na=False,
        na_values={name: list(MISSING_NUMBERS) for name in numbers},
        float_precision="round_trip",
        quoting=csv.QUOTE_NONE,
        encoding=file.encoding,
        engine="c",
    )
    if len(frame) != file.rows:
        what = f"{file.rows} rows by line, {len(frame)} as pandas reads it"
        _refuse(file.path, None, what, "the file changed while it was being read, or holds unusual control characters")
    return frame


def _texts(file: AtomicFile, name: str) -> list[str]:
    """One column as the text that stands in the file."""
    return cast("list[str]", _parse(file, [name])[name].tolist())


def _check_numbers(file: AtomicFile, name: str, *, may_be_missing: bool) -> None:
    """Find the first value of a float column that is refused, and say why; the fast pass has seen that there is one."""
    bad = 0
    first: tuple[int, str] | None = None
    for row, text in enumerate(_texts(file, name)):
        if (may_be_missing and text in MISSING_NUMBERS) or _is_number(text):
            continue
        bad += 1
        first = first or (row, text)
    if first is None:
        return
    row, text = first
    kind = "time" if not may_be_missing else "number"
    remedy = "write a number such as 978386400 (seconds)" if kind == "time" else "write a number, or leave it empty"
    if text in MISSING_NUMBERS:
        what = f"column {name} has no {kind} ({shown(text)})"
        remedy = "every interaction needs one, it is what orders them: add it, or remove the row"
    elif text == f"{name}:float":
        what, remedy = f"column {name} holds the header again ({shown(text)})", "remove the repeated header line"
    else:
        what = f"column {name} is {shown(text)}, not a finite number"
        if _DATE.match(text.strip()):
            what = f"column {name} is the date {shown(text)}, not a number"
            remedy = "convert dates to numbers that rise with time, e.g. seconds since 1970"
        elif _is_number(text.replace(",", "")):
            remedy = "write the decimal mark as a point and no thousands separator"
    rows = f" (and {bad - 1} more row{'s' if bad > 2 else ''})" if bad > 1 else ""
    _refuse(file.path, file.line(row), what + rows, remedy)


def _check_identifiers(file: AtomicFile, name: str, tokens: pd.Series) -> None:
    """Refuse empty ids and the padding token; log ids with white space at an end, which stay as they are."""
    padded: list[str] = []
    distinct = pd.unique(tokens)
    for token in distinct:
        if not token.strip():
            row = _first_row(tokens, token)
            count = int((tokens == token).sum())
            more = f" (and {count - 1} more)" if count > 1 else ""
            _refuse(file.path, file.line(row), f"{name} is empty{more}", "every row needs an id: add it, or remove it")
        if token == PADDING_TOKEN:
            remedy = "RecBole uses that name for padding: rename the id"
            _refuse(file.path, file.line(_first_row(tokens, token)), f"{name} is {PADDING_TOKEN!r}", remedy)
        if token[0].isspace() or token[-1].isspace():
            padded.append(token)
    if padded:
        known = set(distinct)
        twins = [token for token in padded if token.strip() in known]
        logger.warning(
            "%s:%d: %d different values of %s begin or end with white space, such as %s; they are kept as they are%s",
            file.path,
            file.line(_first_row(tokens, padded[0])),
            len(padded),
            name,
            shown(padded[0]),
            f", and {len(twins)} of them differ from another id by that alone" if twins else "",
        )


def _tokens_with_missing(file: AtomicFile, name: str, tokens: pd.Series) -> pd.Series:
    """A token column that is not an id: empty is missing (RecBole maps NaN to the padding id 0)."""
    reserved = tokens == PADDING_TOKEN
    if reserved.any():
        remedy = "RecBole uses that name for padding: leave the value empty or rename it"
        _refuse(file.path, file.line(int(np.argmax(reserved))), f"{name} is {PADDING_TOKEN!r}", remedy)
    empty = tokens == ""
    return tokens.where(~empty) if empty.any() else tokens


def _first_row(tokens: pd.Series, token: str) -> int:
    return int(np.argmax((tokens == token).to_numpy()))


def split_sequences(file: AtomicFile, name: str, texts: pd.Series, separator: str) -> list[np.ndarray]:
    """A ``token_seq`` or ``float_seq`` column as one array per row; empty parts are skipped, as in RecBole.

    Args:
        file: the file the column comes from.
        name: the column.
        texts: its text, one string per row.
        separator: RecBole's ``seq_separator``.

    Raises:
        UserError: an element of a ``float_seq`` is not a finite number.
    """
    if file.type_of(name) == "token_seq":
        return [np.array([part for part in text.split(separator) if part], dtype=str) for text in texts]
    sequences = []
    for row, text in enumerate(texts):
        parts = [part for part in text.split(separator) if part]
        for part in parts:
            if not _is_number(part):
                what = f"column {name} has the element {shown(part)}, not a finite number"
                _refuse(file.path, file.line(row), what, f"write numbers separated by {_separator_name(separator)}")
        sequences.append(np.array([float(part) for part in parts], dtype=np.float64))
    return sequences


def exact_order(file: AtomicFile, name: str, values: np.ndarray) -> np.ndarray | None:
    """What orders a time column where float64 is too coarse to tell all its values apart.

    Whole numbers below 2^53 are exact in float64. Larger ones that fit int64 (nanoseconds) are read as such. Anything
    else (long fractions) is compared by the decimal numbers that stand in the file, among rows whose float64 is equal.

    Args:
        file: the file.
        name: its time column.
        values: (rows,) float64, the column as read.

    Returns:
        (rows,) int64, equal for equal times and rising with time; None when ``values`` do as well.
    """
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    tied = np.flatnonzero(size[group] > 1)
    if len(tied) == 0:
        return None
    texts = _texts(file, name)
    # pandas reads 5.0000000000000001 as the integer 5 without a word, so look at the characters first
    if "\n".join(texts).encode("ascii").translate(None, b"0123456789+-\n "):
        return _decimal_order(texts, group, tied)
    if (np.abs(values) < 2.0**53).all():
        return None
    try:
        return _parse(file, [name], integers=[name])[name].to_numpy()
    except (ValueError, OverflowError):  # beyond int64
        return _decimal_order(texts, group, tied)


def _decimal_order(texts: Sequence[str], group: np.ndarray, tied: np.ndarray) -> np.ndarray | None:
    """Order by decimal number: ``group`` (rows,) is equal where float64 values are, ``tied`` rows share theirs."""
    spellings = pd.DataFrame({"group": group[tied], "text": np.array(texts, dtype=object)[tied]})
    distinct = spellings.drop_duplicates()
    distinct = distinct.assign(time=[Decimal(text.strip()) for text in distinct["text"]])
    distinct = distinct.sort_values(["group", "time"], kind="stable")
    later = (distinct["group"] == distinct["group"].shift()) & (distinct["time"] != distinct["time"].shift())
    if not later.any():
        return None
    distinct["place"] = later.groupby(distinct["group"]).cumsum()
    place = np.zeros(len(group), dtype=np.int64)
    place[tied] = spellings.merge(distinct, on=["group", "text"], how="left")["place"].to_numpy()
    _, rank = np.unique(np.stack([group, place]), axis=1, return_inverse=True)
    return rank.reshape(-1).astype(np.int64)
