"""Several interest vectors of one history, by self-attention.

ComiRec-SA (Cen et al., KDD 2020; DMI, Eq. 4 and 5):

    A = softmax_items(W_2 tanh(W_1 (e + P)^T)),   V = A e,

P learned positions, index 0 the oldest item, in the attention alone: the values e have none. Padding has weight 0.

Every extractor here and in `routing.py` is `(items (B, L, D), lengths (B,)) -> Interests`. Rows of `items` beyond a
history's length may hold anything finite. Results do not depend on how far a batch is padded.

Shapes: B rows, L history, K interests, D embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.linear import Linear

_LARGEST_POWER = 1e10


@dataclass(frozen=True)
class Interests:
    """What an extractor returns."""

    vectors: Tensor
    """(B, K, D)."""
    weights: Tensor
    """(B, K, L) the weight of each item in each interest, 0 on padding."""
    valid: Tensor | None = None
    """(B, K) False for an interest that the row does not have, whose vector and weights repeat the first one's; None
    where every row has all K."""


def real_items(lengths: Tensor, width: int) -> Tensor:
    """(B, L) True where a right-padded history of `lengths` (B,) has an item."""
    return torch.arange(width, device=lengths.device) < lengths[:, None]


class SelfAttentiveInterests(nn.Module):
    """ComiRec-SA's extractor.

    Args:
        dim: D.
        n_interests: K.
        max_length: longest history; positions are learned for so many.
        positions: whether the attention sees P.
        bias: whether W_1 and W_2 have biases (ComiRec's TensorFlow code has, the PyTorch code of REMI has not).
        attention_dim: width of the hidden layer; None for 4 D, as in the published codes.
    """

    def __init__(
        self,
        dim: int,
        n_interests: int,
        max_length: int,
        *,
        positions: bool = True,
        bias: bool = False,
        attention_dim: int | None = None,
    ) -> None:
        super().__init__()
        hidden = 4 * dim if attention_dim is None else attention_dim
        self.n_interests = n_interests
        self.positions = nn.Parameter(torch.empty(max_length, dim)) if positions else None
        self.hidden = Linear(dim, hidden, bias=bias)
        self.attention = Linear(hidden, n_interests, bias=bias)
        self.reset_parameters()

    def reset_parameters(self, kind: str = "kaiming") -> None:
        """Start anew.

        Args:
            kind: `kaiming` (REMI's code: normal, variance 2 / fan-in; for P the fan-in is that of its shape (1, L, D),
                which is L D) or `glorot` (TensorFlow's dense layers and variables: uniform, biases 0).
        """
        for layer in (self.hidden, self.attention):
            initialise(layer.weight, kind)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if self.positions is not None:
            initialise(self.positions.data[None] if kind == "kaiming" else self.positions.data, kind)

    def forward(self, items: Tensor, lengths: Tensor) -> Interests:
        """Interests of embedded histories (B, L, D) with `lengths` (B,) real items, at least 1 each."""
        real = real_items(lengths, items.shape[1])
        scores = self.scores(items, real).masked_fill(~real[:, :, None], -math.inf)
        weights = functional.softmax(scores, dim=1).transpose(1, 2)
        return Interests(torch.bmm(weights, items.to(weights.dtype)), weights)

    def scores(self, items: Tensor, real: Tensor) -> Tensor:
        """Attention before the softmax (B, L, K) in float32; what stands for padding, where `real` (B, L) is False,
        means nothing. A CPU computes real items alone: most of a batch is padding, and tanh over 4 D is what costs. (A
        traced program computes all: it has no sizes that depend on values.)"""
        rows, width, dim = items.shape
        read = items if self.positions is None else items + self.positions[:width]
        read = read.reshape(rows * width, dim)
        only_real = items.device.type == "cpu" and not torch.compiler.is_compiling()
        place = real.flatten().nonzero().squeeze(1) if only_real else None
        if place is not None:
            read = read.index_select(0, place)
        scores = self.attention(torch.tanh(self.hidden(read))).float()
        if place is not None:
            scores = scores.new_zeros(rows * width, self.n_interests).index_copy(0, place, scores)
        return scores.view(rows, width, self.n_interests)


def initialise(weight: Tensor, kind: str) -> None:
    """Fill `weight` in place: `kaiming` (normal, variance 2 / fan-in) or `glorot` (uniform), by torch's fan-in.

    Raises:
        ValueError: another name.
    """
    if kind == "kaiming":
        nn.init.kaiming_normal_(weight)
    elif kind == "glorot":
        nn.init.xavier_uniform_(weight)
    else:
        raise ValueError(f"initialisation '{kind}' does not exist; use kaiming or glorot")


def select_interest(vectors: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The interest that training reads out: the one with the largest inner product with the target (DMI, Eq. 14).

    Args:
        vectors: (B, K, D).
        target: (B, D) the target's embedding.

    Returns:
        index (B,), which carries no gradient, and vector (B, D), which does; ties go to the first.
    """
    with torch.no_grad():
        index = torch.einsum("bkd,bd->bk", vectors, target.to(vectors.dtype)).argmax(1)
    return index, vectors.gather(1, index[:, None, None].expand(-1, 1, vectors.shape[2])).squeeze(1)


def _signed_power(x: Tensor, power: float) -> Tensor:
    """sign(x) |x|^p, p at least 1, finite in value and slope.

    Above |x|^p = C = 1e10 it goes on as C (1 + p log(|x| / C^(1/p))), which has the same value and slope there. To a
    softmax that is the same: beyond C different float32 numbers lie far more than its range apart in both forms.
    """
    limit = _LARGEST_POWER ** (1 / power)
    size = x.abs()
    beyond = (size.clamp_min(limit) / limit).log()
    return x.sign() * (size.clamp_max(limit) ** power + min(_LARGEST_POWER * power, 1e30) * beyond)


def label_attention(vectors: Tensor, target: Tensor, power: float, valid: Tensor | None = None) -> Tensor:
    """MIND's label-aware attention, u = V^T softmax((V e_a)^p) (Li et al., CIKM 2019).

    Negative products keep their sign under the power, so that a larger product never has the smaller weight. With p
    without bound the weights go to the best interest where its product is above 1; products below 1 go to 0 and weigh
    alike.

    Args:
        vectors: (B, K, D).
        target: (B, D) the target's embedding.
        power: p; 0 averages the interests, inf selects the best one (`select_interest`), else at least 1.
        valid: (B, K) interests that the row has; None for all.

    Returns:
        (B, D).

    Raises:
        ValueError: p negative or between 0 and 1, where the slope at 0 is infinite.
    """
    if power < 0 or 0 < power < 1:
        raise ValueError(f"label attention's power is {power}; it must be 0, at least 1, or infinite")
    if math.isinf(power):
        return select_interest(vectors, target)[1]
    products = torch.einsum("bkd,bd->bk", vectors, target.to(vectors.dtype)).float()
    logits = _signed_power(products, power) if power else torch.zeros_like(products)
    if valid is not None:
        logits = logits.masked_fill(~valid, -math.inf)
    weights = functional.softmax(logits, dim=1)
    return torch.einsum("bk,bkd->bd", weights, vectors.to(weights.dtype))
