"""The values of an atomic file: ids as categories, numbers as float64 or int64, texts as they stand.

Reading is vectorised and trusts nothing: what Arrow does not take for a plain number is looked at one by one, by the
rules of docs/decisions/020-strict-reading.md, and so is what an error message has to name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from logging import getLogger
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_diffusion.data.atomic_columns import encoded, finite_numbers, joined, text_columns, whole_numbers
from recbole_diffusion.data.atomic_fields import (
    MISSING_NUMBERS,
    PADDING_TOKEN,
    AtomicFile,
    is_number,
    refuse,
    separator_name,
    shown,
)

logger = getLogger(__name__)

_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}:\d{2}")


class _Column(Protocol):
    """A column in the making."""

    def add(self, texts: pa.ChunkedArray) -> None:
        """The next rows."""

    def finish(self) -> np.ndarray | pd.Categorical:
        """All rows, or the refusal of the first that is wrong."""


def read_columns(
    file: AtomicFile,
    columns: Sequence[str],
    *,
    identifiers: Sequence[str] = (),
    times: Sequence[str] = (),
    show_progress: bool = False,
) -> pd.DataFrame:
    """Read ``columns`` of a checked file, row for row, tokens exactly as written.

    Args:
        file: what :func:`~recbole_diffusion.data.atomic_files.check_layout` returned.
        columns: names of the columns to read.
        identifiers: token columns in which no value may be empty or the padding token.
        times: float columns in which every value must be a finite number.
        show_progress: a bar on standard error when it takes more than two seconds.

    Returns:
        A frame of ``file.rows`` rows, columns in the file's order. ``token`` columns are categorical, the categories
        being the different tokens in order of first appearance, sequence columns hold their text as strings, ``float``
        columns float64 with NaN where the value is missing (RecBole fills these with the column's mean, which is
        logged). ``times`` are int64 where every value is a whole number that fits, else float64. In token columns other
        than ``identifiers`` an empty value is missing (NaN), as in RecBole.

    Raises:
        UserError: an empty identifier; a float that is no finite number; a missing time.
    """
    made: dict[str, _Column] = {}
    for field in file.fields:
        if field.name not in columns:
            continue
        if field.type == "float":
            made[field.name] = _Numbers(file, field.name, is_time=field.name in times)
        elif field.type == "token":
            made[field.name] = _Tokens(file, field.name, is_identifier=field.name in identifiers)
        else:
            made[field.name] = _Texts()
    with ThreadPoolExecutor(max_workers=pa.cpu_count()) as threads:  # Arrow's work needs no lock of Python's
        for chunk in text_columns(file, list(made), show_progress=show_progress):
            done = [threads.submit(made[name].add, chunk.pop(name)) for name in list(chunk)]
            for column in done:
                column.result()
    pa.default_memory_pool().release_unused()
    numbers_first = sorted(made, key=lambda name: file.type_of(name) != "float")
    values = {name: made[name].finish() for name in numbers_first}
    return pd.DataFrame({name: values[name] for name in made}, copy=False)


class _Texts:
    """A sequence column: strings."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def add(self, texts: pa.ChunkedArray) -> None:
        self.parts.append(np.array(texts.to_pylist(), dtype=object))

    def finish(self) -> np.ndarray:
        return np.concatenate(self.parts)


# --------------------------------------------------------------------------------------------------------- numbers


class _Numbers:
    """A float column."""

    def __init__(self, file: AtomicFile, name: str, *, is_time: bool) -> None:
        self.file = file
        self.name = name
        self.is_time = is_time
        self.parts: list[np.ndarray] = []
        self.rows = 0
        self.bad_rows = 0
        self.first_bad: tuple[int, str] | None = None

    def add(self, texts: pa.ChunkedArray) -> None:
        numbers = whole_numbers(texts)
        if numbers is None:
            numbers = finite_numbers(texts)
        if numbers is None:
            numbers = self._one_by_one(texts)
        self.parts.append(numbers)
        self.rows += len(texts)

    def _one_by_one(self, texts: pa.ChunkedArray) -> np.ndarray:
        """Numbers by Python's rules, which decide; missing ones are NaN."""
        codes, spellings = joined([encoded(texts)])
        values = np.full(len(spellings), np.nan)
        refused = np.zeros(len(spellings), dtype=bool)
        for number, text in enumerate(spellings):
            if text in MISSING_NUMBERS:
                refused[number] = self.is_time
            elif is_number(text):
                values[number] = float(text)
            else:
                refused[number] = True
        if refused.any():
            bad = refused[codes]
            row = int(np.argmax(bad))
            self.bad_rows += int(bad.sum())
            self.first_bad = self.first_bad or (self.rows + row, spellings[codes[row]])
        return values[codes]

    def finish(self) -> np.ndarray:
        if self.first_bad is not None:
            self._refuse(*self.first_bad)
        whole = all(part.dtype == np.int64 for part in self.parts)
        kind = np.int64 if whole and self.is_time else np.float64
        values = np.concatenate([part.astype(kind, copy=False) for part in self.parts])
        self.parts = []
        missing = np.isnan(values)
        if missing.any():
            self._report_missing(missing)
        return values

    def _report_missing(self, missing: np.ndarray) -> None:
        file, name = self.file, self.name
        if missing.all():
            refuse(file.path, file.line(0), f"column {name} has no value in any row", "do not load it (unload_col)")
        logger.warning(
            "%s:%d: column %s: %d of %d values are missing, first here; RecBole puts the column's mean there",
            file.path,
            file.line(int(np.argmax(missing))),
            name,
            int(missing.sum()),
            len(missing),
        )

    def _refuse(self, row: int, text: str) -> None:
        """Say what is wrong with the first value that is refused."""
        name = self.name
        kind = "time" if self.is_time else "number"
        remedy = "write a number such as 978386400 (seconds)" if self.is_time else "write a number, or leave it empty"
        if text in MISSING_NUMBERS:
            what = f"column {name} has no {kind} ({shown(text)})"
            remedy = "every interaction needs one, it is what orders them: add it, or remove the row"
        elif text == f"{name}:float":
            what, remedy = f"column {name} holds the header again ({shown(text)})", "remove the repeated header line"
        else:
            what = f"column {name} is {shown(text)}, not a finite number"
            if _DATE.match(text.strip()):
                what = f"column {name} is the date {shown(text)}, not a number"
                remedy = "convert dates to numbers that rise with time, e.g. seconds since 1970"
            elif is_number(text.replace(",", "")):
                remedy = "write the decimal mark as a point and no thousands separator"
        more = self.bad_rows - 1
        rows = f" (and {more} more row{'s' if more > 1 else ''})" if more else ""
        refuse(self.file.path, self.file.line(row), what + rows, remedy)


