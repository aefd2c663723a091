"""Histories kept once: every interaction of every user, end to end in order of time, and examples as positions in them.

RecBole writes every prefix of every history into a padded row of its own, for every field: memory and time grow with
interactions x length. Here an example is one number, the position of its target::

    columns["item_id"]   3 7 7 2 | 5 1 | 4 4 9 ...      user u owns [offsets[u], offsets[u + 1])
                               ^ target                   history: the (at most L) items before it, of the same user

and a batch is gathered from positions when it is needed. An example may have several targets, those from `target` up to
`stop` (evaluation by user split), which lie side by side because histories are in order of time.

Shapes: N interactions, U users (RecBole's internal ids, 0 is padding and owns nothing), R rows (examples), B batch,
L history, W width of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recbole_diffusion.data.stable_order import stable_order


def smallest_integer_type(largest: int) -> np.dtype:
    """The narrowest integer type that holds 0 .. `largest`: uint8, uint16, int32 or int64."""
    for kind in (np.uint8, np.uint16, np.int32):
        if largest <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


@dataclass(frozen=True)
class Histories:
    """Interactions by user, and of one user in order of time.

    Attributes:
        offsets: (U + 1,) int64; user u owns the interactions offsets[u] .. offsets[u + 1] - 1.
        columns: name of a field -> (N,) or (N, ...); token fields in the narrowest integer type.
        place: (N,) rank of each interaction in the order of time of all users; equal times in the order of the file
            (with `time_precision: float32` by user, then in the order of the file, as in RecBole). Only splitting needs
            it; afterwards it may be empty.
    """

    offsets: np.ndarray
    columns: Mapping[str, np.ndarray]
    place: np.ndarray

    def __len__(self) -> int:
        """Number of interactions."""
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """(U,) interactions of each user."""
        return np.diff(self.offsets)

    def users(self, positions: np.ndarray) -> np.ndarray:
        """The owner of each position, (R,) int64."""
        return np.searchsorted(self.offsets, positions, side="right") - 1

    def without_place(self) -> Histories:
        """The same histories for use after splitting: `place` is empty."""
        return Histories(self.offsets, self.columns, np.empty(0, dtype=self.place.dtype))

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = [self.offsets, self.place, *self.columns.values()]
        return sum(array.nbytes for array in arrays)


def group_by_user(users: np.ndarray, columns: Mapping[str, np.ndarray], n_users: int) -> Histories:
    """Sort interactions that are in order of time by user, the order of time kept.

    Args:
        users: (N,) user id of each interaction, interactions in order of time.
        columns: the other fields, same order.
        n_users: number of user ids, the padding id 0 included.
    """
    counts = np.bincount(users, minlength=n_users)
    offsets = np.zeros(n_users + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    order = stable_order(users).astype(smallest_integer_type(len(users)))
    return Histories(offsets, {name: values[order] for name, values in columns.items()}, order)


@dataclass(frozen=True)
class Rows:
    """Examples. Row r asks for the interactions target[r] .. stop[r] - 1, given those of its user before target[r].

    Attributes:
        target: (R,) position of the first target.
        stop: (R,) position after the last target; None where every row has one target.
    """

    target: np.ndarray
    stop: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.target)

    def take(self, index: np.ndarray | slice) -> Rows:
        """The rows of an index, a mask or a slice."""
        return Rows(self.target[index], None if self.stop is None else self.stop[index])


@dataclass(frozen=True)
class Split:
    """Rows of training, validation and test."""

    train: Rows
    valid: Rows
    test: Rows


def all_rows(histories: Histories) -> Rows:
    """Every interaction that has a history: all but the first of each user; in order of user and time."""
    first = np.zeros(len(histories), dtype=bool)
    begins = histories.offsets[:-1][histories.lengths > 0]
    first[begins] = True
    return Rows(np.flatnonzero(~first).astype(smallest_integer_type(len(histories))))


def history_spans(histories: Histories, target: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the history of each target begins, and its length: at most the `limit` interactions before it.

    Args:
        histories: the interactions.
        target: (B,) positions.
        limit: L, the longest history.

    Returns:
        begin (B,) int64, length (B,) int64; a user's first interaction has length 0.
    """
    target = target.astype(np.int64)
    begin = np.maximum(histories.offsets[histories.users(target)], target - limit)
    return begin, target - begin


def gather(column: np.ndarray, begin: np.ndarray, length: np.ndarray, width: int) -> np.ndarray:
    """Histories of one field side by side, right-padded with zeros as RecBole pads.

    Args:
        column: (N, ...) a field.
        begin: (B,) first position of each history.
        length: (B,) their lengths, none above `width`.
        width: W.

    Returns:
        (B, W, ...) in the column's type.
    """
    inside = np.arange(width) < length[:, None]
    index = np.where(inside, begin[:, None] + np.arange(width), 0)
    values = column[index] if len(column) else np.zeros((*index.shape, *column.shape[1:]), column.dtype)
    values[~inside] = 0
    return values
