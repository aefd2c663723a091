"""Parquet files as tables, read in batches within a row group, so that large groups do no harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as arrow_parquet

from recbole_diffusion.data.atomic_fields import shown
from recbole_diffusion.data.tables.files import BadRows, Batch, NoRows, refuse

_BATCH_ROWS = 1 << 16


class ParquetTable:
    """A Parquet file, read row group by row group."""

    unit = " rows"
    is_text = False
    key_prefix = ""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            NoRows: the file holds no row.
            UserError: the file is cut short, damaged or encrypted.
        """
        self.path = path
        self.done = 0
        try:
            with arrow_parquet.ParquetFile(path) as file:
                self._schema = file.schema_arrow
                self.total: int = file.metadata.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            self._damaged(error)
        self.names: tuple[str, ...] = tuple(self._schema.names)
        if self.total == 0:
            refuse(path, "the file has no rows", "give a file with rows", error=NoRows)

    @property
    def notes(self) -> list[str]:
        """Nothing: Parquet says what it is."""
        return []

    @property
    def looks_headless(self) -> bool:
        """Never: Parquet has names."""
        return False

    def type_of(self, name: str) -> pa.DataType | None:
        """The Arrow type of a column."""
        return self._schema.field(self.names.index(name)).type

    def batches(self, names: Sequence[str], bad_rows: BadRows) -> Iterator[Batch]:
        """Rows in batches.

        Raises:
            UserError: the file is damaged somewhere.
        """
        before = 0
        try:
            with arrow_parquet.ParquetFile(self.path, pre_buffer=False, buffer_size=1 << 20) as file:
                for part in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(names)):
                    columns = {name: part.column(part.schema.names.index(name)) for name in names}
                    yield Batch(columns, part.num_rows, self._places(before))
                    before += part.num_rows
                    self.done = before
        except (pa.ArrowException, OSError) as error:
            self._damaged(error, before)

    def _places(self, before: int) -> Callable[[int], str]:
        return lambda row: f"{self.path} row {before + row + 1}"

    def _damaged(self, error: Exception, row: int | None = None) -> NoReturn:
        where = "" if row is None else f" after row {row}"
        reason = shown(" ".join(str(error).split()), 120)
        refuse(self.path, f"Parquet cannot be read{where}: {reason}", "the file may be cut short; copy it again")
