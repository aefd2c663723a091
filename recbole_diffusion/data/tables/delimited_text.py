"""CSV, TSV and other text tables, plain or compressed, of any size and encoding, read strictly.

Blocks of whole records (:mod:`.text_blocks`) are parsed by Arrow's CSV parser with nothing left to guess: every value
is text, as it stands. Because a block begins at a known line, every fault can be given its line.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from recbole_diffusion.data.atomic_fields import shown
from recbole_diffusion.data.tables.dialects import QUOTE, TextFormat, codec_of, marked_encoding, settle, split_lines
from recbole_diffusion.data.tables.files import (
    PARQUET_MAGIC,
    BadRows,
    Batch,
    NoRows,
    counted,
    refuse,
    refuse_other_kinds,
)
from recbole_diffusion.data.tables.text_blocks import Block, Damage, TextBlocks, ToUtf8, open_bytes
from recbole_diffusion.data.tables.values import NUMBER

_SAMPLE_BYTES = 1 << 18


class DelimitedText:
    """A text table.

    Args:
        path: the file.
        format: what is known about it.

    Raises:
        NoRows: nothing in it.
        UserError: not a text table, damaged, of an unknown encoding or separator, or with a header that does not fit.
    """

    unit = "B"
    is_text = True

    def __init__(self, path: Path, format: TextFormat | None = None) -> None:
        format = format or TextFormat()
        self.path = path
        self.key_prefix = format.key_prefix
        self.done = 0
        self.empty_lines = 0
        with Damage(path):
            self.total = path.stat().st_size
            content, raw = open_bytes(path)
            with raw:
                start = content.read(_SAMPLE_BYTES)
        mark = marked_encoding(start)
        if start.startswith(PARQUET_MAGIC):
            refuse(path, "this is a compressed Parquet file", "unpack it first")
        if mark is None:
            refuse_other_kinds(path, start)
        codec = codec_of(format.encoding or mark or "utf-8")
        complete = len(start) < _SAMPLE_BYTES
        sample = start if codec == "utf-8" else ToUtf8(path, codec, format.key_prefix).convert(start, complete)
        self._dialect = settle(path, sample.removeprefix(codecs.BOM_UTF8), complete, format, codec)
        self._headed = format.columns is None
        first = self._first_record()
        self.names: tuple[str, ...] = tuple(map(str.strip, first)) if format.columns is None else format.columns
        if len(first) != len(self.names):
            what = (
                f"{len(first)} fields in the first line where {self.key_prefix}columns= names {len(self.names)}: "
                f"{shown(str(first), 80)}"
            )
            refuse(path, what, "name all of them", self._dialect.skip_lines + 1)

    @property
    def looks_headless(self) -> bool:
        """Whether the first line has values instead of names."""
        return self._headed and any(re.match(NUMBER, name) for name in self.names)

    @property
    def notes(self) -> list[str]:
        """What was taken for granted about the file, and lines that were passed over."""
        found = list(self._dialect.notes)
        if self.empty_lines:
            found.append(f"passed over: {counted(self.empty_lines, 'empty line')}")
        return found

    def type_of(self, name: str) -> pa.DataType | None:
        """None: every value of a text file is text."""
        return None

    def _first_record(self) -> list[str]:
        for block in TextBlocks(self.path, self._dialect):
            filled = np.flatnonzero(block.records[2])
            if len(filled):
                return split_lines(block.record(int(filled[0])).split("\n"), block.separator, block.quoted)[0]
        return refuse(self.path, "no line with anything in it", "give a file with a header and rows", error=NoRows)

    def batches(self, names: Sequence[str], bad_rows: BadRows) -> Iterator[Batch]:
        """Rows in batches; all columns hold text.

        Raises:
            NoRows: there was no row, but for those that were dropped.
            UserError: the text is damaged somewhere, or a row has too many or too few fields and is not to be dropped.
        """
        records = 0
        in_header = self._headed
        blocks = TextBlocks(self.path, self._dialect)
        for whole in blocks:
            block = whole
            if in_header:
                _, ends, fields = whole.records
                filled = np.flatnonzero(fields)
                if not len(filled):
                    continue
                block = whole.after(min(int(ends[filled[0]]) + 1, len(whole.data)))
                in_header = False
            self.done = blocks.done
            if block.data.strip(b"\r\n"):
                batch, malformed = self._parse(block, names, bad_rows)
                records += batch.rows + malformed
                yield batch
            else:
                self.empty_lines += block.data.count(b"\n")
        self.done = blocks.done
        if records == 0:
            refuse(self.path, "a header but no row after it", "give a file with rows", error=NoRows)

    def _parse(self, block: Block, names: Sequence[str], bad_rows: BadRows) -> tuple[Batch, int]:
        """The rows of a block that have as many fields as the header, and how many have not."""
        expected = len(self.names)
        keys = [str(position) for position in range(expected)]
        wanted = [keys[self.names.index(name)] for name in names]
        malformed: list[int] = []

        def leave_out(row: Any) -> str:
            malformed.append(row.actual_columns)
            return "skip"

        table = arrow_csv.read_csv(
            pa.BufferReader(b"\n" + block.data),  # Arrow would take a byte-order mark off the beginning
            read_options=arrow_csv.ReadOptions(column_names=keys, block_size=len(block.data) + 1),
            parse_options=arrow_csv.ParseOptions(
                delimiter=block.separator,
                quote_char=QUOTE if block.quoted else False,
                double_quote=True,
                escape_char=False,
                newlines_in_values=len(block.quotes) > 0,
                ignore_empty_lines=True,
                invalid_row_handler=leave_out,
            ),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=wanted,
                column_types=dict.fromkeys(wanted, pa.string()),
                check_utf8=False,
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
        if malformed:
            self._report_malformed(block, len(malformed), bad_rows)
        lines = len(block.line_ends) + (not block.data.endswith(b"\n"))
        self.empty_lines += lines - table.num_rows - len(malformed)
        columns = {name: table.column(key).combine_chunks() for name, key in zip(names, wanted, strict=True)}
        columns = {name: _one_array(column) for name, column in columns.items()}
        return Batch(columns, table.num_rows, self._places(block)), len(malformed)

    def _places(self, block: Block) -> Callable[[int], str]:
        return lambda row: f"{self.path}:{block.line(row, len(self.names))}"

    def _report_malformed(self, block: Block, count: int, bad_rows: BadRows) -> None:
        expected = len(self.names)
        begins, ends, fields = block.records
        first = int(np.argmax((fields != expected) & (fields != 0)))
        text = block.record(first).replace(block.separator, self._dialect.separator)
        found = int(fields[first])
        what = f"{counted(found, 'field')} where there should be {expected}: {shown(text)}"
        remedy = "a value that holds the separator must stand in quotes"
        if int(ends[first]) == len(block.data) and found < expected:
            what = f"{what}, and the line has no end: the file was probably cut short"
            remedy = "copy it again, or remove that line"
        elif not self._dialect.quoted:
            before = self.key_prefix
            remedy = f"{before}separator= says what separates fields"
            remedy += f", {before}quote='\"' that values stand in quotes" * (QUOTE in text)
        place = f"{self.path}:{block.line_at(int(begins[first]))}"
        bad_rows.report("another number of fields", count, place, what, remedy)


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """A column in one piece (``combine_chunks`` returns chunks still in some versions of Arrow)."""
    if isinstance(column, pa.ChunkedArray):
        return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column
