"""Kinds of files that histories come in: Parquet, delimited text (CSV, TSV), JSON lines.

Each gives its columns with their types, and its rows in batches, so that a file of any size can be read. Text has no
types: users and items of a CSV file are text. In JSON lines they are whole numbers where the first ones are, and all
others must then be, too. A line of JSON is an object, or a history alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow
import pyarrow.compute
import pyarrow.parquet

from recbole_diffusion.data.tables.delimited_text import DelimitedText
from recbole_diffusion.data.tables.files import PARQUET_MAGIC, BadRows
from recbole_diffusion.data.tables.times import TimeColumn
from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.histories import is_text_type
from recbole_diffusion.recommendation.history_text import json_tokens, read_history

BUFFER = 1 << 20  # bytes of a column read at a time; Arrow by default holds a row group, which may be the whole file
TIME = pyarrow.decimal128(38, 9)  # of a time that was text
KINDS = {
    ".parquet": "parquet",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".csv": "text",
    ".tsv": "text",
    ".txt": "text",
}
LISTS = pyarrow.list_(pyarrow.string())
EMPTY = pyarrow.list_(pyarrow.null())
UNDECIDED = (pyarrow.null(), EMPTY)  # what a null and an empty list say of a column of JSON


class HistoryTable(Protocol):
    """A file with named columns.

    Attributes:
        path: the file.
        types: name of a column -> its Arrow type.
        rows: how many there are; None where only reading tells.
    """

    path: Path
    types: dict[str, pyarrow.DataType]
    rows: int | None

    def batches(self, names: list[str], size: int) -> Iterator[pyarrow.Table]:
        """The rows, about `size` at a time, with some columns in this order."""
        ...


def kind_of(path: Path) -> str:
    """The kind of a file: by its name, else by its first byte."""
    known = KINDS.get(path.suffix.lower())
    if known is not None or not path.is_file():
        return known or "parquet"
    with path.open("rb") as stream:
        start = stream.read(64)
    if start.startswith(PARQUET_MAGIC):
        return "parquet"
    return "json" if start.lstrip()[:1] in (b"{", b"[") else "text"


def open_table(
    path: Path, time_field: str, history_field: str, separator: str, id_fields: tuple[str, str]
) -> HistoryTable:
    """A file of histories.

    Args:
        path: the file.
        time_field: the column of times, which text is read as.
        history_field: the column that holds whole histories, which text is cut into.
        separator: between the items of such a text.
        id_fields: the columns of users and items.

    Raises:
        UserError: it is absent, or not of the kind that its name says.
    """
    if not path.is_file():
        raise UserError(f"no file {path}; give one with --histories")
    kind = kind_of(path)
    if kind == "parquet":
        return ParquetHistories(path, history_field, separator)
    if kind == "json":
        return JsonLines(path, time_field, history_field, separator, id_fields)
    return DelimitedHistories(path, time_field, history_field, separator)


class ParquetHistories:
    """A Parquet file; its types are its own, but for a column of whole histories that is text."""

    def __init__(self, path: Path, history_field: str, separator: str) -> None:
        self.path = path
        try:
            with pyarrow.parquet.ParquetFile(path) as opened:
                schema = opened.schema_arrow
                self.rows: int | None = opened.metadata.num_rows
        except (OSError, pyarrow.ArrowException) as error:
            raise UserError(f"{path} is no readable Parquet file ({str(error).splitlines()[0]})") from error
        self.types: dict[str, pyarrow.DataType] = {name: schema.field(name).type for name in schema.names}
        kind = self.types.get(history_field)
        self._cut = history_field if kind is not None and is_text_type(kind) else None
        self._separator = separator
        if self._cut:
            self.types[history_field] = LISTS

    def batches(self, names: list[str], size: int) -> Iterator[pyarrow.Table]:
        """See :meth:`HistoryTable.batches`."""
        first = 0
        with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=BUFFER) as opened:
            for batch in opened.iter_batches(size, columns=names):
                table = pyarrow.Table.from_batches([batch]).select(names)
                if self._cut in names:
                    place = names.index(str(self._cut))
                    lists = _cut_texts(table.column(place), self._separator, functools.partial(self._place, first))
                    table = table.set_column(place, names[place], lists)
                yield table
                first += len(table)

    def _place(self, first: int, row: int) -> str:
        return f"{self.path} row {first + row + 1}"


class DelimitedHistories:
    """A CSV, TSV or other text file, read strictly; a fault says its line."""

    rows: int | None = None

    def __init__(self, path: Path, time_field: str, history_field: str, separator: str) -> None:
        self.path = path
        self._table = DelimitedText(path)
        self._time, self._history, self._separator = time_field, history_field, separator
        special = {time_field: TIME, history_field: LISTS}
        self.types: dict[str, pyarrow.DataType] = {
            name: special.get(name, pyarrow.string()) for name in self._table.names
        }

    def batches(self, names: list[str], size: int) -> Iterator[pyarrow.Table]:
        """See :meth:`HistoryTable.batches`; a batch is what the reader gives at a time."""
        times = TimeColumn(self._time)
        for batch in self._table.batches(names, _NoBadRows()):
            columns = []
            for name in names:
                values = batch.columns[name]
                if name == self._time:
                    values = _times(times, values, batch.place)
                elif name == self._history:
                    values = _cut_texts(values, self._separator, batch.place)
                else:
                    values = _without_empty(values)
                columns.append(values)
            yield pyarrow.table(columns, names=names)


class JsonLines:
    """A file with a JSON value a line."""

    rows: int | None = None

    def __init__(
        self, path: Path, time_field: str, history_field: str, separator: str, id_fields: tuple[str, str]
    ) -> None:
        self.path = path
        self._time, self._history, self._separator = time_field, history_field, separator
        self.types: dict[str, pyarrow.DataType] = {}
        read = (time_field, history_field, *id_fields)
        for place, line in self._lines():
            for name, value in line.items():
                kind = self.types.get(name)
                if kind is None or (kind in UNDECIDED and value is not None):
                    self.types[name] = self._type_of(name, value, place)
            if not any(self.types.get(name) in UNDECIDED for name in read):
                break
        if not self.types:
            raise UserError(f"{path}: there is no line in it; give a file with a JSON object a line")
        nothing = {EMPTY: LISTS, pyarrow.null(): pyarrow.string()}  # where no line says more
        if self.types.get(history_field) in UNDECIDED:
            self.types[history_field] = LISTS
        self.types = {name: nothing.get(kind, kind) for name, kind in self.types.items()}

    def _type_of(self, name: str, value: Any, place: str) -> pyarrow.DataType:
        if value is None and name != self._time:
            return pyarrow.null()
        if name == self._time and not isinstance(value, list):
            return TIME
        if name == self._history and isinstance(value, str):
            return LISTS
        if isinstance(value, list):
            if not value:
                return EMPTY
            json_tokens(value, f"{place}: {name}")
            return pyarrow.list_(pyarrow.int64() if isinstance(value[0], int) else pyarrow.string())
        if isinstance(value, int) and not isinstance(value, bool):
            return pyarrow.int64()
        return pyarrow.string() if isinstance(value, str) else pyarrow.float64()

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where a line stands, and its object; a history alone is an object with that column."""
        try:
            with self.path.open(encoding="utf-8-sig") as stream:
                for number, text in enumerate(stream, 1):
                    place = f"{self.path}:{number}"
                    if not text.strip():
                        continue
                    try:
                        value = json.loads(text)
                    except ValueError as error:
                        raise UserError(
                            f"{place}: no JSON ({str(error).split(':')[0]}); every line is an object such as "
                            '{"user_id": "u", "history": ["a", "b"]}'
                        ) from None
                    if isinstance(value, list):
                        value = {self._history: value}
                    if not isinstance(value, dict):
                        raise UserError(f"{place}: {text.strip()[:60]} is neither an object nor a list of items")
                    yield place, value
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path} is no UTF-8 text ({error.reason}); save it as UTF-8") from error

    def batches(self, names: list[str], size: int) -> Iterator[pyarrow.Table]:
        """See :meth:`HistoryTable.batches`."""
        times = TimeColumn(self._time)
        rows: list[dict[str, Any]] = []
        places: list[str] = []
        for place, line in self._lines():
            for name in names:
                if name not in line:
                    raise UserError(f"{place}: there is no {name}, which other lines have; add it, or remove the line")
            rows.append(line)
            places.append(place)
            if len(rows) == size:
                yield self._table(names, rows, places, times)
                rows, places = [], []
        if rows:
            yield self._table(names, rows, places, times)

    def _table(
        self, names: list[str], rows: list[dict[str, Any]], places: list[str], times: TimeColumn
    ) -> pyarrow.Table:
        columns = []
        for name in names:
            values = [row[name] for row in rows]
            kind = self.types[name]
            if name == self._time and kind == TIME:
                written = [None if value is None else str(value) for value in values]
                texts = _array(name, written, pyarrow.string(), places.__getitem__)
                columns.append(_times(times, texts, places.__getitem__))
            elif pyarrow.types.is_list(kind):
                columns.append(self._lists(name, values, places, kind))
            else:
                columns.append(_typed(name, values, places, kind))
        return pyarrow.table(columns, names=names)

    def _lists(self, name: str, values: list[Any], places: list[str], kind: pyarrow.DataType) -> pyarrow.Array:
        lists: list[Any] = []
        for place, value in zip(places, values):
            what = f"{place}: {name}"
            if value is None:
                lists.append(None)
            elif isinstance(value, str) and name == self._history:
                lists.append(read_history(value, what, self._separator))
            else:
                tokens = json_tokens(value, what)
                if kind == LISTS:
                    if any(isinstance(item, int) for item in value):
                        raise UserError(f"{what} has whole numbers, and lines before have text; write one or the other")
                    lists.append(tokens)
                else:
                    if any(isinstance(item, str) for item in value):
                        raise UserError(f"{what} has text, and lines before have whole numbers; write one or the other")
                    lists.append(value)
        return _array(name, lists, kind, places.__getitem__)


