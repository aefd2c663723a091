"""Histories of item tokens as the ids that a model knows.

    tokens   [["a", "b"], ["x"], []]      with items a = 1, b = 2 and no item x
    items    [1, 2]                       end to end
    offsets  [0, 2, 2, 2]                 row r has items[offsets[r] : offsets[r + 1]]
    unknown  [0, 1, 0]                    items of each row that no item of the run is

Histories are in order of time, oldest item first. An item that was added after training (`added_items`) has an id from
V on: the model cannot read it, so it is unknown to it, but it is one of the row's items where these are left out.
Shapes: B rows, N known items of all rows, L history, W width, V items of the model (0 is padding), A added items.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute

from recbole_diffusion.data.histories import gather
from recbole_diffusion.errors import UserError

Unknown = Literal["skip", "refuse", "drop", "error"]
UNKNOWN: dict[str, Unknown] = {
    "skip": "skip",
    "refuse": "refuse",
    "drop": "skip",
    "error": "refuse",
}  # older words, too


def settled_unknown(unknown: str, key: str = "unknown") -> Unknown:
    """What is done about unknown items, `skip` or `refuse`.

    Raises:
        UserError: `unknown` is none of the words; `key` names it.
    """
    if unknown not in UNKNOWN:
        raise UserError(f"{key} is {unknown!r}; it must be skip or refuse")
    return UNKNOWN[unknown]


_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class EncodedHistories:
    """Histories in internal ids; items that the run does not know are left out.

    Attributes:
        items: (N,) int64.
        offsets: (B + 1,) int64.
        unknown: (B,) int64 items left out of each row.
        added: places among the rows, and ids, of the items of histories that were added after training, which
            `unknown` counts, too.
    """

    items: np.ndarray
    offsets: np.ndarray
    unknown: np.ndarray
    added: tuple[np.ndarray, np.ndarray] = (_NOTHING, _NOTHING)

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
        """(place in `rows`, item) of every item of some rows, added ones among them, in order of rows."""
        length = self.lengths[rows]
        place = np.repeat(np.arange(len(rows)), length)
        within = np.arange(len(place)) - np.repeat(np.cumsum(length) - length, length)
        item = self.items[self.offsets[rows][place] + within]
        if not len(self.added[0]):
            return place, item
        place_of = np.full(len(self), -1)
        place_of[rows] = np.arange(len(rows))
        more = place_of[self.added[0]]
        place, item = np.append(place, more[more >= 0]), np.append(item, self.added[1][more >= 0])
        order = np.argsort(place, kind="stable")
        return place[order], item[order]


class ItemIds:
    """Tokens of items -> their ids.

    Args:
        tokens: (V,) token of each internal id, padding first.

    Attributes:
        known: V; ids from here on are of items added later.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self.known = len(tokens)
        self._tokens = np.asarray(tokens, dtype=object)
        self._of_token = {token: number for number, token in enumerate(self._tokens.tolist()) if number}

    @functools.cached_property
    def _index(self) -> pd.Index:
        return pd.Index(self._tokens[1:])

    def __contains__(self, token: str) -> bool:
        return token in self._of_token

    def id_of(self, token: str) -> int:
        """Its id; 0 where there is no such item."""
        return self._of_token.get(token, 0)

    def add(self, tokens: Sequence[str]) -> None:
        """Give more items the ids that follow; none of them may be there already."""
        first = len(self._tokens)
        self._of_token.update({token: first + number for number, token in enumerate(tokens)})
        self._tokens = np.concatenate((self._tokens, np.array(tokens, dtype=object)))
        self.__dict__.pop("_index", None)

    def of(self, tokens: pyarrow.Array) -> np.ndarray:
        """Ids (N,) int64 of a column of text or whole numbers without nulls; 0 where there is no such item."""
        if not len(tokens):
            return _NOTHING
        if not pyarrow.types.is_dictionary(tokens.type):
            tokens = pyarrow.compute.dictionary_encode(tokens)
        names = tokens.dictionary.cast(pyarrow.string()).to_numpy(zero_copy_only=False)
        ids = self._index.get_indexer(names).astype(np.int64) + 1
        return ids[tokens.indices.to_numpy(zero_copy_only=False)]

    def of_list(self, tokens: Iterable[str]) -> np.ndarray:
        """Ids (N,) int64 of tokens; 0 where there is no such item."""
        find = self._of_token.get
        return np.array([find(token, 0) for token in tokens], dtype=np.int64)


