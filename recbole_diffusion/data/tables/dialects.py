"""How a text table is written: its encoding, what separates its fields, whether values are quoted, where it begins.

What a person says holds. The rest is taken from the beginning of the file, and only where it leaves no choice: a
byte-order mark, a separator that gives every line the same number of fields, Excel's first line ``sep=;``.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recbole_diffusion.data.atomic_fields import shown
from recbole_diffusion.data.tables.files import NoRows, refuse
from recbole_diffusion.errors import UserError

QUOTE = '"'
SEPARATOR_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "space": " ", "pipe": "|"}

_SAID = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a vertical bar", "::": "'::'", " ": "a blank"}
_CANDIDATES = ("\t", ",", ";", "|", "::")
_BY_SUFFIX = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_SAMPLE_LINES = 100
_ENOUGH = 0.75  # of the lines; what is wrong with the others is said with their line number
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class TextFormat:
    """What a person says about a text table; None, and 0 lines, where nothing is said.

    Attributes:
        separator: what stands between fields: one character or several, or a name of :data:`SEPARATOR_NAMES`.
        quote: ``"`` or ``none``.
        encoding: a name that Python knows.
        columns: names of the columns of a file without a header.
        skip_lines: lines before the header.
        key_prefix: what the keys that say all this begin with, ``items_`` for the file of items; for messages.
    """

    separator: str | None = None
    quote: str | None = None
    encoding: str | None = None
    columns: tuple[str, ...] | None = None
    skip_lines: int = 0
    key_prefix: str = ""

    def __post_init__(self) -> None:
        before = self.key_prefix
        separator = self.separator
        if separator is not None and SEPARATOR_NAMES.get(separator, separator).strip('\r\n\0"') == "":
            raise UserError(f"{before}separator is {separator!r}; give the character between fields, e.g. ',' or tab")
        if self.quote not in (None, QUOTE, "none"):
            raise UserError(f"{before}quote is {self.quote!r}; allowed: '\"' and none")
        if self.skip_lines < 0:
            raise UserError(f"{before}skip_lines is {self.skip_lines}; it is a number of lines, 0 or more")
        if self.columns is not None and (not all(self.columns) or len(set(self.columns)) < len(self.columns)):
            raise UserError(f"{before}columns is {','.join(self.columns)!r}; every column needs a name of its own")
        if self.encoding is not None:
            codec_of(self.encoding, f"{before}encoding")

    @property
    def said(self) -> list[str]:
        """The keys that say something."""
        keys = ("separator", "quote", "encoding", "columns")
        said = [key for key in keys if getattr(self, key) is not None] + ["skip_lines"] * (self.skip_lines > 0)
        return [f"{self.key_prefix}{key}" for key in said]


@dataclass(frozen=True)
class Dialect:
    """How a text table is written, settled. ``notes`` says what was taken without being told."""

    separator: str
    quoted: bool
    codec: str
    skip_lines: int
    old_macintosh: bool
    notes: tuple[str, ...] = ()
    key_prefix: str = ""  # as in TextFormat

    @property
    def one_byte(self) -> bool:
        """Whether the separator is one byte in UTF-8, which a parser of CSV needs it to be."""
        return len(self.separator.encode()) == 1


def codec_of(encoding: str, key: str = "encoding") -> str:
    """Python's name of an encoding of text; ASCII is read as UTF-8.

    Raises:
        UserError: Python knows no such encoding.
    """
    try:
        "a".encode(encoding)
        name = codecs.lookup(encoding).name
    except (LookupError, UnicodeError):
        raise UserError(f"{key} is {encoding!r}, which Python does not know; e.g. utf-8, cp1252") from None
    return "utf-8" if name in ("ascii", "utf-8-sig") else name


def marked_encoding(start: bytes) -> str | None:
    """The encoding that a byte-order mark names; None without one, or with that of UTF-8."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), None)