def _typed(name: str, values: list[Any], places: list[str], kind: pyarrow.DataType) -> pyarrow.Array:
    """A column of ids."""
    expected = int if pyarrow.types.is_integer(kind) else str if pyarrow.types.is_string(kind) else float
    for place, value in zip(places, values):
        if value is not None and (not isinstance(value, expected) or isinstance(value, bool)):
            raise UserError(f"{place}: {name} is {json.dumps(value)}, and that of lines before is {kind}")
    return _array(name, values, kind, places.__getitem__)


def _array(name: str, values: list[Any], kind: pyarrow.DataType, place: Callable[[int], str]) -> pyarrow.Array:
    """Values as a column of a type.

    Raises:
        UserError: a number is beyond 64 bits, or a text has half of a surrogate pair, which UTF-8 cannot hold.
    """
    try:
        return pyarrow.array(values, kind)
    except (OverflowError, UnicodeEncodeError, pyarrow.ArrowException) as error:
        for row, value in enumerate(values):
            for part in value if isinstance(value, list) else [value]:
                if isinstance(part, int) and not -(2**63) <= part < 2**63:
                    raise UserError(
                        f"{place(row)}: {name} has {part}; whole numbers are from {-(2**63)} to {2**63 - 1}, so write "
                        f"all of {name} as text"
                    ) from None
                if isinstance(part, str) and any("\ud800" <= letter <= "\udfff" for letter in part):
                    raise UserError(
                        f"{place(row)}: {name} has {json.dumps(part)}, half of a surrogate pair, which is no text; "
                        "write the whole character"
                    ) from None
        raise UserError(f"{place(0)} or later: {name} cannot be read as {kind} ({error})") from None


