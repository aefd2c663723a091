"""Interests by a rule, without parameters: the latest items of a history.

    g = F(S[-K:])                                                                     (DimeRec, section 4.2, Eq. 15)

Slot k holds the item k places before the last, so a slot means the same in a short history as in a long one. A history
of n < K items has n interests; what stands in the other slots is the first one's vector, marked in ``valid``, as in all
extractors.

Shapes: B rows, L history, K interests, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.interests.multi_interest import Interests


class LatestItems(nn.Module):
    """The K latest items, the last one first.

    Args:
        n_interests: K.

    Raises:
        ValueError: K below 1.
    """

    def __init__(self, n_interests: int) -> None:
        super().__init__()
        if n_interests < 1:
            raise ValueError(f"n_interests is {n_interests}; it must be 1 or more")
        self.n_interests = n_interests

    def forward(self, items: Tensor, lengths: Tensor) -> Interests:
        """Interests of embedded histories (B, L, D) with `lengths` (B,) real items, at least 1 each."""
        back = torch.arange(self.n_interests, device=items.device)
        valid = back < lengths[:, None]
        places = lengths[:, None] - 1 - torch.where(valid, back, 0)
        vectors = items.gather(1, places[:, :, None].expand(-1, -1, items.shape[2]))
        weights = functional.one_hot(places, items.shape[1]).to(torch.float32)
        return Interests(vectors, weights, valid)
