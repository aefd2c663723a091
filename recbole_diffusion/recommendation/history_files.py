"""Files of histories - Parquet, CSV and other text, JSON lines - read as a stream of users with their lists of items.

Three forms, told apart by the columns (the names are the run's, by default those below):

    user_id, history                      one row a user: a list of items, or text such as a,b,c, oldest first; users
                                          come out as they stand in the file, without user_id with their rows' numbers
    user_id, item_id: list                the same, by the name of the item column
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
from recbole_diffusion.recommendation.history_tables import KINDS, TIME, HistoryTable, kind_of, open_table
from recbole_diffusion.recommendation.history_text import SEPARATOR, separator_of

logger = logging.getLogger(__name__)

ROWS = 65_536  # of interactions, read at a time
ROW_NUMBER = "row"  # column that keeps equal times as they stand in the file

Sort = Callable[[Path, list[str]], Iterator[pyarrow.Table]]


@dataclass(frozen=True)
class HistoryFields:
    """Names of the columns."""

    user: str = "user_id"
    item: str = "item_id"
    time: str = "timestamp"
    history: str = "history"


class HistoryFile:
    """A file, or a folder of files, with histories.

    Args:
        path: the file or folder.
        fields: names of the columns.
        separator: between the items of a history that is text.

    Attributes:
        files: the files in order of their names.
        lists: whether a row is a user; else it is an interaction.
        rows: how many rows there are; None where only reading tells.
        user_type, item_type: Arrow types of users and items.

    Raises:
        UserError: there is none, it is none of the kinds, or its columns are not those of any form.
    """

    def __init__(self, path: Path, fields: HistoryFields, separator: str = SEPARATOR) -> None:
        self.path, self.fields = path, fields
        self.files = _files(path)
        self.rows: int | None = 0
        self._tables: list[HistoryTable] = []
        kinds: set[tuple[Any, ...]] = set()
        for file in self.files:
            table = open_table(file, fields.time, fields.history, separator, (fields.user, fields.item))
            self._tables.append(table)
            self.rows = None if self.rows is None or table.rows is None else self.rows + table.rows
            kinds.add(self._columns(table))
        if len(kinds) > 1:
            raise UserError(f"the files of {path} have columns of different types: {sorted(map(str, kinds))}")
        self._user, self._item, self.user_type, item_type = next(iter(kinds))[:4]
        self.lists = is_list_type(item_type)
        self.item_type = item_type.value_type if self.lists else item_type

    def _columns(self, table: HistoryTable) -> tuple[Any, ...]:
        """Names of the columns of users (None for numbers of rows) and items, and types of those that are read.

        Raises:
            UserError: one is absent or of a type that it cannot have.
        """
        fields, file = self.fields, table.path
        types = {name: _plain(kind) for name, kind in table.types.items()}
        if list(types) == [fields.history]:
            self._check_lists(file, fields.history, types[fields.history])
            return None, fields.history, pyarrow.int64(), types[fields.history]
        if fields.user not in types:
            raise UserError(f"{file} has no column {fields.user}; it has {', '.join(types)}")
        user = types[fields.user]
        if not is_token_type(user):
            raise UserError(f"{file}: column {fields.user} is {user}; it must be text or whole numbers")
        if fields.history in types:
            self._check_lists(file, fields.history, types[fields.history])
            return fields.user, fields.history, user, types[fields.history]
        if fields.item not in types:
            raise UserError(f"{file} has no column {fields.item} or {fields.history}; it has {', '.join(types)}")
        item = types[fields.item]
        if is_list_type(item):
            self._check_lists(file, fields.item, item)
            return fields.user, fields.item, user, item
        if not is_token_type(item):
            raise UserError(
                f"{file}: column {fields.item} is {item}; it must be lists of items, one row a user, or items, one row "
                "an interaction"
            )
        if fields.time not in types:
            raise UserError(
                f"{file}: column {fields.item} is {item}, so a row is an interaction, but there is no column "
                f"{fields.time} to order a user's items by; a column of whole histories is named {fields.history}"
            )
        time = types[fields.time]
        kinds = pyarrow.types
        if not (kinds.is_integer(time) or kinds.is_floating(time) or kinds.is_temporal(time) or time == TIME):
            raise UserError(f"{file}: column {fields.time} is {time}; it must be numbers or times")
        return fields.user, fields.item, user, item, time

    @staticmethod
    def _check_lists(file: Path, name: str, kind: pyarrow.DataType) -> None:
        if not is_list_type(kind) or not is_token_type(kind.value_type):
            raise UserError(f"{file}: column {name} is {kind}; its lists must be of text or whole numbers")

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
        names = [name for name in (self._user, self._item) if name] + [fields.time] * (not self.lists)
        for source in self._tables:
            for batch in source.batches(names, ROWS if not self.lists else ROWS // 16):
                table = batch.cast(
                    pyarrow.schema([(field.name, _plain(field.type)) for field in batch.schema]), safe=True
                )
                for name in ([self._user] if self._user else []) if self.lists else names:
                    self._refuse_nulls(table[name], name, first)
                if self._user is None:
                    numbers = pyarrow.array(np.arange(first + 1, first + len(table) + 1, dtype=np.int64))
                    table = table.add_column(0, fields.user, numbers)
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


def read_histories(path: Path, config: Any, separator: str, most: int) -> list[list[str]]:
    """Histories of the first rows of a file or folder, `most` of them.

    Args:
        path: one row a user.
        config: a run's keys, which name the columns.
        separator: between the items of a history that is text.
        most: how many.

    Raises:
        UserError: the file cannot be read, or has one row an interaction.
    """
    fields = HistoryFields(*(config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME")))
    source = HistoryFile(path, fields, separator_of(separator))
    if not source.lists:
        raise UserError(
            f"{path} has one row an interaction; give histories, one row a user, in a column {fields.history}"
        )
    found: list[list[str]] = []
    for _, table in source._batches():
        found += [[str(item) for item in row or ()] for row in table.column(1).to_pylist()]
        if len(found) >= most:
            break
    return found[:most]


def _files(path: Path) -> list[Path]:
    """The file, or those of a folder in order of their names, all of one kind.

    Raises:
        UserError: the folder has none, or of several kinds.
    """
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in KINDS and not file.name.startswith("."))
    if not found:
        raise UserError(f"{path} holds no .parquet file, nor {', '.join(list(KINDS)[1:])}; give one with --histories")
    kinds = sorted({kind_of(file) for file in found})
    if len(kinds) > 1:
        raise UserError(f"{path} holds files of several kinds ({', '.join(kinds)}); give a folder of one kind")
    return found


def _plain(kind: pyarrow.DataType) -> pyarrow.DataType:
    """A type without dictionaries, nor views of text, which few of Arrow's functions take."""
    if pyarrow.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pyarrow.types.is_string_view(kind):
        return pyarrow.string()
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