def _cut_texts(values: Any, separator: str, place: Callable[[int], str]) -> pyarrow.Array:
    """Texts of whole histories as lists."""
    lists = [
        None if text is None else read_history(text, f"{place(row)}: the history", separator)
        for row, text in enumerate(values.to_pylist())
    ]
    return _array("the history", lists, LISTS, place)


def _times(column: TimeColumn, values: pyarrow.Array, place: Callable[[int], str]) -> pyarrow.Array:
    """Texts of times as numbers that are exact to nine decimals."""
    converted = column.convert(values)
    for fault in converted.faults:
        raise UserError(f"{place(int(fault.rows[0]))}: {fault.what}; {fault.remedy}")
    try:
        return pyarrow.compute.cast(converted.texts, TIME)
    except pyarrow.ArrowException as error:
        raise UserError(f"{place(0)} or later: a time has more than 9 decimals ({str(error)[:80]})") from None


def _without_empty(values: pyarrow.Array) -> pyarrow.Array:
    """Texts, null where they are empty."""
    return pyarrow.compute.if_else(pyarrow.compute.equal(values, ""), None, values)


class _NoBadRows(BadRows):
    """Ends at the first row that cannot be taken."""

    def report(self, kind: str, count: int, place: str, what: str, remedy: str) -> None:
        """Refuse it."""
        raise UserError(f"{place}: {what}; {remedy}")
