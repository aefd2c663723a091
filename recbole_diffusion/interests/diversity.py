"""Picking items one by one so that a list covers several categories: ComiRec's aggregation (Cen et al., KDD 2020).

A list S of n items should score high and differ in category, f(u, i) = max_k v_k . e_i:

    Q(u, S) = sum_{i in S} f(u, i) + lambda sum_{i in S} sum_{j in S} [category(i) != category(j)].

Greedily, as in the published code, the next item is the one with the largest

    f(u, i) - c * (number of items picked already that have i's category).

c = 0 is the ranking by score. The paper's lambda counts each pair in both orders, so that c = 2 lambda gives the same
next item: what the other items add is the same for all candidates.

Shapes: B rows, N candidates, n picked.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def controllable_aggregation(scores: Tensor, categories: Tensor, n_picked: int, coefficient: float) -> Tensor:
    """Pick items greedily by score and by how many of their category are picked already.

    Args:
        scores: (B, N) f(u, i); -inf for items that must not be picked, as long as n_picked others are left.
        categories: (N,), or (B, N) where the candidates of the rows differ; integers from 0.
        n_picked: n, at most N.
        coefficient: c; 0 or more.

    Returns:
        (B, n) places of the picked items in `scores`, first picked first; ties go to the first place.

    Raises:
        ValueError: more picks than candidates, or a negative coefficient.
    """
    rows, candidates = scores.shape
    if not 1 <= n_picked <= candidates:
        raise ValueError(f"n_picked is {n_picked}; it must lie in 1..{candidates}, the number of candidates")
    if coefficient < 0:
        raise ValueError(f"coefficient is {coefficient}; it must be 0 or more")
    categories = categories.expand(rows, candidates)
    left = scores.clone()
    seen = scores.new_zeros(rows, int(categories.max()) + 1)  # times c, how often each category was picked
    picked = torch.empty(rows, n_picked, dtype=torch.long, device=scores.device)
    for place in range(n_picked):  # each pick depends on those before it
        best = (left - seen.gather(1, categories)).argmax(1, keepdim=True)
        picked[:, place : place + 1] = best
        left.scatter_(1, best, -math.inf)
        seen.scatter_add_(1, categories.gather(1, best), torch.full_like(best, 1, dtype=seen.dtype) * coefficient)
    return picked
