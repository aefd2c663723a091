"""Item pruning: the history items that matter most to an interest, and that alone guide its refinement.

    C_k = { h_j : rank of a_kj among the n items of the history < ceil(gamma n) }          (DMI, section 3.2, Eq. 12)

a_kj is the weight with which interest k took item j, gamma the kept share. The paper lost the formula of the number
kept; "gamma controls the selected proportion, n is the actual length of the history" leaves ceil(gamma n), at least
one (docs/decisions/079-dmi-denoiser.md). What is kept is a mask, not a gathered copy: interests of one history then
share its tokens, and no row's result depends on another row's length.

Shapes: B rows, K interests, L history.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROUNDING = 1e-9  # 0.07 * 100 is 7.000000000000001 in floating point, and means 7


def kept_count(lengths: Tensor, keep_ratio: float) -> Tensor:
    """How many items stay of histories of these lengths: ceil(keep_ratio n), at least 1; (B,) long.

    Args:
        lengths: (B,) n, the real lengths.
        keep_ratio: gamma, above 0 and at most 1.

    Raises:
        ValueError: keep_ratio outside (0, 1].
    """
    if not 0.0 < keep_ratio <= 1.0:
        raise ValueError(f"keep_ratio is {keep_ratio}; it must be above 0 and at most 1 (1 keeps every item)")
    return (lengths.double() * keep_ratio - _ROUNDING).ceil().long().clamp_min(1)


def kept_items(weights: Tensor, lengths: Tensor, keep_ratio: float) -> Tensor:
    """Which items guide which interest: True for the ceil(keep_ratio n) largest weights among the n real items.

    Items of equal weight rank by place, the oldest first, so the result is one for any batch and device. Nothing is
    differentiable here.

    Args:
        weights: (B, K, L) each interest's weights over the items, padding after the n-th place (any value).
        lengths: (B,) n, 1 .. L.
        keep_ratio: gamma, above 0 and at most 1; 1 keeps every real item (DMI's ablation "-IP").

    Returns:
        (B, K, L) bool.

    Raises:
        ValueError: keep_ratio outside (0, 1].
    """
    place = torch.arange(weights.shape[-1], device=weights.device)
    count = kept_count(lengths, keep_ratio)
    real = (place < lengths[:, None])[:, None]
    if keep_ratio == 1.0:
        return real.expand_as(weights)
    masked = weights.detach().masked_fill(~real, -torch.inf)
    if torch.compiler.is_compiling():  # ONNX has no stable sort, and torch writes its float64 numbers as float32
        counts = [max(1, math.ceil(n * keep_ratio - _ROUNDING)) for n in range(weights.shape[-1] + 1)]
        return (ranks_by_comparison(masked) < torch.tensor(counts, device=place.device)[lengths][:, None, None]) & real
    ranked = masked.argsort(dim=-1, descending=True, stable=True)
    kept_ranks = (place < count[:, None])[:, None].expand_as(ranked)
    return torch.zeros_like(kept_ranks).scatter(-1, ranked, kept_ranks)


def ranks_by_comparison(weights: Tensor) -> Tensor:
    """The rank of each weight (..., L) in its row, from 0, the largest first, equal ones by place: (..., L) long.

    L^2 comparisons and no sort, for programs that are traced.
    """
    width = weights.shape[-1]
    other, own = weights[..., None, :], weights[..., :, None]
    earlier = torch.ones(width, width, dtype=torch.bool, device=weights.device).tril(-1)
    return ((other > own) | ((other == own) & earlier)).sum(-1)
