"""The processes that train one model together, and what they tell each other.

A group of one says nothing to anybody: a usual run has it. A larger one is made inside a process group of
torch.distributed (gloo between CPUs, nccl between GPUs), which whoever starts the processes sets up (Ray Train).
Every method is called by all workers, in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


class WorkerGroup:
    """Workers 0 .. size - 1; the first one writes the run's folder.

    Attributes:
        rank: this worker's number.
        size: how many there are.
    """

    rank = 0
    size = 1

    @classmethod
    def joined(cls) -> WorkerGroup:
        """The group of the process group that this process belongs to; a group of one where there is none."""
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            return _SeveralWorkers()
        return cls()

    @property
    def first(self) -> bool:
        """Whether this worker writes checkpoints, results and the log."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every worker's tensor (any shape, the same for all), in place."""
        return tensor

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        """Every worker's tensor, in order of workers; the first dimension may differ."""
        return [tensor]

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, in order of workers, at the first worker; an empty list at the others."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The first worker's value."""
        return value

    def broadcast_weights(self, model: torch.nn.Module) -> None:
        """Give all workers the first one's weights and buffers."""


class _SeveralWorkers(WorkerGroup):
    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        # objects travel through main memory, whatever tensors do
        self._objects = None if distributed.get_backend() == "gloo" else distributed.new_group(backend="gloo")

    def sum(self, tensor: Tensor) -> Tensor:
        distributed.all_reduce(tensor)
        return tensor

    def gather_tensors(self, tensor: Tensor) -> list[Tensor]:
        counts = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        counts[self.rank] = len(tensor)
        distributed.all_reduce(counts)
        rows = counts.tolist()
        padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in rows]
        distributed.all_gather(parts, padded)
        return [part[:count] for part, count in zip(parts, rows, strict=True)]

    def gather(self, value: Any) -> list[Any]:
        values: list[Any] | None = [None] * self.size if self.first else None
        distributed.gather_object(value, values, dst=0, group=self._objects)
        return values or []

    def broadcast(self, value: Any) -> Any:
        values = [value]
        distributed.broadcast_object_list(values, src=0, group=self._objects)
        return values[0]

    def broadcast_weights(self, model: torch.nn.Module) -> None:
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, src=0)


ALONE = WorkerGroup()
