"""The columns of an atomic file as the text that stands in them, in Arrow's memory: one buffer of bytes, no objects.

Arrow's reader splits lines into fields on all cores and leaves everything else to us: nothing is quoted, nothing is
missing, nothing is a number yet (docs/decisions/050-fast-reading.md). Columns come in chunks of rows, so that a file
of any size needs the memory of one chunk beyond what is made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import csv

from recbole_diffusion.data.atomic_fields import AtomicFile, refuse
from recbole_diffusion.data.progress import progress

ROWS_AT_ONCE = 1 << 24
BLOCK_BYTES = 1 << 22

_LARGEST_BLOCK = (1 << 31) - 1
_DIGITS = np.zeros(256, dtype=bool)
_DIGITS[list(b"0123456789-")] = True


def text_columns(
    file: AtomicFile, columns: Sequence[str], *, show_progress: bool = False
) -> Iterator[dict[str, pa.ChunkedArray]]:
    """Columns of a checked file, row for row as they are written.

    Args:
        file: what ``check_layout`` returned.
        columns: names of the columns, one or more.
        show_progress: a bar on standard error when it takes more than two seconds.

    Yields:
        For the next rows of the file, name -> texts, in the file's order of columns. Nothing is null.

    Raises:
        UserError: the file is no longer the one that was checked.
    """
    names = [field.name for field in file.fields]
    rows = 0
    waiting: list[pa.RecordBatch] = []
    waiting_rows = 0
    bar = progress(f"Reading {file.path.name}", file.rows, " rows", shown=show_progress)
    try:
        with bar, _open(file, names, [name for name in names if name in set(columns)]) as reader:
            for batch in reader:
                waiting.append(batch)
                waiting_rows += batch.num_rows
                bar.update(batch.num_rows)
                if waiting_rows >= ROWS_AT_ONCE:
                    rows, waiting_rows = rows + waiting_rows, 0
                    yield _taken(waiting)
    except (pa.ArrowException, OSError, ValueError) as error:
        refuse(file.path, None, f"cannot be read ({error})", "was it changed while it was being read?")
    if rows + waiting_rows != file.rows:
        what = f"{file.rows} rows by line, {rows + waiting_rows} as Arrow reads it"
        refuse(file.path, None, what, "the file changed while it was being read, or holds unusual control characters")
    if waiting_rows:
        yield _taken(waiting)


def _open(file: AtomicFile, names: list[str], wanted: list[str]) -> csv.CSVStreamingReader:
    return csv.open_csv(
        file.path,
        read_options=csv.ReadOptions(
            column_names=names,
            skip_rows=1,
            encoding="utf8" if file.encoding in ("utf-8", "utf-8-sig") else file.encoding,
            block_size=min(max(BLOCK_BYTES, 2 * file.longest_line), _LARGEST_BLOCK),
        ),
        parse_options=csv.ParseOptions(
            delimiter=file.separator,
            quote_char=False,
            double_quote=False,
            escape_char=False,
            newlines_in_values=False,
            ignore_empty_lines=True,  # the layout has been checked: there are none but at the end
        ),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted, strings_can_be_null=False
        ),
    )


def _taken(batches: list[pa.RecordBatch]) -> dict[str, pa.ChunkedArray]:
    """The columns of some batches, which are held by nobody else from then on: each goes when its reader lets it go."""
    table = pa.Table.from_batches([batch for batch in batches if batch.num_rows])
    batches.clear()
    return dict(zip(table.column_names, table.columns, strict=True))


def encoded(texts: pa.ChunkedArray) -> pa.DictionaryArray:
    """Every text once, in order of first appearance, and for every row its place among them."""
    try:
        parts = texts.dictionary_encode().chunks
    except pa.ArrowCapacityError:  # two gigabytes of different texts
        parts = texts.cast(pa.large_string()).dictionary_encode().chunks
    if len({_address(part.dictionary) for part in parts}) > 1:
        parts = pa.chunked_array(parts).unify_dictionaries().chunks
    places = np.concatenate([part.indices.to_numpy() for part in parts])
    return pa.DictionaryArray.from_arrays(places, parts[0].dictionary)


def _address(texts: pa.StringArray) -> tuple[int, ...]:
    return tuple(0 if buffer is None else buffer.address for buffer in texts.buffers())


def joined(parts: Sequence[pa.DictionaryArray]) -> tuple[np.ndarray, list[str]]:
    """Encoded texts, one part after the other.

    Returns:
        (rows,) int32 and the different texts in order of first appearance: row r holds the text of number ``[r]``.
    """
    if len(parts) > 1:
        try:
            parts = _unified(parts, pa.string())
        except pa.ArrowException:  # two gigabytes of different texts
            parts = _unified(parts, pa.large_string())
    codes = np.concatenate([part.indices.to_numpy() for part in parts])
    return codes.astype(np.int32, copy=False), parts[0].dictionary.to_pylist()


def _unified(parts: Sequence[pa.DictionaryArray], kind: pa.DataType) -> list[pa.DictionaryArray]:
    """The parts with one dictionary of this type."""
    alike = [pa.DictionaryArray.from_arrays(part.indices, part.dictionary.cast(kind)) for part in parts]
    return pa.chunked_array(alike).unify_dictionaries().chunks


def whole_numbers(texts: pa.ChunkedArray) -> np.ndarray | None:
    """(rows,) int64 where every text is a whole number in decimal digits that fits, else None."""
    if not all(_DIGITS[_bytes_of(chunk)].all() for chunk in texts.chunks):
        return None  # Arrow would take 0x10, too
    try:
        return texts.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:
        return None


def finite_numbers(texts: pa.ChunkedArray) -> np.ndarray | None:
    """(rows,) float64 where Arrow takes every text for a finite number, else None (a sign + it does not take)."""
    try:
        numbers = texts.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _bytes_of(texts: pa.StringArray) -> np.ndarray:
    _, offsets, data = texts.buffers()
    if data is None:
        return np.zeros(0, dtype=np.uint8)
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]]