# ---------------------------------------------------------------------------------------------------------- tokens


class _Tokens:
    """A token column."""

    def __init__(self, file: AtomicFile, name: str, *, is_identifier: bool) -> None:
        self.file = file
        self.name = name
        self.is_identifier = is_identifier
        self.parts: list[pa.DictionaryArray] = []

    def add(self, texts: pa.ChunkedArray) -> None:
        self.parts.append(encoded(texts))

    def finish(self) -> pd.Categorical:
        codes, tokens = joined(self.parts)
        self.parts = []
        if self.is_identifier:
            self._check_identifiers(codes, tokens)
        else:
            codes, tokens = self._without_missing(codes, tokens)
        return pd.Categorical.from_codes(codes, categories=pd.Index(tokens, dtype=object))

    def _line(self, codes: np.ndarray, code: int) -> int:
        """Line of the first row with a token."""
        return self.file.line(int(np.argmax(codes == code)))

    def _check_identifiers(self, codes: np.ndarray, tokens: list[str]) -> None:
        """Refuse empty ids and the padding token; log ids with white space at an end, which stay as they are."""
        path, name = self.file.path, self.name
        padded: list[int] = []
        for code, token in enumerate(tokens):
            if token and "!" <= token[0] <= "~" and "!" <= token[-1] <= "~" and token != PADDING_TOKEN:
                continue
            if not token.strip():
                count = int((codes == code).sum())
                more = f" (and {count - 1} more)" if count > 1 else ""
                remedy = "every row needs an id: add it, or remove it"
                refuse(path, self._line(codes, code), f"{name} is empty{more}", remedy)
            if token == PADDING_TOKEN:
                remedy = "RecBole uses that name for padding: rename the id"
                refuse(path, self._line(codes, code), f"{name} is {PADDING_TOKEN!r}", remedy)
            if token[0].isspace() or token[-1].isspace():
                padded.append(code)
        if padded:
            known = set(tokens)
            twins = [code for code in padded if tokens[code].strip() in known]
            logger.warning(
                "%s:%d: %d different values of %s begin or end with white space, such as %s; they are kept as they "
                "are%s",
                path,
                self._line(codes, padded[0]),
                len(padded),
                name,
                shown(tokens[padded[0]]),
                f", and {len(twins)} of them differ from another id by that alone" if twins else "",
            )

    def _without_missing(self, codes: np.ndarray, tokens: list[str]) -> tuple[np.ndarray, list[str]]:
        """A token that is not an id: empty is missing, code -1 (RecBole maps NaN to the padding id 0)."""
        if PADDING_TOKEN in tokens:
            remedy = "RecBole uses that name for padding: leave the value empty or rename it"
            line = self._line(codes, tokens.index(PADDING_TOKEN))
            refuse(self.file.path, line, f"{self.name} is {PADDING_TOKEN!r}", remedy)
        if "" not in tokens:
            return codes, tokens
        empty = tokens.index("")
        present = np.where(codes > empty, codes - 1, codes)
        present[codes == empty] = -1
        return present, tokens[:empty] + tokens[empty + 1 :]


# ------------------------------------------------------------------------------------------------------- sequences


def split_sequences(file: AtomicFile, name: str, texts: pd.Series, separator: str) -> list[np.ndarray]:
    """A ``token_seq`` or ``float_seq`` column as one array per row; empty parts are skipped, as in RecBole.

    Args:
        file: the file the column comes from.
        name: the column.
        texts: its text, one string per row.
        separator: RecBole's ``seq_separator``.

    Raises:
        UserError: an element of a ``float_seq`` is not a finite number.
    """
    if file.type_of(name) == "token_seq":
        return [np.array([part for part in text.split(separator) if part], dtype=str) for text in texts]
    sequences = []
    for row, text in enumerate(texts):
        parts = [part for part in text.split(separator) if part]
        for part in parts:
            if not is_number(part):
                what = f"column {name} has the element {shown(part)}, not a finite number"
                refuse(file.path, file.line(row), what, f"write numbers separated by {separator_name(separator)}")
        sequences.append(np.array([float(part) for part in parts], dtype=np.float64))
    return sequences
