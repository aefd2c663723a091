"""Parquet files of histories, read as a stream of users with their lists of items.

Two forms, told apart by the type of the item column (the names are the run's, by default those below):

    user_id, item_id: list                one row a user, items oldest first; users come out as they stand in the file
    user_id, item_id, timestamp           one row an interaction; users come out in order of their ids, each one's items
                                          in order of time, equal times as they stand in the file

Interactions that are in order of user and time already are read as they come; others are sorted by Ray Data, which
moves to disk what memory does not hold.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.histories import is_list_type, is_token_type

logger = logging.getLogger(__name__)

ROWS = 65_536  # of interactions, read at a time
BUFFER = 1 << 20  # bytes of a column read at a time; Arrow by default holds a row group, which may be the whole file
ROW_NUMBER = "row"  # column that keeps equal times as they stand in the file

Sort = Callable[[Path, list[str]], Iterator[pyarrow.Table]]


@dataclass(frozen=True)
class HistoryFields:
    """Names of the columns."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"


class HistoryFile:
    """A file, or a folder of files, with histories.

    Attributes:
        files: the files in order of their names.
        lists: whether a row is a user; else it is an interaction.
        rows: how many rows there are.
        user_type, item_type: Arrow types of users and items.

    Raises:
        UserError: there is none, it is no Parquet, or its columns are not those of either form.
    """

    def __init__(self, path: Path, fields: HistoryFields) -> None:
        self.path, self.fields = path, fields
        self.files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        if not self.files:
            raise UserError(f"{path} holds no .parquet file; give one with --histories")
        self.rows = 0
        kinds: set[tuple[Any, ...]] = set()
        for file in self.files:
            schema, rows = _layout(file)
            self.rows += rows
            kinds.add(self._columns(file, schema))
        if len(kinds) > 1:
            raise UserError(f"the files of {path} have columns of different types: {sorted(map(str, kinds))}")
        self.user_type, item_type = next(iter(kinds))[:2]
        self.lists = is_list_type(item_type)
        self.item_type = item_type.value_type if self.lists else item_type

    def _columns(self, file: Path, schema: pyarrow.Schema) -> tuple[Any, ...]:
        """Types of the columns that are read.

        Raises:
            UserError: one is absent or of a type that it cannot have.
        """
        fields = self.fields
        for name in (fields.user, fields.item):
            if name not in schema.names:
                raise UserError(f"{file} has no column {name}; it has {', '.join(schema.names)}")
        user, item = (_plain(schema.field(name).type) for name in (fields.user, fields.item))
        if not is_token_type(user):
            raise UserError(f"{file}: column {fields.user} is {user}; it must be text or whole numbers")
        if is_list_type(item):
            if not is_token_type(item.value_type):
                raise UserError(f"{file}: column {fields.item} is {item}; its lists must be of text or whole numbers")
            return user, item
        if not is_token_type(item):
            raise UserError(
                f"{file}: column {fields.item} is {item}; it must be lists of items, one row a user, or items, one row "
                "an interaction"
            )
        if fields.time not in schema.names:
            raise UserError(
                f"{file}: column {fields.item} is {item}, so a row is an interaction, but there is no column "
                f"{fields.time} to order a user's items by"
            )
        time = schema.field(fields.time).type
        types = pyarrow.types
        if not (types.is_integer(time) or types.is_floating(time) or types.is_temporal(time)):
            raise UserError(f"{file}: column {fields.time} is {time}; it must be numbers or times")
        return user, item, time

    def digest(self, progress: Callable[[int], Any] = lambda count: None) -> str:
        """SHA-256 of the files, one after the other.

        Args:
            progress: called with numbers of bytes as they are read.
        """
        found = hashlib.sha256()
        for file in self.files:
            found.update(f"{file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    found.update(block)
                    progress(len(block))
        return found.hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)

    # users ------------------------------------------------------------------------------------------------------------

    def users(self, size: int, work: Path, sort: Sort) -> Iterator[pyarrow.Table]:
        """Users and their items, `size` at a time; the last table has what is left.

        Args:
            size: how many.
            work: a folder for what has to be sorted.
            sort: (folder of Parquet files, columns) -> the rows in that order, as tables.

        Returns:
            Tables with the columns `user` and `items`, lists.

        Raises:
            UserError: a user or an item is null, a time is null or not a number.
        """
        if self.lists:
            return _cut((table.rename_columns(["user", "items"]) for _, table in self._batches()), size)
        fields = self.fields
        if self._in_order():
            rows: Iterable[pyarrow.Table] = (table for _, table in self._batches())
        else:
            logger.info("%s is not in order of %s and %s; it is sorted", self.path, fields.user, fields.time)
            self._number_rows(work)
            rows = sort(work, [fields.user, fields.time, ROW_NUMBER])
        return _cut(self._grouped(rows), size)

    def _batches(self) -> Iterator[tuple[int, pyarrow.Table]]:
        """The number of the first row, and rows, of one batch after the other."""
        fields, first = self.fields, 0
        names = [fields.user, fields.item] + [fields.time] * (not self.lists)
        for file in self.files:
            with pyarrow.parquet.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as opened:
                for batch in opened.iter_batches(ROWS if not self.lists else ROWS // 16, columns=names):
                    table = pyarrow.Table.from_batches([batch]).select(names)
                    table = table.cast(
                        pyarrow.schema([(field.name, _plain(field.type)) for field in table.schema]), safe=True
                    )
                    for name in [fields.user] if self.lists else names:
                        self._refuse_nulls(table[name], name, first)
                    yield first, table
                    first += len(table)

    def _refuse_nulls(self, column: pyarrow.ChunkedArray, name: str, first: int) -> None:
        broken = pyarrow.compute.is_null(column, nan_is_null=pyarrow.types.is_floating(column.type))
        if pyarrow.compute.any(broken).as_py():
            row = first + int(np.flatnonzero(broken.to_numpy())[0]) + 1
            raise UserError(f"{self.path}: {name} is null in row {row}; fill it in or leave the row out")

    def _in_order(self) -> bool:
        """Whether users are in order of their ids, and each one's interactions in order of time."""
        fields = self.fields
        before: pyarrow.Table | None = None
        for _, table in self._batches():
            joined = table if before is None else pyarrow.concat_tables([before, table])
            users, times = joined[fields.user], joined[fields.time]
            above, below = users.slice(1), users.slice(0, len(users) - 1)
            same = pyarrow.compute.equal(below, above)
            later = pyarrow.compute.less_equal(times.slice(0, len(times) - 1), times.slice(1))
            kept = pyarrow.compute.or_(pyarrow.compute.less(below, above), pyarrow.compute.and_(same, later))
            if not pyarrow.compute.all(kept, min_count=0).as_py():
                return False
            before = table.slice(len(table) - 1)
        return True

    def _number_rows(self, work: Path) -> None:
        """Write the interactions with their numbers to `work`, in files that fit memory."""
        work.mkdir(parents=True, exist_ok=True)
        for number, (first, table) in enumerate(self._batches()):
            rows = pyarrow.array(np.arange(first, first + len(table), dtype=np.int64))
            numbered = table.append_column(ROW_NUMBER, rows)
            pyarrow.parquet.write_table(numbered, work / f"{number:06d}.parquet", compression="zstd")

    def _grouped(self, rows: Iterable[pyarrow.Table]) -> Iterator[pyarrow.Table]:
        """Interactions in order -> users with their lists; a user may go on in the next table of rows."""
        fields = self.fields
        open_user: pyarrow.Table | None = None
        for block in rows:
            table = block.select([fields.user, fields.item])
            table = (table if open_user is None else pyarrow.concat_tables([open_user, table])).combine_chunks()
            if not len(table):
                continue
            begins = _begins(table[fields.user])
            open_user = table.slice(int(begins[-1]))
            if len(begins) > 1:
                yield _lists(table.slice(0, int(begins[-1])), begins[:-1])
        if open_user is not None:
            yield _lists(open_user, np.zeros(1, dtype=np.int64))


def _layout(file: Path) -> tuple[pyarrow.Schema, int]:
    """A file's schema and number of rows.

    Raises:
        UserError: it is absent or no Parquet.
    """
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            return opened.schema_arrow, opened.metadata.num_rows
    except FileNotFoundError:
        raise UserError(f"no file {file}; give one with --histories") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{file} is no readable Parquet file ({str(error).splitlines()[0]})") from error


def _plain(kind: pyarrow.DataType) -> pyarrow.DataType:
    """A type without dictionaries."""
    if pyarrow.types.is_dictionary(kind):
        return kind.value_type
    if is_list_type(kind):
        return pyarrow.list_(_plain(kind.value_type))
    return kind


def _begins(users: pyarrow.ChunkedArray) -> np.ndarray:
    """Where each user's rows begin, users side by side: int64."""
    change = pyarrow.compute.not_equal(users.slice(0, len(users) - 1), users.slice(1)).to_numpy()
    return np.concatenate((np.zeros(1, dtype=np.int64), np.flatnonzero(change) + 1))


def _lists(table: pyarrow.Table, begins: np.ndarray) -> pyarrow.Table:
    """Users and lists of rows (user, item) that lie side by side."""
    user, items = (column.combine_chunks() for column in table.columns)
    users = user.take(pyarrow.array(begins))
    offsets = pyarrow.array(np.append(begins, len(table)).astype(np.int32))
    return pyarrow.table({"user": users, "items": pyarrow.ListArray.from_arrays(offsets, _array(items))})


def _array(column: Any) -> pyarrow.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pyarrow.ChunkedArray) else column


def _cut(tables: Iterable[pyarrow.Table], size: int) -> Iterator[pyarrow.Table]:
    """The same rows in tables of `size` rows; the last has what is left."""
    waiting: list[pyarrow.Table] = []
    count = 0
    for table in itertools.chain(tables):
        waiting.append(table)
        count += len(table)
        while count >= size:
            joined = pyarrow.concat_tables(waiting)
            yield joined.slice(0, size).combine_chunks()
            waiting, count = [joined.slice(size)], count - size
    if count:
        yield pyarrow.concat_tables(waiting).combine_chunks()
