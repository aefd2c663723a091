"""Items that are not to be recommended, to anybody or to single histories, beside those of the histories themselves.

Shapes: B histories, E items for all, b rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.histories import ItemIds, Unknown, is_list, is_token

Places = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ExcludedItems:
    """Ids of what is left out.

    Attributes:
        for_all: (E,) ids.
        of_row: (B,) ids for each history; None where there are none of its own.
    """

    for_all: np.ndarray
    of_row: list[np.ndarray] | None = None

    @classmethod
    def of(cls, exclude: Sequence[Any] | None, rows: int, ids: ItemIds, unknown: Unknown) -> ExcludedItems:
        """From what a person gives: tokens for all histories, or a list of tokens for each.

        An item that the run does not know cannot be recommended anyhow: it is passed over, or refused with `refuse`.

        Args:
            exclude: tokens, or B lists of tokens (None for an empty one); None for nothing.
            rows: B.
            ids: the run's items.
            unknown: what is done about unknown items.

        Raises:
            UserError: it is neither, or an item is unknown and that is refused.
        """
        if exclude is None or (is_list(exclude) and len(exclude) == 0):
            return cls(np.zeros(0, dtype=np.int64))
        if not is_list(exclude):
            raise UserError(f"exclude is {exclude!r}; it must be a list of item tokens, or one such list a history")
        if all(map(is_token, exclude)):
            return cls(_ids(exclude, ids, unknown, "exclude"))
        if len(exclude) != rows:
            raise UserError(
                f"exclude has {len(exclude)} lists for {rows} histories; give one for each, or plain tokens"
            )
        of_row = []
        for number, tokens in enumerate(exclude):
            if tokens is not None and not (is_list(tokens) and all(map(is_token, tokens))):
                raise UserError(f"exclude of history {number} is {tokens!r}; it must be a list of item tokens")
            of_row.append(_ids(() if tokens is None else tokens, ids, unknown, f"exclude of history {number}"))
        return cls(np.zeros(0, dtype=np.int64), of_row)

    def pairs(self, rows: np.ndarray, seen: Places | None) -> Places | None:
        """Place among the rows (b,) of a batch, and item, of all that is left out; None for nothing.

        Args:
            rows: numbers of histories.
            seen: such pairs that are left out as well.
        """
        parts = [] if seen is None else [seen]
        if len(self.for_all):
            places = np.repeat(np.arange(len(rows)), len(self.for_all))
            parts.append((places, np.tile(self.for_all, len(rows))))
        if self.of_row is not None:
            own = [self.of_row[row] for row in rows]
            places = np.repeat(np.arange(len(rows)), [len(items) for items in own])
            parts.append((places, np.concatenate(own)))
        if len(parts) < 2:
            return parts[0] if parts else None
        return np.concatenate([place for place, _ in parts]), np.concatenate([item for _, item in parts])


def _ids(tokens: Sequence[Any], ids: ItemIds, unknown: Unknown, what: str) -> np.ndarray:
    found = ids.of_list(map(str, tokens))
    if unknown == "refuse" and not found.all():
        token = tokens[int(np.flatnonzero(found == 0)[0])]
        raise UserError(f"{what} has the item {token!r}, which the run does not know; leave it out, or skip such items")
    return found[found > 0]
