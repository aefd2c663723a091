"""Several interest vectors of one history, by dynamic routing between capsules (Sabour et al. 2017).

Every item j votes for interest k with u_kj, and three rounds of

    c = softmax(b),  s_k = sum_j c_kj u_kj,  v_k = |s_k|^2 / (1 + |s_k|^2) * s_k / sqrt(|s_k|^2 + 1e-9),
    b_kj += u_kj . v_k

(the last without the last step) agree on what each interest holds. Votes carry gradient in the last round alone.

    DynamicRouting  u_kj = W_kj e_j, a matrix per interest and place of the history; b starts at 0   (ComiRec-DR)
    SharedRouting   u_kj = S e_j, one matrix; b starts at random, or all interests would be equal    (MIND)

The softmax goes over interests, as in the papers and in ComiRec's code, or over items, as in REMI's code. Padding is
zeroed after it; over items, padding thus takes a share of the mass, which grows with the length that histories are
padded to. The share is computed from `max_length`, not from the batch's width: results do not depend on the batch.

Shapes: B rows, L history as batched, S = max_length, K interests, D embedding.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.diffusion.noise import GlobalNoise, NoiseSource
from recbole_diffusion.interests.multi_interest import Interests, initialise, real_items
from recbole_diffusion.linear import Linear

RoutingSoftmax = Literal["interest", "item"]
ITERATIONS = 3
_EPSILON = 1e-9


def squash(vectors: Tensor) -> Tensor:
    """Shrink (..., D) to a norm below 1, the direction kept: |s|^2 / (1 + |s|^2) * s / sqrt(|s|^2 + 1e-9)."""
    squares = vectors.square().sum(-1, keepdim=True)
    return vectors * (squares / (1 + squares) * torch.rsqrt(squares + _EPSILON))


def route(
    votes: Tensor,
    logits: Tensor,
    lengths: Tensor,
    *,
    softmax: RoutingSoftmax,
    iterations: int = ITERATIONS,
    valid: Tensor | None = None,
) -> Interests:
    """Agree on interests, in float32 under autocast too: half precision has no 1e-9 and `squash` no gradient without.

    Args:
        votes: (B, K, L, D), or (B, 1, L, D) where all interests get the same votes.
        logits: b at the start over all S positions, padding included, (B, K, S) with S at least L. No gradient.
        lengths: (B,) real items.
        softmax: over `interest` or `item`.
        iterations: rounds.
        valid: (B, K) interests that take part; None for all.
    """
    kind = votes.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return _routed(votes.float(), logits, lengths, softmax, iterations, valid)
    with torch.autocast(kind, enabled=False):
        return _routed(votes.float(), logits.float(), lengths, softmax, iterations, valid)


def _routed(
    votes: Tensor,
    logits: Tensor,
    lengths: Tensor,
    softmax: RoutingSoftmax,
    iterations: int,
    valid: Tensor | None,
) -> Interests:
    """The rounds of `route`."""
    width = votes.shape[2]
    padding = ~real_items(lengths, logits.shape[2])[:, None]  # (B, 1, S)
    # over items: what padding weighs never changes, as its votes are zero; one column stands for all of it
    pad_mass = torch.logsumexp(logits.masked_fill(~padding, -math.inf), dim=2, keepdim=True)
    logits, padding = logits[:, :, :width], padding[:, :, :width]
    held = votes.detach()

    def coupling() -> Tensor:
        if softmax == "interest":
            taking_part = logits if valid is None else logits.masked_fill(~valid[:, :, None], -math.inf)
            return functional.softmax(taking_part, dim=1).masked_fill(padding, 0.0)
        over = torch.cat((logits.masked_fill(padding, -math.inf), pad_mass), dim=2)
        return functional.softmax(over, dim=2)[:, :, :-1]

    for _ in range(iterations - 1):
        interests = squash(_gather(coupling(), held))
        logits = logits + _agreement(interests, held)
    weights = coupling()
    vectors = squash(_gather(weights, votes))
    if valid is not None:
        vectors = torch.where(valid[:, :, None], vectors, vectors[:, :1])
        weights = torch.where(valid[:, :, None], weights, weights[:, :1])
    return Interests(vectors, weights, valid)


def _gather(weights: Tensor, votes: Tensor) -> Tensor:
    """s (B, K, D) of c (B, K, L) and votes (B, K or 1, L, D)."""
    if votes.shape[1] == 1:
        return torch.bmm(weights, votes[:, 0])
    return torch.matmul(weights[:, :, None], votes).squeeze(2)


def _agreement(interests: Tensor, votes: Tensor) -> Tensor:
    """u . v (B, K, L) of interests (B, K, D) and votes (B, K or 1, L, D)."""
    if votes.shape[1] == 1:
        return torch.bmm(interests, votes[:, 0].transpose(1, 2))
    return torch.matmul(votes, interests[:, :, :, None]).squeeze(3)


def _masked(items: Tensor, lengths: Tensor) -> Tensor:
    return items.masked_fill(~real_items(lengths, items.shape[1])[:, :, None], 0.0)


def _checked_iterations(iterations: int) -> int:
    if iterations < 1:
        raise ValueError(f"routing_iterations is {iterations}; it must be 1 or more")
    return iterations


class DynamicRouting(nn.Module):
    """ComiRec-DR's extractor.

    Args:
        dim: D.
        n_interests: K.
        max_length: S, the longest history; every place has its own K D x D matrix.
        softmax: over `interest` or `item`.
        iterations: rounds.
    """

    def __init__(
        self,
        dim: int,
        n_interests: int,
        max_length: int,
        softmax: RoutingSoftmax = "interest",
        iterations: int = ITERATIONS,
    ) -> None:
        super().__init__()
        self.n_interests, self.max_length = n_interests, max_length
        self.softmax, self.iterations = softmax, _checked_iterations(iterations)
        self.votes = nn.Parameter(torch.empty(max_length, n_interests * dim, dim))
        self.reset_parameters()

    def reset_parameters(self, kind: str = "kaiming") -> None:
        """Start anew.

        Args:
            kind: `kaiming` (REMI's code: normal, variance 2 / fan-in, where the fan-in of shape (1, S, K D, D) is
                S K D D, so votes start near zero), `kaiming_per_item` (fan-in D, each matrix on its own) or `normal`
                (ComiRec's code: variance 1).
        """
        if kind == "kaiming":
            initialise(self.votes.data[None], "kaiming")
        elif kind == "kaiming_per_item":
            nn.init.normal_(self.votes, std=math.sqrt(2 / self.votes.shape[2]))
        elif kind == "normal":
            nn.init.normal_(self.votes)
        else:
            raise ValueError(f"initialisation '{kind}' does not exist; use kaiming, kaiming_per_item or normal")

    def forward(self, items: Tensor, lengths: Tensor) -> Interests:
        """Interests of embedded histories (B, L, D) with `lengths` (B,) real items, at least 1 each."""
        rows, width, dim = items.shape
        voted = torch.bmm(_masked(items, lengths).transpose(0, 1), self.votes[:width].transpose(1, 2))  # (L, B, K D)
        votes = voted.view(width, rows, self.n_interests, dim).permute(1, 2, 0, 3)
        logits = torch.zeros(rows, self.n_interests, self.max_length, device=items.device)
        return route(votes, logits, lengths, softmax=self.softmax, iterations=self.iterations)


class SharedRouting(nn.Module):
    """MIND's extractor (Li et al., CIKM 2019).

    Args:
        dim: D.
        n_interests: K.
        max_length: S, the longest history.
        softmax: over `interest` or `item`.
        iterations: rounds.
        init: b at the start, `random`: drawn at every call, or `fixed`: drawn once and kept, one for each interest
            and place.
        adaptive: a row of n items has max(1, min(K, log2 n)) interests, rounded down.
        relu_layer: a linear layer and ReLU after routing.
    """

    start: Tensor | None

    def __init__(
        self,
        dim: int,
        n_interests: int,
        max_length: int,
        softmax: RoutingSoftmax = "interest",
        iterations: int = ITERATIONS,
        *,
        init: Literal["random", "fixed"] = "random",
        adaptive: bool = False,
        relu_layer: bool = False,
    ) -> None:
        super().__init__()
        self.n_interests, self.max_length = n_interests, max_length
        self.softmax, self.iterations = softmax, _checked_iterations(iterations)
        self.adaptive, self.init = adaptive, init
        self.votes = Linear(dim, dim, bias=False)
        self.after = Linear(dim, dim, bias=False) if relu_layer else None
        self.register_buffer("start", torch.randn(n_interests, max_length) if init == "fixed" else None)
        self.reset_parameters()

    def reset_parameters(self, kind: str = "kaiming") -> None:
        """Start anew: `kaiming` (REMI's code) or `glorot` (ComiRec's); see `initialise`."""
        initialise(self.votes.weight, kind)
        if self.after is not None:
            initialise(self.after.weight, kind)

    def forward(self, items: Tensor, lengths: Tensor, noise: NoiseSource | None = None) -> Interests:
        """Interests of embedded histories (B, L, D) with `lengths` (B,) real items, at least 1 each.

        Args:
            items: (B, L, D).
            lengths: (B,).
            noise: where a random b comes from; None for torch's global stream.
        """
        rows = items.shape[0]
        if self.start is None:
            # all S places, whatever the batch's width: what a row gets must not depend on it
            source = GlobalNoise() if noise is None else noise
            drawn = source.normal((rows, self.max_length, self.n_interests), device=items.device)
            logits = drawn.transpose(1, 2)
        else:
            logits = self.start.expand(rows, -1, -1)
        votes = self.votes(_masked(items, lengths).flatten(0, 1)).view(rows, 1, *items.shape[1:])
        valid = None
        if self.adaptive:
            powers = 2 ** torch.arange(1, min(self.n_interests, 62) + 1, device=items.device)
            count = (powers <= lengths[:, None]).sum(1).clamp(1, self.n_interests)  # log2 n, rounded down
            valid = torch.arange(self.n_interests, device=items.device) < count[:, None]
        interests = route(votes, logits, lengths, softmax=self.softmax, iterations=self.iterations, valid=valid)
        if self.after is None:
            return interests
        vectors = functional.relu(self.after(interests.vectors.flatten(0, 1))).view_as(interests.vectors)
        return Interests(vectors, interests.weights, valid)
