"""The fields of an atomic file: what its first line declares, and how a file is refused.

An atomic file is text: a header of ``name:type`` fields, then one row per line, all separated by one character
(a tab), the type one of ``token``, ``float``, ``token_seq``, ``float_seq``
(format: https://recbole.io/docs/user_guide/data/atomic_files.html).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from recbole_diffusion.errors import UserError

TYPES = ("token", "float", "token_seq", "float_seq")
EXAMPLE_HEADER = "user_id:token<TAB>item_id:token<TAB>timestamp:float"

# What RecBole (pandas' defaults) takes for a missing value. Here it counts in float columns only.
MISSING_NUMBERS = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
)  # fmt: skip

# RecBole's name for the padding token (id 0) of every token field; an id of that name would be two things at once.
PADDING_TOKEN = "[PAD]"

_SEPARATOR_NAMES = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a vertical bar", " ": "a space"}


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
    """An atomic file whose layout has been checked: every row has as many fields as the header.

    Attributes:
        path: where it lies.
        fields: its columns.
        rows: lines, the header and empty lines at the end not counted.
        separator: the character between fields.
        encoding: Python's name of the encoding.
        longest_line: bytes of the longest line, as UTF-8.
    """

    path: Path
    fields: tuple[Field, ...]
    rows: int
    separator: str
    encoding: str
    longest_line: int = 0

    def line(self, row: int) -> int:
        """Line number (from 1) of row ``row`` (from 0): the header is line 1 and no line between rows is empty."""
        return row + 2

    def type_of(self, name: str) -> str:
        """Type of the column ``name``."""
        return next(field.type for field in self.fields if field.name == name)


def shown(text: str, longest: int = 40) -> str:
    """``text`` for a message: quoted, control characters escaped, cut after ``longest`` characters."""
    return repr(text) if len(text) <= longest else f"{text[:longest]!r}... ({len(text)} characters)"


def refuse(path: Path, line: int | None, what: str, remedy: str) -> NoReturn:
    """Raise the one-line error ``FILE:LINE: what; remedy``, characters that do not print escaped."""
    place = str(path) if line is None else f"{path}:{line}"
    message = f"{place}: {what}; {remedy}"
    raise UserError("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def separator_name(separator: str) -> str:
    """A separator in words."""
    return _SEPARATOR_NAMES.get(separator, repr(separator))


def other_separator(text: str, separator: str, expected: int | None = None) -> str | None:
    """The separator that ``text`` seems to use instead: one that gives ``expected`` (None: two or more) fields."""
    for other in ("\t", ",", ";", "|", " "):
        fields = text.count(other) + 1
        if other != separator and (fields == expected if expected else fields > 1):
            return other
    return None


def parse_header(path: Path, block: bytes, separator: str, required: Sequence[RequiredColumn]) -> tuple[Field, ...]:
    """The fields that the first line declares.

    Args:
        path: the file, for messages.
        block: the beginning of the file, as UTF-8, the whole first line included.
        separator: the character between fields.
        required: columns that have to be there.

    Raises:
        UserError: what the line declares is not a header, or not the one that is needed.
    """
    end = block.find(b"\n")
    head = block[: end if end >= 0 else len(block)].decode("utf-8").rstrip("\r")
    parts = head.split(separator)
    pattern = "the first line must be a header of name:type fields"
    if not head.strip():
        refuse(path, 1, "the first line is empty", f"{pattern}, e.g. {EXAMPLE_HEADER}")
    if len(parts) == 1:
        other = other_separator(head, separator)
        if other is not None:
            what = f"fields are separated by {separator_name(other)}, expected {separator_name(separator)}"
            refuse(path, 1, what, "rewrite the file, or set field_separator")
    if not any(":" in part for part in parts):
        known = {column.name for column in required}
        if any(is_number(part) for part in parts) or (len(parts) == 1 and head.strip() not in known):
            refuse(path, 1, f"no header, the first line is {shown(head)}", f"{pattern}, e.g. {EXAMPLE_HEADER}")
    fields = tuple(_parse_field(path, part) for part in parts)
    names = [field.name for field in fields]
    for name in names:
        if names.count(name) > 1:
            refuse(path, 1, f"{names.count(name)} columns are named {shown(name)}", "names must differ: rename one")
    for column in required:
        _check_required(path, fields, column)
    return fields


def _parse_field(path: Path, text: str) -> Field:
    allowed = ", ".join(TYPES)
    name, colon, kind = text.partition(":")
    if not colon:
        what = f"header field {shown(text)} has no type"
        refuse(path, 1, what, f"write it as name:type, type one of {allowed}, e.g. user_id:token")
    if not name.strip() or name != name.strip():
        refuse(path, 1, f"header field {shown(text)} has no proper name", "write it as name:type without spaces")
    if kind not in TYPES:
        near = difflib.get_close_matches(kind.strip().lower(), TYPES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        if is_number(kind):
            hint = "; if this line is data, the header is missing"
        refuse(path, 1, f"field {shown(name)} has the unknown type {shown(kind)}{hint}", f"allowed: {allowed}")
    return Field(name, kind)


def _check_required(path: Path, fields: Sequence[Field], column: RequiredColumn) -> None:
    for field in fields:
        if field.name == column.name:
            if field.type != column.type:
                what = f"column {shown(field.name)} ({column.key}) has type {field.type}"
                refuse(path, 1, what, f"it must be {column.type}: write {field.name}:{column.type}")
            return
    names = [field.name for field in fields]
    near = difflib.get_close_matches(column.name, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    what = f"no column {column.name!r}, needed for {column.purpose}; columns are {', '.join(names)}{hint}"
    refuse(path, 1, what, f"add the column, or name another one with {column.key}")


def is_number(text: str) -> bool:
    """Whether ``text`` is one finite decimal number, in ASCII and without underscores."""
    if not text.isascii() or "_" in text:
        return False
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
