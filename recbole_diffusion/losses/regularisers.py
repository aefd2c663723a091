"""Penalties on what a model computes on the way.

Routing regularisation (REMI, Xie et al., RecSys 2023): A_k the attention of interest k over the S positions of a
history, C_k = A_k - mean(A_k) over all S,

    Cov = C C^T / D,   L_RR = sum_rows sum_k Cov_kk^2.

As A_k sums to 1, Cov_kk = (|A_k|^2 - 1/S) / D: interests that look at one item alone are punished. S is the padded
length, as in the published code; a padded row therefore keeps a rest of K ((1/n - 1/S) / D)^2 even where it is even.

Shapes: B rows, K interests, L history as batched, S history as padded.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor


def routing_regulariser(
    weights: Tensor,
    mask: Tensor | None = None,
    *,
    dim: int,
    padded_length: int | None = None,
    reduction: Literal["sum", "mean", "none"] = "sum",
) -> Tensor:
    """REMI's penalty on peaked attention.

    Args:
        weights: (B, K, L), zero on padding.
        mask: (B, L) True on real items: attention is centred over these alone; None: over all positions (the code).
        dim: D, what the covariance is divided by.
        padded_length: S; the batch may be trimmed below it without changing the result. None for L. Not with `mask`.
        reduction: `sum` over rows (the code, so that the weight of the term grows with the batch), `mean`, or `none`.

    Returns:
        A scalar, or (B,) with reduction `none`.

    Raises:
        ValueError: `padded_length` is below L, or comes with a mask.
    """
    weights = weights.float()
    width = weights.shape[-1]
    if mask is not None:
        if padded_length is not None:
            raise ValueError("attention is centred over the mask's items or over padded_length positions, not both")
        kept = mask[:, None].to(weights.dtype)
        mean = (weights * kept).sum(-1, keepdim=True) / kept.sum(-1, keepdim=True).clamp_min(1.0)
        squares = ((weights - mean) * kept).square().sum(-1)
    else:
        length = width if padded_length is None else padded_length
        if length < width:
            raise ValueError(f"padded_length is {length}; the weights already have {width} positions")
        mean = weights.sum(-1, keepdim=True) / length
        squares = (weights - mean).square().sum(-1) + (length - width) * mean.squeeze(-1).square()
    rows = (squares / dim).square().sum(-1)
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.mean()
