"""From the columns of a table to the lines of one atomic file, batch by batch."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_diffusion.data import atomic_values
from recbole_diffusion.data.atomic_fields import RequiredColumn
from recbole_diffusion.data.atomic_files import check_layout
from recbole_diffusion.data.atomic_values import read_columns, split_sequences
from recbole_diffusion.data.atomic_writing import AtomicWriter, DistinctTokens
from recbole_diffusion.data.progress import progress
from recbole_diffusion.data.tables.delimited_text import DelimitedText
from recbole_diffusion.data.tables.dialects import TextFormat
from recbole_diffusion.data.tables.files import PARQUET_MAGIC, BadRows, Batch, NoRows, TableFile, counted
from recbole_diffusion.data.tables.parquet import ParquetTable
from recbole_diffusion.data.tables.roles import KeptColumn, is_role_name
from recbole_diffusion.data.tables.times import TimeColumn
from recbole_diffusion.data.tables.values import Column, Fault, NumberColumn, SequenceColumn, TokenColumn, fault
from recbole_diffusion.errors import UserError

logger = logging.getLogger(__name__)

_READ_BACK_BYTES = 1 << 26  # files up to this size are read back wholly, larger ones have their layout checked


@dataclass
class Treatment:
    """How values and rows are dealt with, and what has been said about it.

    Attributes:
        drop: leave out rows that cannot be taken, instead of ending at the first.
        replace: what is put for tabs and line ends inside tokens; None refuses them.
        trim: take white space off the ends of tokens.
        sequence_separator: what separates elements in the text of a sequence.
        show_progress: show a progress bar.
        notes: what was guessed, altered, or may surprise.
        dropped: why rows were left out -> how many.
    """

    drop: bool
    replace: str | None
    trim: bool
    sequence_separator: str
    show_progress: bool
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)

    def note(self, text: str) -> None:
        """Say something to the person."""
        logger.info("%s", text)
        self.notes.append(text)

    def column(self, kept: KeptColumn) -> Column:
        """What turns the values of a column into its type in the atomic file."""
        if kept.type == "token":
            return TokenColumn(kept.name, identifier=False, replace=self.replace, trim=self.trim)
        if kept.type == "float":
            return NumberColumn(kept.name)
        numbers = kept.type == "float_seq"
        return SequenceColumn(kept.name, numbers=numbers, separator=self.sequence_separator, replace=self.replace)

    def identifier(self, name: str) -> Column:
        """What turns the values of a column into ids."""
        return TokenColumn(name, identifier=True, replace=self.replace, trim=self.trim)


@dataclass(frozen=True)
class Field:
    """A field of an atomic file: name, type, the column that fills it (None: the number of the row), and its role.

    Roles: ``user``, ``item``, ``time``; empty for all others.
    """

    name: str
    type: str
    column: Column | None
    role: str = ""


def open_tables(paths: Sequence[Path], format: TextFormat, treatment: Treatment) -> list[TableFile]:
    """The parts of a table, Parquet by their first bytes, else text. Parts must have the columns of the first.

    Parts with nothing in them are passed over, which is noted.

    Raises:
        NoRows: there is nothing in any of them.
        UserError: a part cannot be read or lacks a column; ``format`` says how text is written and this is Parquet.
    """
    tables: list[TableFile] = []
    empty: list[NoRows] = []
    for path in paths:
        try:
            tables.append(_open_table(path, format))
        except NoRows as error:
            if path.suffix == ".parquet" and path.stat().st_size == 0:  # not even Parquet: a copy that failed
                raise
            empty.append(error)
    _pass_over(empty, len(paths), paths[0], treatment)
    for table in tables[1:]:
        for name in tables[0].names:
            if name not in table.names:
                raise UserError(f"{table.path}: no column {name!r}, which {tables[0].path.name} has; parts must agree")
    return tables


def _pass_over(empty: Sequence[NoRows], parts: int, path: Path, treatment: Treatment) -> None:
    """Say that parts of the table of ``path`` hold no row.

    Raises:
        NoRows: none of all ``parts`` holds one.
    """
    if parts == 1 and empty:
        raise empty[0]
    if len(empty) == parts:
        raise NoRows(f"{path.parent}: no part of it holds a row; give a table with rows")
    if empty:
        treatment.note(f"{path.parent}: passed over: {counted(len(empty), 'part')} without rows, first {empty[0]}")


def _open_table(path: Path, format: TextFormat) -> TableFile:
    try:
        with path.open("rb") as file:
            start = file.read(len(PARQUET_MAGIC))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from error
    if start != PARQUET_MAGIC:
        return DelimitedText(path, format)
    if format.said:
        keys = " and ".join(f"{key}=" for key in format.said)
        raise UserError(
            f"{path}: this is Parquet, which says itself how it is written; leave out {keys}, for text alone"
        )
    return ParquetTable(path)


def write_atomic_file(
    tables: Sequence[TableFile],
    fields: Sequence[Field],
    target: Path,
    treatment: Treatment,
    distinct: Mapping[str, DistinctTokens],
) -> int:
    """Write the rows of the parts of a table to an atomic file and read it back.

    Args:
        tables: the parts.
        fields: what stands in the file, in this order.
        target: the file.
        treatment: how values and rows are dealt with; notes and counts go there.
        distinct: by field, what counts its tokens; these fields are ids.

    Returns:
        The number of rows written.

    Raises:
        NoRows: there is none.
        UserError: a row cannot be taken, or none is left.
    """
    bad_rows = BadRows(treatment.drop)
    sources = list(dict.fromkeys(field.column.name for field in fields if field.column is not None))
    headers = _HeaderLines(fields)
    empty: list[NoRows] = []
    with AtomicWriter(target, [f"{field.name}:{field.type}" for field in fields]) as writer:
        for table in tables:
            headers.begin(table)
            for batch in _batches(table, sources, bad_rows, treatment, empty):
                texts, faults = _convert(batch, fields)
                taken = _taken(batch, headers.find(texts) + faults, bad_rows)
                rows = batch.rows if taken is None else int(taken.sum())
                if taken is not None:
                    texts = {name: column.filter(pa.array(taken)) for name, column in texts.items()}
                numbers = pa.array(np.arange(writer.rows + 1, writer.rows + rows + 1)).cast(pa.string())
                for name, tokens in distinct.items():
                    tokens.add(texts[name])
                for one in fields:
                    if isinstance(one.column, TimeColumn):
                        one.column.observe(texts[one.name])
                writer.write([texts.get(field.name, numbers) for field in fields])
    path = tables[0].path if len(tables) == 1 else tables[0].path.parent
    _pass_over(empty, len(tables), tables[0].path, treatment)
    _tell(path, fields, bad_rows, treatment)
    if writer.rows == 0:
        raise UserError(f"{path}: no row is left; {'; '.join(bad_rows.first.values())}")
    _check_written(target, writer.rows, fields)
    return writer.rows


def _batches(
    table: TableFile, names: Sequence[str], bad_rows: BadRows, treatment: Treatment, empty: list[NoRows]
) -> Iterator[Batch]:
    """The rows of one part; that it has none goes to ``empty``."""
    with progress(table.path.name, table.total, table.unit, shown=treatment.show_progress) as bar:
        try:
            for batch in table.batches(names, bad_rows):
                yield batch
                bar.update(table.done - bar.n)
        except NoRows as error:
            empty.append(error)
    for note in table.notes:
        treatment.note(f"{table.path}: {note}")


def _convert(batch: Batch, fields: Sequence[Field]) -> tuple[dict[str, pa.Array], list[Fault]]:
    texts: dict[str, pa.Array] = {}
    faults: list[Fault] = []
    for one in fields:
        if one.column is not None:
            converted = one.column.convert(batch.columns[one.column.name])
            texts[one.name] = converted.texts
            faults += converted.faults
    return texts, faults


def _taken(batch: Batch, faults: Sequence[Fault], bad_rows: BadRows) -> np.ndarray | None:
    """Which rows of a batch are taken, (rows,); None for all. Reports the others, the earliest first."""
    if not faults:
        return None
    taken = np.ones(batch.rows, dtype=bool)
    for one in sorted(faults, key=lambda one: int(one.rows[0])):
        new = one.rows[taken[one.rows]]
        if len(new):
            taken[new] = False
            what = one.what
            if not bad_rows.drop and len(one.rows) > 1:
                what += f" (and {len(one.rows) - 1} more among the next {batch.rows - int(one.rows[0]) - 1} rows)"
            bad_rows.report(one.kind, len(new), batch.place(int(new[0])), what, one.remedy)
    return taken


class _HeaderLines:
    """Finds rows that are no data but a header: repeated in joined files, or left in when names are given."""

    def __init__(self, fields: Sequence[Field]) -> None:
        self._columns = {
            one.name: (one.role, one.column.name)
            for one in fields
            if one.role in ("user", "item") and one.column is not None
        }
        self._first = False
        self._text = False
        self._columns_key = ""

    def begin(self, table: TableFile) -> None:
        """Another part begins."""
        self._first = True
        self._text = table.is_text
        self._columns_key = f"{table.key_prefix}columns="

    def find(self, texts: Mapping[str, pa.Array]) -> list[Fault]:
        """The headers among the rows of a batch."""
        rows = len(next(iter(texts.values())))
        if not self._text or rows == 0:
            return []
        first, self._first = self._first, False
        values = {texts[name][0].as_py(): role for name, (role, _) in self._columns.items()}
        if first and len(values) == 2 and all(is_role_name(role, value) for value, role in values.items()):
            what = f"the header ({', '.join(values)}) where the first row should be"
            remedy = f"leave out {self._columns_key}, the file has names of its own"
            return fault(np.arange(rows) == 0, "a header", lambda row: what, remedy)
        again = np.ones(rows, dtype=bool)
        for name, (_, column) in self._columns.items():
            again &= pc.equal(texts[name], column).to_numpy(zero_copy_only=False)
            if not again.any():
                return []
        return fault(again, "a header", lambda row: "the header again", "remove the line")


def _tell(path: Path, fields: Sequence[Field], bad_rows: BadRows, treatment: Treatment) -> None:
    """Say what was altered and left out."""
    for one in fields:
        if isinstance(one.column, NumberColumn) and one.column.empty:
            raise UserError(f"{path}: column {one.column.name!r} has no number in any row; leave it out")
        for note in one.column.notes() if one.column is not None else ():
            treatment.note(f"{path}: {note}")
    for kind, count in bad_rows.counts.items():
        treatment.note(f"{path}: left out: {counted(count, 'row')} ({kind}), first {bad_rows.first[kind]}")
        treatment.dropped[kind] = treatment.dropped.get(kind, 0) + count


def _check_written(path: Path, rows: int, fields: Sequence[Field]) -> None:
    """Read a file back as a run will.

    Raises:
        UserError: it reads otherwise than it was written.
    """
    try:
        found = _read_back(path, fields)
    except UserError as error:  # of a file that nobody will see: nothing in it for a person to correct
        said = str(error).replace(str(path), path.name)
        raise UserError(f"what was written cannot be read back ({said}); please report this") from error
    if found != rows:
        raise UserError(f"{path.name}: {rows} rows were written and {found} read back; the disk may be faulty")


def _read_back(path: Path, fields: Sequence[Field]) -> int:
    """The rows of a file; where it is small, its values are read too."""
    required = [RequiredColumn(one.name, "field", one.type, "a run") for one in fields if one.role]
    file = check_layout(path, required=required)
    if path.stat().st_size <= _READ_BACK_BYTES:
        identifiers = [one.name for one in fields if one.role in ("user", "item")]
        times = [one.name for one in fields if one.role == "time"]
        with _quiet(atomic_values.logger):
            values = read_columns(file, [one.name for one in fields], identifiers=identifiers, times=times)
            for one in fields:
                if one.type == "float_seq":
                    split_sequences(file, one.name, values[one.name], " ")
    return file.rows


@contextlib.contextmanager
def _quiet(source: logging.Logger) -> Iterator[None]:
    """What reading says about the file is said to whoever reads it in a run."""

    def nothing(record: logging.LogRecord) -> bool:
        return False

    source.addFilter(nothing)
    try:
        yield
    finally:
        source.removeFilter(nothing)
