"""Tables in files of any common kind, read in pieces: what ``prepare`` turns into atomic files.

A :class:`TableFile` has named columns and gives its rows as :class:`Batch` after batch, so that a file larger than the
memory can be read. Text (CSV, TSV ...) is in :mod:`.delimited_text`, Parquet in :mod:`.parquet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

import pyarrow as pa

from recbole_diffusion.errors import UserError

PARQUET_MAGIC = b"PAR1"

# Files that are no tables, or not as they are: first bytes, what it is, what to do.
_OTHER_KINDS = (
    (b"PK\x03\x04", "a zip archive or an Excel file", "unpack it, or save the sheet as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"Rar!", "a RAR archive", "unpack it first"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file", "save the sheet as CSV"),
    (b"ARROW1", "an Arrow (Feather) file", "write it as Parquet"),
    (b"FEA1", "a Feather file", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", "write it as Parquet"),
    (b"\x89HDF", "an HDF5 file", "write it as Parquet or CSV"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"\x93NUMPY", "a NumPy file", "write it as Parquet or CSV"),
    (b"\x80\x02", "a Python pickle, which is never opened", "write it as Parquet or CSV"),
    (b"\x80\x03", "a Python pickle, which is never opened", "write it as Parquet or CSV"),
    (b"\x80\x04", "a Python pickle, which is never opened", "write it as Parquet or CSV"),
    (b"\x80\x05", "a Python pickle, which is never opened", "write it as Parquet or CSV"),
    (b"%PDF", "a PDF document", "give a table: CSV or Parquet"),
    (b"version https://git-lfs", "the place-holder of a Git LFS file", "fetch the file itself (git lfs pull)"),
)
_TEXT_KINDS = (
    ((b"{", b"[{"), "JSON", "write it as CSV or Parquet, e.g. with pandas.read_json(FILE, lines=True).to_parquet(...)"),
    ((b"<!doctype", b"<html", b"<?xml"), "a web page or XML", "give a table; a download may have failed"),
)


@dataclass(frozen=True)
class Batch:
    """Some successive rows: each wanted column as an Arrow array, and where a row stands (``FILE:LINE``)."""

    columns: Mapping[str, pa.Array]
    rows: int
    place: Callable[[int], str]


@dataclass
class BadRows:
    """What becomes of rows that cannot be taken: the first one ends everything, or all are left out and counted."""

    drop: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def report(self, kind: str, count: int, place: str, what: str, remedy: str) -> None:
        """Take note of ``count`` rows of one ``kind``, the first of them at ``place``.

        Raises:
            UserError: rows are not to be dropped.
        """
        if not self.drop:
            raise UserError(f"{place}: {what}; {remedy}, or leave such rows out with bad_rows=drop")
        self.counts[kind] = self.counts.get(kind, 0) + count
        self.first.setdefault(kind, f"{place}: {what}")


class TableFile(Protocol):
    """A file with named columns whose rows come in batches."""

    path: Path
    names: tuple[str, ...]
    key_prefix: str  # what the keys begin with that say how text is written, for messages
    total: int
    unit: str
    done: int
    is_text: bool

    @property
    def notes(self) -> list[str]:
        """What was taken for granted about the file, and what was passed over in it."""
        ...

    @property
    def looks_headless(self) -> bool:
        """Whether the names of the columns look like values: a text file without a header."""
        ...

    def type_of(self, name: str) -> pa.DataType | None:
        """The type a column has in the file; None for text, where every value is text."""
        ...

    def batches(self, names: Sequence[str], bad_rows: BadRows) -> Iterator[Batch]:
        """The rows from first to last, with the columns ``names``; ``done`` of ``total`` rises meanwhile."""
        ...


class NoRows(UserError):
    """A file without a row. As one part of a table among others, as Spark writes them, it is passed over."""


def counted(number: int, noun: str) -> str:
    """A number of things in words: ``1 row``, ``2 rows``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def refuse(path: Path, what: str, remedy: str, line: int | None = None, error: type[UserError] = UserError) -> NoReturn:
    """Raise the one-line error about a file, or a line of it."""
    place = str(path) if line is None else f"{path}:{line}"
    raise error("".join(c if c.isprintable() else repr(c)[1:-1] for c in f"{place}: {what}; {remedy}"))


def refuse_other_kinds(path: Path, start: bytes) -> None:
    """Refuse a file whose first bytes say that it is no table.

    Raises:
        NoRows: nothing in it.
        UserError: an archive, a spreadsheet, JSON, a web page ...
    """
    if not start:
        refuse(path, "the file is empty (zero bytes)", "give a file with a header and rows", error=NoRows)
    for magic, kind, remedy in _OTHER_KINDS:
        if start.startswith(magic):
            refuse(path, f"this is {kind}", remedy)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for beginnings, kind, remedy in _TEXT_KINDS:
        if text.startswith(beginnings):
            refuse(path, f"this is {kind}", remedy)


def table_paths(path: Path) -> list[Path]:
    """The files of a table: ``path`` itself, or the parts in a folder (as Spark writes them) by name.

    Raises:
        UserError: nothing there, no table in the folder, or folders in the folder.
    """
    if not path.exists():
        near = sorted(other.name for other in path.parent.glob(f"{path.name.split('.')[0]}*"))[:5]
        hint = f"; there is {', '.join(near)}" if near else ""
        raise UserError(f"no file {path}{hint}")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: not a regular file; give a file or a folder of files")
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith((".", "_")))
    for entry in entries:
        if not entry.is_file():
            refuse(path, f"holds the folder {entry.name}", "give a folder with the files of one table and no more")
    if not entries:
        refuse(path, "the folder is empty", "give a file or a folder of files")
    suffixes = {entry.suffix for entry in entries}
    if len(suffixes) > 1:
        kinds = ", ".join(sorted(suffixes))
        refuse(path, f"holds files of several kinds ({kinds})", "give one file, or a folder of one kind")
    return entries
