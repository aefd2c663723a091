"""The table of item embeddings, and how it starts.

Shapes: D embedding, V items (row 0 is padding).
"""

from __future__ import annotations

import math

from torch import nn


def item_table(n_items: int, hidden_size: int, item_init_std: float | None) -> nn.Embedding:
    """An embedding (V, D) drawn from N(0, std^2).

    Args:
        n_items: V.
        hidden_size: D.
        item_init_std: the standard deviation; None for sqrt(2 / D), Kaiming's, which the code of REMI uses (0.177 for
            D = 64).

    Raises:
        ValueError: a negative deviation.
    """
    if item_init_std is not None and item_init_std < 0.0:
        raise ValueError(f"item_init_std is {item_init_std}; it must be 0 or more, or ~ for sqrt(2 / hidden_size)")
    table = nn.Embedding(n_items, hidden_size)
    nn.init.normal_(table.weight, std=math.sqrt(2 / hidden_size) if item_init_std is None else item_init_std)
    return table
