"""Which evaluation rows a worker ranks: one block of neighbouring rows each, so that joining them keeps their order.

Rows keep the numbers that they have in the whole set, to which their noise belongs: what a row gets does not depend on
how many workers there are. Each worker reads only its own rows; where a loader samples candidates it runs through all
batches, so that every worker sees the candidates that a single one would, and ranks its own block of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from recbole_diffusion.training.worker_group import WorkerGroup


def block(size: int, workers: WorkerGroup) -> range:
    """A worker's block of `size` rows or batches; blocks differ by one at most."""
    return range(size * workers.rank // workers.size, size * (workers.rank + 1) // workers.size)


class OwnRows:
    """The batches of some neighbouring rows of a loader of histories.

    Args:
        loader: a `HistoryEvalLoader`.
        rows: their numbers.
    """

    def __init__(self, loader: Any, rows: range) -> None:
        self.loader, self.rows = loader, rows

    def __len__(self) -> int:
        """Number of batches."""
        return math.ceil(len(self.rows) / self.loader.step)

    def __iter__(self) -> Iterator[Any]:
        for begin in range(self.rows.start, self.rows.stop, self.loader.step):
            yield self.loader.collate_fn(np.arange(begin, min(begin + self.loader.step, self.rows.stop)))


def own_batches(loader: Any, workers: WorkerGroup) -> tuple[Any, int, range]:
    """What a worker evaluates.

    Args:
        loader: of evaluation rows.
        workers: the group that evaluates.

    Returns:
        Batches; the number of their first row; which of the batches to rank.
    """
    everything = range(len(loader))
    if workers.size == 1:
        return loader, 0, everything
    if hasattr(loader, "reads_any_rows"):
        rows = block(len(loader._dataset), workers)
        own = OwnRows(loader, rows)
        return own, rows.start, range(len(own))
    return loader, 0, block(len(loader), workers)
