"""The table of item embeddings: how it starts, and what gradient looking items up gives it.

    dense    every look-up writes a gradient of the whole table, as torch does
    joined   look-ups give their rows alone, which are added to the one dense gradient of a loss over all items
    rows     look-ups give their rows alone and so does the loss: the gradient is a sparse tensor

With 1,000,000 items of 128 numbers a gradient of the whole table takes half a gigabyte, however few items were read.

Shapes: D embedding, V items (row 0 is padding).
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

TableGradient = Literal["dense", "joined", "rows"]


class ItemTable(nn.Embedding):
    """An embedding (V, D) that knows its gradient.

    `sparse`, which DistributedDataParallel reads, says that the gradient as a whole is sparse; `sparse_look_ups` that
    a look-up's part of it is.
    """

    def __init__(self, n_items: int, hidden_size: int, gradient: TableGradient = "dense") -> None:
        super().__init__(n_items, hidden_size)
        self.gradient = gradient
        self.sparse, self.sparse_look_ups = gradient == "rows", gradient != "dense"

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of ids (...), (..., D)."""
        return functional.embedding(ids, self.weight, sparse=self.sparse_look_ups)


def item_table(
    n_items: int, hidden_size: int, item_init_std: float | None, gradient: TableGradient = "dense"
) -> ItemTable:
    """An embedding (V, D) drawn from N(0, std^2).

    Args:
        n_items: V.
        hidden_size: D.
        item_init_std: the standard deviation; None for sqrt(2 / D), Kaiming's, which the code of REMI uses (0.177 for
            D = 64).
        gradient: what looking items up gives.

    Raises:
        ValueError: a negative deviation.
    """
    if item_init_std is not None and item_init_std < 0.0:
        raise ValueError(f"item_init_std is {item_init_std}; it must be 0 or more, or ~ for sqrt(2 / hidden_size)")
    table = ItemTable(n_items, hidden_size, gradient)
    nn.init.normal_(table.weight, std=math.sqrt(2 / hidden_size) if item_init_std is None else item_init_std)
    return table
