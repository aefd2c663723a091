"""A text table's bytes in blocks of whole records: decompressed, decoded to UTF-8, checked, with line numbers.

A record is a line, or several where a value in quotes goes over lines. Quotes must be as RFC 4180 has them (a value in
quotes wholly, quotes in it doubled): a parser that forgives more alters values, or swallows lines up to the next quote,
in silence.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, NoReturn, cast

import numpy as np
import pyarrow as pa

from recbole_diffusion.data.atomic_fields import shown
from recbole_diffusion.data.tables.dialects import QUOTE, Dialect
from recbole_diffusion.data.tables.files import refuse
from recbole_diffusion.errors import UserError

# ASCII's unit separator: what separators of several characters become before the text is parsed.
STAND_IN = "\x1f"

_BLOCK_BYTES = 1 << 23
_LONGEST_RECORD = 1 << 26
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, OSError)


def open_bytes(path: Path) -> tuple[IO[bytes], IO[bytes]]:
    """A file's content, decompressed when its first bytes say that it is compressed.

    Returns:
        The content; and the file itself, whose position says how far reading has come.
    """
    raw = path.open("rb")
    start = raw.read(8)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw)), raw
    if start.startswith(b"BZh"):
        return bz2.BZ2File(raw), raw
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(raw), raw
    for magic, name in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4")):
        if start.startswith(magic):
            return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), name)), raw
    return raw, raw


class Damage:
    """While a file is read and decompressed: what goes wrong becomes one line about ``path``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _DAMAGED):
            reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
            what = f"cannot be read ({reason})"
            remedy = "check the path and its permissions"
            if not isinstance(error, OSError) or error.strerror is None:
                what, remedy = f"is damaged or cut short ({reason})", "copy or download it again"
            raise UserError(f"{self._path}: {what}; {remedy}") from error


class ToUtf8:
    """Text of another encoding, piece by piece in UTF-8.

    Args:
        path: the file, for messages.
        codec: its encoding.
        key_prefix: what the keys begin with that say how it is written.
    """

    def __init__(self, path: Path, codec: str, key_prefix: str) -> None:
        self._path = path
        self._codec = codec
        self._key = f"{key_prefix}encoding="
        self._line = 1
        self._decoder = codecs.getincrementaldecoder(codec)()

    def convert(self, piece: bytes, last: bool) -> bytes:
        """The next piece.

        Raises:
            UserError: it is not of that encoding.
        """
        try:
            text = self._decoder.decode(piece, final=last).encode("utf-8")
        except UnicodeError as error:  # not always one of its two kinds, which have a reason
            what = f"not {self._codec} text ({getattr(error, 'reason', error)}), in this line or later"
            remedy = f"correct {self._key}"
            if self._codec in ("utf-16", "utf-32"):  # perhaps without the mark that says the order of their bytes
                remedy += f", e.g. {self._key}{self._codec}-le or {self._codec}-be"
            refuse(self._path, what, remedy, self._line)
        self._line += text.count(b"\n")
        return text


