"""How many different items a user is offered when the same model samples again and again.

DiffuRec, section 5.8 ("Visualization of Uncertainty"): x_0 is reversed for one sequence of Amazon Beauty from 100
different Gaussian noises, and "the number of unique items that are ranked in their top-20 reaches 643". A model without
noise gives the same 20 each time; 100 lists without a common item would hold 2,000. Here it is counted for every row:

    distinct = |union over samplings s of the first k items of the row under noise s|

Shapes: R rows, B rows of a batch, k cut-off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class SampledItems:
    """Different items of each row over several samplings.

    Attributes:
        distinct: (R,) different items among the first k of all samplings.
        listed: (R,) items of one list, which is what a model without noise comes to: k, fewer where fewer are ranked.
        samplings: how many there were.
    """

    distinct: np.ndarray
    listed: np.ndarray
    samplings: int

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.distinct)


def different_items(items: np.ndarray) -> np.ndarray:
    """Different items of each row, (B,); items (B, n), 0 for none."""
    ordered = np.sort(items, axis=1)
    new = ordered > 0
    new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    counts: np.ndarray = new.sum(1)
    return counts


def items_over_samplings(
    batches: Iterable[Any], rank: Callable[[Any, int], np.ndarray], seeds: Sequence[int]
) -> SampledItems:
    """Rank every batch once a seed, and count the different items of each row. Lists are kept of one batch at a time.

    Args:
        batches: of evaluation rows.
        rank: a batch and a seed of its noise -> (B, k) the best items of its rows, 0 where fewer are ranked.
        seeds: one a sampling, different ones.

    Raises:
        ValueError: no seed, or one twice, which would sample the same again.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be one or more different numbers, got {list(seeds)}")
    distinct: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    listed: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    for batch in batches:
        lists = [rank(batch, seed) for seed in seeds]
        distinct.append(different_items(np.concatenate(lists, axis=1)))
        listed.append((lists[0] > 0).sum(1))
    return SampledItems(np.concatenate(distinct), np.concatenate(listed), len(seeds))
