"""Groups of evaluation rows: by how frequent the asked item is, and by how long the history is.

    head, long tail   the 20 % of items that train most often, and the others (DiffuRecSys, section 6.5)
    history length    five groups between the percentiles 20, 40, 60 and 80 of the rows' lengths (the same section)

A row with several targets belongs to head and long tail with the targets that are of each: hits, ideal and number of
targets are then those of the group alone, as if nothing else had been asked for.

Shapes: R rows, T targets of all rows, V items (0 is padding), K largest cut-off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recbole_diffusion.evaluation.metrics import Ranking


@dataclass(frozen=True)
class RankedTargets:
    """Where the targets of some rows stand.

    Attributes:
        targets: (T,) item ids, those of a row side by side.
        ranks: (T,) rank of each among all items, from 1; 0 where it was not ranked.
        rows: (T,) the row of each, in order.
    """

    targets: np.ndarray
    ranks: np.ndarray
    rows: np.ndarray

    def where(self, chosen: np.ndarray) -> RankedTargets:
        """The targets of a mask (T,)."""
        return RankedTargets(self.targets[chosen], self.ranks[chosen], self.rows[chosen])

    def ranking(self, k: int, n_items: int, label_repeats: bool) -> tuple[Ranking, np.ndarray]:
        """The k first places of the rows that have a target, with other items than these at all other places.

        Args:
            k: K.
            n_items: V.
            label_repeats: the key of that name.

        Returns:
            The ranking of the rows that have a target; which rows these are, ascending.
        """
        rows, place, counts = np.unique(self.rows, return_inverse=True, return_counts=True)
        items = np.full((len(rows), k), n_items, dtype=np.int64)
        near = (self.ranks > 0) & (self.ranks <= k)
        items[place[near], self.ranks[near] - 1] = self.targets[near]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        return Ranking(items, self.targets, offsets, label_repeats), rows


def head_items(counts: np.ndarray, share: float) -> np.ndarray:
    """(V,) whether an item is among the most frequent ones: `share` of all items, rounded, one at least.

    Among equally frequent ones the item that appears first in the data, the lower id, goes first.

    Args:
        counts: (V,) how often each trains.
        share: above 0, below 1.
    """
    number = max(1, round(share * (len(counts) - 1)))
    head = np.zeros(len(counts), dtype=bool)
    head[1 + np.argsort(-counts[1:], kind="stable")[:number]] = True
    return head


def length_groups(lengths: np.ndarray, number: int) -> np.ndarray:
    """The group of each row, 0 for the shortest: group g has lengths above percentile g and up to g + 1 of `number`.

    Rows of one length stay together, so that groups are of unequal size, and some empty, where many rows are.

    Args:
        lengths: (R,).
        number: of groups.
    """
    inner = np.quantile(lengths, np.arange(1, number) / number, method="inverted_cdf")
    groups: np.ndarray = np.searchsorted(inner, lengths, side="left")
    return groups


def span(values: Sequence[int] | np.ndarray) -> str:
    """The least and the most of whole numbers, as ``3-7`` or ``3``."""
    low, high = int(np.min(values)), int(np.max(values))
    return str(low) if low == high else f"{low}-{high}"