@dataclass(frozen=True)
class Block:
    """Whole records of a text table: their bytes (UTF-8), the line of the first, and how fields are told apart."""

    data: bytes
    first_line: int
    separator: str
    quoted: bool

    def _positions(self, character: str) -> np.ndarray:
        return np.flatnonzero(np.frombuffer(self.data, dtype=np.uint8) == ord(character))

    def _outside(self, positions: np.ndarray) -> np.ndarray:
        """Those of some positions that are not within quotes."""
        return positions[np.searchsorted(self.quotes, positions) % 2 == 0] if len(self.quotes) else positions

    @cached_property
    def quotes(self) -> np.ndarray:
        """Positions of quotes that mean something."""
        return self._positions(QUOTE) if self.quoted and b'"' in self.data else np.zeros(0, dtype=np.int64)

    @cached_property
    def line_ends(self) -> np.ndarray:
        """Positions of the line ends (LF) that end a record."""
        return self._outside(self._positions("\n"))

    @cached_property
    def records(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where each record begins and ends (before LF), and its number of fields, 0 for an empty line."""
        ends = self.line_ends
        if not self.data.endswith(b"\n"):
            ends = np.append(ends, len(self.data))
        begins = np.concatenate([[0], ends[:-1] + 1])
        fields = np.diff(np.searchsorted(self._outside(self._positions(self.separator)), ends), prepend=0) + 1
        lengths = ends - begins
        returns = np.frombuffer(self.data, dtype=np.uint8)[np.minimum(begins, len(self.data) - 1)] == ord("\r")
        fields[(lengths == 0) | ((lengths == 1) & returns)] = 0
        return begins, ends, fields

    def record(self, number: int) -> str:
        """The text of one record."""
        begins, ends, _ = self.records
        return self.data[begins[number] : ends[number]].decode("utf-8", "replace").removesuffix("\r")

    def line_at(self, position: int) -> int:
        """The line of the file in which a byte of the block stands."""
        return self.first_line + self.data.count(b"\n", 0, position)

    def line(self, row: int, expected: int) -> int:
        """The line on which row ``row`` (from 0) begins, counting records of ``expected`` fields only."""
        begins, _, fields = self.records
        return self.line_at(int(begins[fields == expected][row]))

    def after(self, position: int) -> Block:
        """What stands from a position on."""
        return Block(self.data[position:], self.line_at(position), self.separator, self.quoted)


class TextBlocks:
    """The blocks of one file.

    Args:
        path: the file.
        dialect: how it is written.
    """

    def __init__(self, path: Path, dialect: Dialect) -> None:
        self._path = path
        self._dialect = dialect
        self.done = 0  # bytes of the file that have been read

    def __iter__(self) -> Iterator[Block]:
        """Block after block; about 8 MB each.

        Raises:
            UserError: the file is damaged, of another encoding, or has NUL bytes, stray quotes or carriage returns.
        """
        rest = b""
        line = 1
        skip = self._dialect.skip_lines
        begun = False
        for piece in self._pieces():
            buffer = rest + piece
            if not begun and len(buffer) >= len(codecs.BOM_UTF8):
                buffer = buffer.removeprefix(codecs.BOM_UTF8)
                begun = True
            while skip and b"\n" in buffer:
                buffer = buffer[buffer.find(b"\n") + 1 :]
                skip -= 1
                line += 1
            whole = self._block(buffer, line)
            cut = 0 if skip else len(buffer) if not piece else self._end_of_records(whole)
            if cut == 0 and len(buffer) > _LONGEST_RECORD:
                self._refuse_endless(whole)
            if cut:
                block = self._block(buffer[:cut], line)
                self._check(block)
                yield self._with_stand_in(block)
                line += block.data.count(b"\n")
            rest = buffer[cut:]

    def _pieces(self) -> Iterator[bytes]:
        """The content as UTF-8 in pieces of any length, the last one empty."""
        codec, key_prefix = self._dialect.codec, self._dialect.key_prefix
        decoder = None if codec == "utf-8" else ToUtf8(self._path, codec, key_prefix)
        with Damage(self._path):
            content, raw = open_bytes(self._path)
        with raw:
            while True:
                with Damage(self._path):
                    piece = content.read(_BLOCK_BYTES)
                last = not piece
                if decoder is not None:
                    piece = decoder.convert(piece, last)
                    if last and piece:
                        yield piece
                        piece = b""
                if self._dialect.old_macintosh:
                    piece = piece.replace(b"\r", b"\n")
                self.done = raw.tell()
                if piece or last:
                    yield piece
                if last:
                    return

    def _block(self, data: bytes, line: int) -> Block:
        separator = self._dialect.separator if self._dialect.one_byte else STAND_IN
        return Block(data, line, separator, self._dialect.quoted)

    def _with_stand_in(self, block: Block) -> Block:
        if self._dialect.one_byte:
            return block
        if STAND_IN.encode() in block.data:
            separator = self._dialect.separator
            what = f"the character {STAND_IN!r}, which cannot stand in a file separated by {separator!r}"
            refuse(self._path, what, "remove it", block.line_at(block.data.find(STAND_IN.encode())))
        return self._block(block.data.replace(self._dialect.separator.encode(), STAND_IN.encode()), block.first_line)

    def _end_of_records(self, block: Block) -> int:
        """Where the last whole record ends; 0 when there is none."""
        if not len(block.quotes):
            return block.data.rfind(b"\n") + 1
        return int(block.line_ends[-1]) + 1 if len(block.line_ends) else 0

    def _refuse_endless(self, block: Block) -> NoReturn:
        if len(block.quotes) % 2:
            remedy = f"correct it, or take quotes for ordinary characters with {self._dialect.key_prefix}quote=none"
            line = block.line_at(int(block.quotes[-1]))
            refuse(self._path, "a value in quotes begins here and never ends", remedy, line)
        refuse(self._path, f"no line end in {_LONGEST_RECORD >> 20} MiB", "this is no table of text", block.first_line)

    def _check(self, block: Block) -> None:
        """Refuse what no value may have: other encodings, NUL, a carriage return alone, stray quotes."""
        data = block.data
        if not data.isascii():
            try:
                data.decode("utf-8")
            except UnicodeDecodeError as error:
                what = f"byte 0x{data[error.start]:02x} is not UTF-8 text"
                remedy = f"set {self._dialect.key_prefix}encoding=, e.g. cp1252 (Western Windows), latin-1, gb18030"
                remedy += "; or write the file as UTF-8"
                refuse(self._path, what, remedy, block.line_at(error.start))
        nul = data.find(b"\0")
        if nul >= 0:
            what = "a NUL byte: the file is binary, damaged, or UTF-16"
            remedy = f"write it again as UTF-8, or set {self._dialect.key_prefix}encoding=, e.g. utf-16-le"
            refuse(self._path, what, remedy, block.line_at(nul))
        if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
            for found in re.finditer(rb"\r(?!\n)", data):
                if np.searchsorted(block.quotes, found.start()) % 2 == 0:
                    what = "a carriage return (CR) inside the line"
                    refuse(self._path, what, "end lines with LF or CR LF", block.line_at(found.start()))
        if len(block.quotes) % 2:
            self._refuse_endless(block)
        if len(block.quotes):
            self._check_quotes(block)

    def _check_quotes(self, block: Block) -> None:
        data = np.frombuffer(block.data, dtype=np.uint8)
        separator, quote, line_feed = ord(block.separator), ord(QUOTE), ord("\n")
        opening, closing = block.quotes[::2], block.quotes[1::2]
        before = data[np.maximum(opening - 1, 0)]
        opens = (opening == 0) | np.isin(before, (separator, line_feed, quote))
        after = data[np.minimum(closing + 1, len(data) - 1)]
        closes = (closing == len(data) - 1) | np.isin(after, (separator, line_feed, ord("\r"), quote))
        wrong = np.flatnonzero(~(opens & closes))
        if not len(wrong):
            return
        first = int(wrong[0])
        place = int(closing[first] if opens[first] else opening[first])
        what = "a quote in a value that does not stand in quotes as a whole, or is not doubled in one that does"
        if block.data[place - 1 : place] == b"\\":
            what = "a quote behind a backslash; quotes in a quoted value must be doubled"
        text = block.data[block.data.rfind(b"\n", 0, place) + 1 :][:200].decode("utf-8", "ignore").split("\n")[0]
        remedy = (
            f"write the file anew, or take quotes for ordinary characters with {self._dialect.key_prefix}quote=none"
        )
        refuse(self._path, f"{what}: {shown(text.rstrip())}", remedy, block.line_at(place))
