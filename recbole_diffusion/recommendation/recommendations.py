"""What is recommended, and how much of the histories was read for it.

Shapes: B histories, k cut-off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recommendations:
    """What was recommended; unpacks into `items, scores`.

    Attributes:
        items: for each history its best items, best first; None where the history has no item that the model knows.
            Fewer than were asked for where fewer may be recommended.
        scores: their scores, as the model gives them. With several chains: that of the mean of the chains.
        unknown_items: items of histories that the model does not know, left out.
        without_history: histories that are answered with None.
        titles: the items' titles, None for an item without one; None where the data have no titles.
        unknown: by the number of a history (from 0), those of its items that the model does not know.
        cut_histories: histories of which the model reads only the latest items, since it reads no more.
    """

    items: list[list[str] | None]
    scores: list[list[float] | None]
    unknown_items: int
    without_history: int
    titles: list[list[str | None] | None] | None = None
    unknown: dict[int, list[str]] = field(default_factory=dict)
    cut_histories: int = 0

    def __iter__(self) -> Iterator[Any]:
        return iter((self.items, self.scores))

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class RankedHistories:
    """The best items of histories in internal ids.

    Attributes:
        items: (B, k) int32, best first; 0 where there are fewer.
        scores: (B, k) float32; -inf where `items` is 0.
        answered: (B,) whether the history has an item that the model knows.
        unknown: (B,) items of each history that the model does not know.
        cut: histories of which the model reads only the latest items.
    """

    items: np.ndarray
    scores: np.ndarray
    answered: np.ndarray
    unknown: np.ndarray
    cut: int = 0

    def __len__(self) -> int:
        return len(self.items)

    @property
    def sizes(self) -> np.ndarray:
        """(B,) how many items each history is answered with."""
        sizes: np.ndarray = (self.items > 0).sum(1)
        return sizes