def settle(path: Path, sample: bytes, complete: bool, format: TextFormat, codec: str) -> Dialect:
    """The dialect of a file.

    Args:
        path: the file; its suffix counts among separators that all would do.
        sample: its beginning as UTF-8.
        complete: whether the sample is the whole file.
        format: what is said about it.
        codec: its encoding.

    Raises:
        NoRows: there is no line with anything in it.
        UserError: several separators would do, or one that is said cannot be.
    """
    notes: list[str] = []
    skip = format.skip_lines
    old_macintosh = b"\n" not in sample and b"\r" in sample[:-1]
    if old_macintosh:
        notes.append("lines end in CR, as on old Macintoshes")
        sample = sample.replace(b"\r", b"\n")
    if not complete and b"\n" in sample:
        sample = sample[: sample.rfind(b"\n")]
    lines = [line.rstrip("\r") for line in sample.decode("utf-8", "replace").split("\n")][skip:]
    separator = None if format.separator is None else SEPARATOR_NAMES.get(format.separator, format.separator)
    first = re.fullmatch(r"sep=(.)", lines[0]) if lines else None
    if first is not None:
        skip += 1
        lines = lines[1:]
        separator = separator or first[1]
    lines = [line for line in lines if line][:_SAMPLE_LINES]
    if not lines:
        refuse(path, "no line with anything in it", "give a file with a header and rows", error=NoRows)
    if separator is None:
        separator = _guess(path, lines, format)
        if separator != _BY_SUFFIX.get(_suffix(path)):
            notes.append(f"fields are separated by {_SAID[separator]}")
    quoted = _is_quoted(lines[0], separator, format.quote, format.key_prefix)
    return Dialect(separator, quoted, codec, skip, old_macintosh, tuple(notes), format.key_prefix)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in _COMPRESSED), "")


def _is_quoted(header: str, separator: str, quote: str | None, key_prefix: str = "") -> bool:
    """Whether values may stand in quotes: as said, else wherever commas and the like separate.

    Between tabs quotes are mostly ordinary characters: there only a header in quotes says that they are not.
    """
    if quote is not None:
        if quote != "none" and len(separator.encode()) > 1:
            raise UserError(
                f"{key_prefix}quote={quote} does not go with the separator {separator!r}, only with one ASCII character"
            )
        return quote != "none"
    if len(separator.encode()) > 1:
        return False
    return separator != "\t" or header.startswith(QUOTE)


def _guess(path: Path, lines: Sequence[str], format: TextFormat) -> str:
    key, quote = f"{format.key_prefix}separator=", format.quote
    possible = [candidate for candidate in _CANDIDATES if _splits_evenly(lines, candidate, quote)]
    usual = _BY_SUFFIX.get(_suffix(path))
    if usual in possible:
        return usual
    if not possible and _splits_evenly(lines, " ", quote):
        possible = [" "]
    if len(possible) > 1:
        said = " or ".join(_SAID[candidate] for candidate in possible)
        refuse(path, f"fields may be separated by {said}", f"say which with {key}")
    if possible:
        return possible[0]
    if usual is not None:
        return usual
    what = f"no separator gives all lines as many fields as the first: {shown(lines[0])}"
    return refuse(path, what, f"say what separates fields with {key}")


def _splits_evenly(lines: Sequence[str], separator: str, quote: str | None) -> bool:
    """Whether a separator gives the first line two fields or more, and nearly all others as many."""
    quoted = len(separator) == 1 and _is_quoted(lines[0], separator, quote)
    counts = [len(fields) for fields in split_lines(lines, separator, quoted) if fields]
    return counts[0] > 1 and counts.count(counts[0]) >= _ENOUGH * len(counts)


def split_lines(lines: Sequence[str], separator: str, quoted: bool) -> list[list[str]]:
    """The fields of some lines; a value in quotes may go over several."""
    if len(separator) > 1 or not quoted:
        return [line.split(separator) for line in lines]
    text = io.StringIO("\n".join(lines), newline="")
    try:
        return list(csv.reader(text, delimiter=separator, quotechar=QUOTE))
    except csv.Error:  # a field above csv's own limit: reading says more about it
        return [line.split(separator) for line in lines]
