"""One worker's rows of a training batch, and what it must know of the others' rows.

Most of a loss is a mean over rows, which a worker can compute of its own. In-batch negatives are the targets of all
rows, and a step sampler that learns from losses learns from all of them: these ask for the whole batch. A process that
trains alone has no share, and gets back what it gave.

Shapes: B rows of the whole batch, b rows of this worker, P parts of rows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

Gather = Callable[[Tensor], list[Tensor]]
"""A tensor of every worker, in order of workers; the first dimension may differ."""


class BatchShare:
    """Which rows of a batch a worker has: rank, rank + workers, rank + 2 workers ...

    Striding spreads rows that were sorted by length evenly. A worker for whom no row is left computes the first row
    with weight 0, so that all workers go through the same steps.

    Args:
        rows: B.
        rank: this worker's number, from 0.
        workers: how many there are.
        gather: collects a tensor of every worker.
    """

    def __init__(self, rows: int, rank: int, workers: int, gather: Gather) -> None:
        self.rows, self.rank, self.workers, self._gather = rows, rank, workers, gather
        self.empty = rank >= rows
        self.places = torch.zeros(1, dtype=torch.int64) if self.empty else torch.arange(rank, rows, workers)

    @property
    def weight(self) -> float:
        """This worker's part of a mean over the rows of the batch."""
        return 0.0 if self.empty else len(self.places) / self.rows

    def whole(self, part: Tensor) -> Tensor:
        """A tensor of the whole batch, without gradient, of each worker's part.

        Args:
            part: (b, ...) of this worker's rows, or (P, ...) of parts of them.

        Returns:
            (B, ...) in the batch's order; parts come in order of workers.
        """
        part = part.detach()
        parts = self._gather(part[:0] if self.empty else part)
        joined = torch.cat(parts)
        counts = [len(range(rank, self.rows, self.workers)) for rank in range(self.workers)]
        if [len(one) for one in parts] != counts:
            return joined
        order = torch.cat([torch.arange(rank, self.rows, self.workers) for rank in range(self.workers)])
        return joined[torch.argsort(order).to(joined.device)]


_current: ContextVar[BatchShare | None] = ContextVar("batch_share", default=None)


def whole_batch(part: Tensor) -> Tensor:
    """What all workers have of the batch at hand (see :meth:`BatchShare.whole`); `part` itself for a single one."""
    share = _current.get()
    return part if share is None else share.whole(part)


@contextlib.contextmanager
def sharing(share: BatchShare | None) -> Iterator[None]:
    """Compute a batch's loss as one of several workers; None changes nothing."""
    token = _current.set(share)
    try:
        yield
    finally:
        _current.reset(token)
