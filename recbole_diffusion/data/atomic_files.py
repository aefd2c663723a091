"""Strict reading of RecBole's atomic files (``.inter``, ``.user``, ``.item`` ...): a table arrives whole or not at all.

An atomic file is text: a header of ``name:type`` fields, then one row per line, all separated by one character
(a tab), the type one of ``token``, ``float``, ``token_seq``, ``float_seq``
(format: https://recbole.io/docs/user_guide/data/atomic_files.html).

RecBole 1.2.1 reads it with pandas' defaults, and those alter data in silence: ids that look like a missing value
(``NA``, ``None``, ``null``) lose their rows, a double quote opens a field that can swallow the lines after it, a row
with an extra field shifts its columns, a missing time becomes the mean time. Here nothing is dropped or changed:
every oddity is kept as it stands, logged, or refused by a one-line :class:`UserError` ``FILE:LINE: what; remedy``.

Two passes, both vectorised: over the bytes (:func:`check_layout`, here: encoding, line ends, fields per line), then
over the values (:func:`~recbole_diffusion.data.atomic_values.read_columns`: ids, numbers). A line is looked for one by
one only once a pass has found that something is wrong. Why each rule is as it is: docs/decisions/020-strict-reading.md.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import IO, NoReturn, cast

import numpy as np
from tqdm import tqdm

from recbole_diffusion.data.atomic_fields import (
    EXAMPLE_HEADER,
    MISSING_NUMBERS,
    PADDING_TOKEN,
    TYPES,
    AtomicFile,
    Field,
    RequiredColumn,
    other_separator,
    parse_header,
    refuse,
    separator_name,
    shown,
)
from recbole_diffusion.data.atomic_values import read_columns, split_sequences
from recbole_diffusion.data.exact_times import exact_order
from recbole_diffusion.data.progress import progress
from recbole_diffusion.errors import UserError

__all__ = [
    "EXAMPLE_HEADER",
    "MISSING_NUMBERS",
    "PADDING_TOKEN",
    "TYPES",
    "AtomicFile",
    "Field",
    "RequiredColumn",
    "check_layout",
    "exact_order",
    "read_columns",
    "shown",
    "split_sequences",
]

logger = getLogger(__name__)

_BLOCK_BYTES = 1 << 23
_LONGEST_HEADER = 1 << 20
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


def check_layout(
    path: Path | str,
    *,
    separator: str = "\t",
    encoding: str = "utf-8",
    required: Sequence[RequiredColumn] = (),
    show_progress: bool = False,
) -> AtomicFile:
    """Check all that can be said about an atomic file without reading its values.

    Args:
        path: the file.
        separator: one ASCII character between fields (RecBole's ``field_separator``).
        encoding: RecBole's ``encoding``; a UTF-8 byte-order mark is skipped and logged.
        required: columns that have to be there.
        show_progress: a bar on standard error when it takes more than two seconds.

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
            size = os.fstat(handle.fileno()).st_size
            with progress(f"Checking {path.name}", size, "B", shown=show_progress) as bar:
                return _check_open_file(path, handle, separator, codec, required, bar)
    except OSError as error:
        refuse(path, None, f"cannot be read ({error.strerror or error})", "check the path and its permissions")


def _check_open_file(
    path: Path, handle: IO[bytes], separator: str, codec: str, required: Sequence[RequiredColumn], bar: tqdm
) -> AtomicFile:
    _check_kind(path, handle.read(8), codec)
    handle.seek(0)
    fields: tuple[Field, ...] = ()
    lines = 0
    blank_line = 0  # first of a run of empty lines that may turn out to be the end of the file
    longest_line = 0
    open_end = False
    for block in _blocks_of_lines(path, handle, codec):
        _check_characters(path, block, lines)
        if not fields:
            if block.startswith(codecs.BOM_UTF8):
                logger.info("%s: the UTF-8 byte-order mark at its start is skipped", path)
            fields = parse_header(path, block.removeprefix(codecs.BOM_UTF8), separator, required)
        if blank_line and block.strip(b"\r\n"):
            refuse(path, blank_line, "the line is empty", "remove it")
        starts_blank, counted, longest = _check_field_counts(path, block, lines, separator, len(fields))
        blank_line = blank_line or starts_blank
        lines += counted
        longest_line = max(longest_line, longest)
        bar.update(handle.tell() - bar.n)
        open_end = not block.endswith(b"\n")
    rows = (blank_line - 1 if blank_line else lines) - 1
    if rows < 1:
        refuse(path, 1, "a header but no row after it", "add rows, or point data_path and dataset at another file")
    if open_end:
        logger.warning(
            "%s:%d: the last line has no line end; if the file was cut short in copying, its last value is incomplete",
            path,
            rows + 1,
        )
    return AtomicFile(path, fields, rows, separator, codec, longest_line)


def _check_kind(path: Path, start: bytes, codec: str) -> None:
    """Refuse a file whose first bytes say that it is something else than text in this encoding."""
    if not start:
        refuse(path, 1, "the file is empty (zero bytes)", f"it must start with a header such as {EXAMPLE_HEADER}")
    for mark, (kind, remedy) in _COMPRESSED.items():
        if start.startswith(mark):
            refuse(path, 1, f"this is {kind}, not text", remedy)
    if not codec.startswith(("utf-16", "utf-32")):
        for mark, name in _WIDE_MARKS:
            if start.startswith(mark):
                remedy = f"save it as UTF-8 (`iconv -f {name} -t UTF-8`) or set encoding: {name.lower()}"
                refuse(path, 1, f"this is {name} text, expected UTF-8", remedy)


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
                refuse(path, lines + 1, what, "save it as UTF-8, or correct the key encoding")
        if raw:
            block = rest + block
            cut = block.rfind(b"\n") + 1
            if cut == 0 and len(block) > _LONGEST_HEADER and lines == 0:
                refuse(path, 1, "no line end in the first megabyte", "this is not an atomic file (one row per line)")
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
        refuse(path, line, "a NUL byte: the file is binary or damaged", remedy)
    if bad >= 0:
        line = lines_before + block.count(b"\n", 0, bad) + 1
        remedy = "save it as UTF-8 or, if it is text in another encoding, set the key encoding (e.g. latin-1)"
        refuse(path, line, f"byte 0x{byte:02x} is not UTF-8 text", remedy)
    if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
        alone = cast("re.Match[bytes]", re.search(rb"\r(?!\n)", block)).start()
        line = lines_before + block.count(b"\n", 0, alone) + 1
        remedy = "end lines with LF or CR LF (`tr '\\r' '\\n'` for an old Macintosh file)"
        refuse(path, line, "a carriage return (CR) inside the line", remedy)


def _check_field_counts(
    path: Path, block: bytes, lines_before: int, separator: str, expected: int
) -> tuple[int, int, int]:
    """Check that every line of a block has ``expected`` fields.

    Returns:
        The line number of the first empty line if only empty lines follow it in this block, else 0; the number of
        lines in the block; and the length of the longest one in bytes.
    """
    data = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if not block.endswith(b"\n"):
        ends = np.append(ends, len(block))
    separators = np.flatnonzero(data == ord(separator))
    counts = np.diff(np.searchsorted(separators, ends), prepend=0)
    lengths = np.diff(ends, prepend=-1) - 1
    longest = int(lengths.max())
    wrong = counts != expected - 1
    if expected == 1:  # an empty line has the one field that is expected
        wrong |= (lengths == 0) | ((lengths == 1) & (data[np.maximum(ends - 1, 0)] == ord("\r")))
    blank_line = 0
    if wrong.any():
        first = int(np.argmax(wrong))
        blank_line = lines_before + first + 1
        begin = int(ends[first - 1]) + 1 if first else 0
        if block[begin:].strip(b"\r\n"):
            text = block[begin : ends[first]].decode("utf-8").rstrip("\r")
            cut_short = first == len(ends) - 1 and not block.endswith(b"\n")
            _refuse_line(path, blank_line, text, separator, int(counts[first]) + 1, expected, cut_short)
    return blank_line, len(ends), longest


def _refuse_line(
    path: Path, line: int, text: str, separator: str, found: int, expected: int, cut_short: bool
) -> NoReturn:
    """Say what is wrong with a line that has not as many fields as the header."""
    if not text:
        refuse(path, line, "the line is empty", "remove it")
    what = f"{found} field{'s' if found > 1 else ''} where the header has {expected}"
    remedy = f"fields are separated by {separator_name(separator)} (field_separator)"
    if found > expected:
        remedy += ", which a value must not contain, quoted or not"
    elif cut_short:
        what += ", and the line has no end: the file was probably cut short"
        remedy = "copy it again, or remove that line"
    else:
        other = other_separator(text, separator, expected)
        if other is not None:
            what += f" (the line looks separated by {separator_name(other)})"
    refuse(path, line, f"{what}: {shown(text)}", remedy)
