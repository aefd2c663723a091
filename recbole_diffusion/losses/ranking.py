"""Ranking losses over the item catalogue.

Full softmax cross-entropy (DiffuRec, Eq. 18 and 19):  L = -log( exp(u . e_a) / sum_v exp(u . e_v) ).

Shapes: B rows, D embedding, V items (row 0 is padding).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from recbole_diffusion.linear import linear


def full_softmax(
    user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, *, include_padding: bool = True
) -> Tensor:
    """Cross-entropy of each row over the whole catalogue.

    Args:
        user_vectors: (B, D).
        item_vectors: (V, D), row 0 the padding item.
        targets: (B,) item ids, 1 .. V-1.
        include_padding: whether row 0 competes as a class, as it does in DiffuRec's code and RecBole's SASRec.

    Returns:
        (B,) losses, not averaged.
    """
    if not include_padding:
        item_vectors, targets = item_vectors[1:], targets - 1
    return functional.cross_entropy(linear(user_vectors, item_vectors), targets, reduction="none")