def is_token(value: Any) -> bool:
    """Whether a value may be a token: text or a whole number."""
    return isinstance(value, (str, int, np.integer)) and not isinstance(value, bool)


def is_list(value: Any) -> bool:
    """Whether a value is a list of something: a sequence or an array of one dimension, and no text."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))


def token_lists(histories: Iterable[Sequence[Any]]) -> list[list[str]]:
    """Python lists of tokens, text or whole numbers, as lists of text.

    Raises:
        UserError: a history is no list, or an item of it no token.
    """
    if isinstance(histories, (str, bytes)) or not isinstance(histories, Iterable):
        raise UserError(f"histories are {_short(histories)}; they must be a list of histories: [['a', 'b'], ['c']]")
    rows = []
    for number, history in enumerate(histories):
        if not is_list(history):
            hint = "; one history is a list in a list: [['a', 'b']]" if is_token(history) else ""
            raise UserError(
                f"history {number} is {_short(history)}; it must be a list of item tokens, oldest first{hint}"
            )
        if set(map(type, history)) <= {str}:
            rows.append(list(history))
            continue
        for item in history:
            if not is_token(item):
                raise UserError(
                    f"history {number} has the item {_short(item)}; items are tokens: text or whole numbers"
                )
        rows.append([str(item) for item in history])
    return rows


def _short(value: Any) -> str:
    """A value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_text_type(kind: pyarrow.DataType) -> bool:
    """Whether a column's values are text, in any of Arrow's layouts or in a dictionary."""
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    types = pyarrow.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_token_type(kind: pyarrow.DataType) -> bool:
    """Whether a column's values are tokens: text or whole numbers, as they are or in a dictionary."""
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    return is_text_type(kind) or bool(pyarrow.types.is_integer(kind))


def is_list_type(kind: pyarrow.DataType) -> bool:
    """Whether a column's values are lists."""
    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def encode(histories: pyarrow.Array, ids: ItemIds, unknown: Unknown = "skip", first_row: int = 0) -> EncodedHistories:
    """Histories in internal ids.

    Args:
        histories: (B,) lists of tokens; a null list is an empty one.
        ids: the run's items.
        unknown: skip leaves items out that the model does not know; refuse refuses them.
        first_row: number of the first row, for messages.

    Raises:
        UserError: an item is null, or unknown where that is refused.
    """
    kind = histories.type
    if not is_list_type(kind) or not is_token_type(kind.value_type):
        raise UserError(f"histories are {kind}; they must be lists of text or of whole numbers")
    lengths = pyarrow.compute.list_value_length(histories).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = histories.flatten()
    if flat.null_count:
        place = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        raise UserError(f"the history in row {first_row + row + 1} has an item that is null")
    return _encoded(ids.of(flat), lengths, ids, unknown, first_row, lambda place: str(flat[place].as_py()))


def encode_lists(histories: Sequence[Sequence[str]], ids: ItemIds, unknown: Unknown = "skip") -> EncodedHistories:
    """`encode` for lists of text, as `token_lists` gives them."""
    lengths = np.array([len(history) for history in histories], dtype=np.int64)
    flat = [token for history in histories for token in history]
    return _encoded(ids.of_list(flat), lengths, ids, unknown, 0, flat.__getitem__)


def _encoded(
    found: np.ndarray,
    lengths: np.ndarray,
    ids: ItemIds,
    unknown: Unknown,
    first_row: int,
    token: Callable[[int], str],
) -> EncodedHistories:
    """Ids (N,), 0 where there is none, of rows (B,) that lie end to end; `token` says what stands in a place."""
    read = (found > 0) & (found < ids.known)
    if read.all():
        return EncodedHistories(found, _offsets(lengths), np.zeros(len(lengths), dtype=np.int64))
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    if settled_unknown(unknown) == "refuse":
        place = int(np.flatnonzero(~read)[0])
        why = "the run does not know" if found[place] == 0 else "was added after training, so the model cannot read it"
        raise UserError(
            f"the history in row {first_row + int(row_of[place]) + 1} has the item {token(place)!r}, which {why}; "
            "leave it out, or skip such items with unknown: skip"
        )
    counts = np.bincount(row_of[read], minlength=len(lengths))
    added = found >= ids.known
    return EncodedHistories(found[read], _offsets(counts), lengths - counts, (row_of[added], found[added]))


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)))
