"""Histories of item tokens as the ids that a model knows.

    tokens   [["a", "b"], ["x"], []]      with items a = 1, b = 2 and no item x
    items    [1, 2]                       end to end
    offsets  [0, 2, 2, 2]                 row r has items[offsets[r] : offsets[r + 1]]
    unknown  [0, 1, 0]                    items of each row that no item of the run is

Histories are in order of time, oldest item first. Shapes: B rows, N known items of all rows, L history, W width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute

from recbole_diffusion.data.histories import gather
from recbole_diffusion.errors import UserError

Unknown = Literal["drop", "error"]
UNKNOWN: tuple[Unknown, ...] = ("drop", "error")
FEW_TOKENS = 64  # looked up one by one: a column costs more to prepare


@dataclass(frozen=True)
class EncodedHistories:
    """Histories in internal ids; items that the run does not know are left out.

    Attributes:
        items: (N,) int64.
        offsets: (B + 1,) int64.
        unknown: (B,) int64 items left out of each row.
    """

    items: np.ndarray
    offsets: np.ndarray
    unknown: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(B,) known items of each row."""
        return np.diff(self.offsets)

    def latest(self, rows: np.ndarray, limit: int, *, full_width: bool) -> tuple[np.ndarray, np.ndarray]:
        """The latest items of some rows, side by side and padded with zeros on the right.

        Args:
            rows: (b,) row numbers.
            limit: L, how many of a row at most.
            full_width: whether W is L; else it is the longest of the rows.

        Returns:
            items (b, W) int64, lengths (b,) int64.
        """
        stop = self.offsets[rows + 1]
        length = np.minimum(stop - self.offsets[rows], limit)
        width = limit if full_width else int(length.max(initial=1))
        return gather(self.items, stop - length, length, width), length

    def pairs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(place in `rows`, item) of every item of some rows, in order of rows."""
        length = self.lengths[rows]
        place = np.repeat(np.arange(len(rows)), length)
        within = np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length)
        return place, self.items[self.offsets[rows][place] + within]


class ItemIds:
    """Tokens of items -> their internal ids, a column at a time.

    Args:
        tokens: (V,) token of each internal id, padding first.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens
        self._index = pd.Index(np.asarray(tokens[1:], dtype=object))

    def of(self, tokens: pyarrow.Array) -> np.ndarray:
        """Ids (N,) int64 of a column of text or whole numbers without nulls; 0 where there is no such item."""
        if not len(tokens):
            return np.zeros(0, dtype=np.int64)
        if len(tokens) <= FEW_TOKENS:
            return np.array([self._one(name) for name in tokens.cast(pyarrow.string()).to_pylist()], dtype=np.int64)
        if not pyarrow.types.is_dictionary(tokens.type):
            tokens = pyarrow.compute.dictionary_encode(tokens)
        names = tokens.dictionary.cast(pyarrow.string()).to_numpy(zero_copy_only=False)
        ids = self._index.get_indexer(names).astype(np.int64) + 1
        return ids[tokens.indices.to_numpy(zero_copy_only=False)]

    def _one(self, token: str) -> int:
        try:
            return int(self._index.get_loc(token)) + 1
        except KeyError:
            return 0


def token_lists(histories: Iterable[Sequence[Any]]) -> pyarrow.Array:
    """Python lists of tokens, text or whole numbers, as an Arrow column of lists of text.

    Raises:
        UserError: a history is no list, or an item of it no token.
    """
    rows = []
    for number, history in enumerate(histories):
        if isinstance(history, (str, bytes)) or not isinstance(history, (Sequence, np.ndarray)):
            raise UserError(f"history {number} is {history!r}; it must be a list of item tokens, oldest first")
        for item in history:
            if not isinstance(item, (str, int, np.integer)) or isinstance(item, bool):
                raise UserError(f"history {number} has the item {item!r}; items are tokens: text or whole numbers")
        rows.append([str(item) for item in history])
    return pyarrow.array(rows, pyarrow.list_(pyarrow.string()))


def is_token_type(kind: pyarrow.DataType) -> bool:
    """Whether a column's values are tokens: text or whole numbers, as they are or in a dictionary."""
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    types = pyarrow.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind))


def is_list_type(kind: pyarrow.DataType) -> bool:
    """Whether a column's values are lists."""
    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def encode(histories: pyarrow.Array, ids: ItemIds, unknown: Unknown = "drop", first_row: int = 0) -> EncodedHistories:
    """Histories in internal ids.

    Args:
        histories: (B,) lists of tokens; a null list is an empty one.
        ids: the run's items.
        unknown: drop leaves items out that the run does not know; error refuses them.
        first_row: number of the first row, for messages.

    Raises:
        UserError: an item is null, or unknown where that is refused.
    """
    kind = histories.type
    if not is_list_type(kind) or not is_token_type(kind.value_type):
        raise UserError(f"histories are {kind}; they must be lists of text or of whole numbers")
    lengths = pyarrow.compute.list_value_length(histories).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = histories.flatten()
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    if flat.null_count:
        place = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"the history in row {first_row + int(row_of[place]) + 1} has an item that is null")
    found = ids.of(flat)
    known = found > 0
    if unknown == "error" and not known.all():
        place = int(np.flatnonzero(~known)[0])
        raise UserError(
            f"the history in row {first_row + int(row_of[place]) + 1} has the item {flat[place].as_py()!r}, which the "
            "run does not know; leave it out, or set unknown_items to drop"
        )
    counts = np.bincount(row_of[known], minlength=len(lengths))
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)))
    return EncodedHistories(found[known], offsets, lengths - counts)
