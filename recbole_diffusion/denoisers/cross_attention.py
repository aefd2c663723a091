"""Cross-attention denoiser: a noisy interest asks the history items that are kept for it what it was (DMI, Eq. 11).

    x_0_hat = Transformer(Q = x_t, K = V = [e_t ; C])                                      (DMI, section 3.2, Eq. 11)

e_t, the step embedding, is one more token beside the kept items C, so there is always something to attend to. A block
is pre-norm and has no norm at its end, so that x_0_hat may have any length:

    a = x_t + Drop(MHA(LN(x_t); [e_t ; C]));   x_0_hat = a + Drop(FFN(LN(a)))

`norm="post"` normalises after each sum instead. The paper says "a transformer layer" and no more; norm, residual of
the query, heads and widths are keys (docs/decisions/079-dmi-denoiser.md). Items and e_t are not normalised before they
become keys and values. These have no bias: a key's would cancel in the softmax, a value's is the output's.

Many queries share one history: the Q noisy vectors of a row are its K interests (or the one that training selects),
each with its own mask. `project` turns a history into keys and values once; every step of a reverse chain uses them
again, and e_t's too, a table over the T steps.

Shapes: B rows, Q queries a row, L history, D embedding, H heads, T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from recbole_diffusion.denoisers.dropout import dropout, residual_dropout
from recbole_diffusion.denoisers.step_embedding import StepEmbedding
from recbole_diffusion.denoisers.transformer import Activation, FeedForward
from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.linear import Linear

Norm = Literal["pre", "post"]
StepInput = Literal["token", "add_to_query"]


@dataclass(frozen=True)
class KeysAndValues:
    """What one layer attends to.

    Attributes:
        keys: (B, H, D / H, L) of the history, already divided by sqrt(D / H).
        values: (B, H, L, D / H) of the history.
        step_keys: (T, H, D / H) of the step token, divided too; None where there is none.
        step_values: (T, H, D / H), as the keys.
    """

    keys: Tensor
    values: Tensor
    step_keys: Tensor | None
    step_values: Tensor | None


@dataclass(frozen=True)
class ProjectedHistory:
    """A history ready to be attended to, in any number of steps.

    Attributes:
        bias: (B, 1, Q, L) 0 where a query may look, minus infinity elsewhere.
        layers: keys and values of each layer.
        steps: (T, D) the step embeddings.
    """

    bias: Tensor
    layers: tuple[KeysAndValues, ...]
    steps: Tensor


class CrossAttention(nn.Module):
    """Multi-head scaled dot-product attention of queries to projected tokens and to the step token.

    Args:
        dim: D.
        heads: H, a divisor of D.
        probability: dropout of the attention weights.

    Raises:
        ValueError: H does not divide D.
    """

    def __init__(self, dim: int, heads: int, probability: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"hidden_size {dim} is not a multiple of n_heads {heads}; change either key")
        self.heads = heads
        self.scale = 1.0 / math.sqrt(dim // heads)
        self.probability = probability
        self.query = Linear(dim, dim)
        self.token = Linear(dim, 2 * dim, bias=False)
        self.output = Linear(dim, dim)
        for weight in (self.query.weight, *self.token.weight.chunk(2), self.output.weight):
            nn.init.xavier_normal_(weight)

    def project(self, tokens: Tensor, steps: Tensor | None) -> KeysAndValues:
        """Keys and values of the history (B, L, D) and of the step tokens (T, D)."""
        rows, length, _ = tokens.shape
        keys, values = self.token(tokens.flatten(0, 1)).view(rows, length, 2, self.heads, -1).unbind(2)
        step_keys = step_values = None
        if steps is not None:
            step_keys, step_values = self.token(steps).view(len(steps), 2, self.heads, -1).unbind(1)
            step_keys = step_keys * self.scale
        # laid out as the products read them: otherwise every step would copy them
        keys, values = (keys * self.scale).permute(0, 2, 3, 1).contiguous(), values.transpose(1, 2).contiguous()
        return KeysAndValues(keys, values, step_keys, step_values)

    def forward(self, x: Tensor, t: Tensor, history: KeysAndValues, bias: Tensor) -> Tensor:
        """Attend from x (B Q, D) at slots t (B,) to the history, seen through bias (B, 1, Q, L): (B Q, D)."""
        rows, _, queries, _ = bias.shape
        query = self.query(x).view(rows, queries, self.heads, -1).transpose(1, 2)  # (B, H, Q, D / H)
        scores = torch.matmul(query, history.keys) + bias  # (B, H, Q, L)
        if history.step_keys is None or history.step_values is None:
            weights = dropout(scores.softmax(-1), self.probability, self.training)
            mixed = torch.matmul(weights.to(history.values.dtype), history.values)
        else:  # beside the history, not appended to it: its keys and values are not copied in every step
            own = (query * history.step_keys[t][:, :, None]).sum(-1, keepdim=True)  # (B, H, Q, 1)
            weights = torch.cat([scores, own.to(scores.dtype)], dim=-1).softmax(-1)
            weights = dropout(weights, self.probability, self.training).to(history.values.dtype)
            mixed = torch.matmul(weights[..., :-1], history.values)
            mixed = mixed + weights[..., -1:] * history.step_values[t][:, :, None]
        return self.output(mixed.transpose(1, 2).reshape(rows * queries, -1))


class CrossAttentionBlock(nn.Module):
    """Attention to the history, then a feed-forward layer.

    Args:
        dim: D.
        heads: attention heads.
        probability: dropout of weights, of hidden units and of what is added to the residual.
        activation: of the feed-forward layer.
        norm: `pre` normalises what enters attention and feed-forward layer, `post` what leaves each sum.
        query_residual: whether the attention's output is added to the query; without it x_t is seen through the
            attention weights alone, and cannot be copied.
    """

    def __init__(
        self, dim: int, heads: int, probability: float, activation: Activation, norm: Norm, query_residual: bool
    ) -> None:
        super().__init__()
        self.probability = probability
        self.norm = norm
        self.query_residual = query_residual
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = CrossAttention(dim, heads, probability)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, probability, activation)

    def forward(self, x: Tensor, t: Tensor, history: KeysAndValues, bias: Tensor) -> Tensor:
        """x (B Q, D) at slots t (B,) -> (B Q, D)."""
        before = self.norm == "pre"
        attended = self.attention(self.attention_norm(x) if before else x, t, history, bias)
        if self.query_residual:
            x = residual_dropout(x, attended.to(x.dtype), self.probability, self.training)
        else:
            x = dropout(attended, self.probability, self.training)
        if not before:
            x = self.attention_norm(x)
        inner = self.feed_forward(self.feed_forward_norm(x) if before else x)
        x = residual_dropout(x, inner.to(x.dtype), self.probability, self.training)
        return x if before else self.feed_forward_norm(x)


class CrossAttentionDenoiser(nn.Module):
    """x_0_hat of noisy interests from the history items kept for each of them.

    Args:
        dim: D.
        num_steps: T.
        layers: number of blocks.
        heads: attention heads, a divisor of D.
        probability: dropout.
        activation: of the feed-forward layers.
        norm: `pre` or `post`, see :class:`CrossAttentionBlock`.
        query_residual: see :class:`CrossAttentionBlock`.
        final_norm: whether a LayerNorm ends the network; it forces the length of x_0_hat.
        step_input: `token` (Eq. 11) or `add_to_query` (x_t + e_t, and the history alone is attended to).
        rescale_steps: feed t * 1000 / T instead of t to the step embedding.

    Raises:
        ValueError: fewer than one layer, or heads that do not divide D.
    """

    def __init__(
        self,
        dim: int,
        num_steps: int,
        *,
        layers: int,
        heads: int,
        probability: float,
        activation: Activation,
        norm: Norm = "pre",
        query_residual: bool = True,
        final_norm: bool = False,
        step_input: StepInput = "token",
        rescale_steps: bool = True,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"n_layers is {layers}; it must be 1 or more")
        self.step_input = step_input
        self.step_embedding = StepEmbedding(dim, num_steps, rescale=rescale_steps)
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(dim, heads, probability, activation, norm, query_residual) for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(dim) if final_norm else nn.Identity()
        self.num_steps = num_steps

    def project(self, tokens: Tensor, keep: Tensor) -> ProjectedHistory:
        """Everything that does not depend on x_t or t, for one step or a whole chain.

        Args:
            tokens: (B, L, D) embedded history items, padding anywhere it is not kept.
            keep: (B, Q, L) bool, the items that each query may look at, at least one of them.
        """
        steps = self.step_embedding(torch.arange(self.num_steps, device=tokens.device))
        step_tokens = steps if self.step_input == "token" else None
        layers = tuple(cast(CrossAttentionBlock, block).attention.project(tokens, step_tokens) for block in self.blocks)
        bias = torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, -torch.inf)[:, None]
        return ProjectedHistory(bias, layers, steps)

    def forward(self, x_t: Tensor, t: Tensor, condition: ProjectedHistory, *, noise: NoiseSource) -> Tensor:
        """Predict x_0 (B, Q, D) from x_t (B, Q, D) at slots t (B,); nothing is drawn from `noise`."""
        if self.step_input == "add_to_query":
            x_t = x_t + condition.steps[t][:, None]
        x = x_t.flatten(0, 1)
        for block, history in zip(self.blocks, condition.layers, strict=True):
            x = block(x, t, history, condition.bias)
        return self.final_norm(x).view(x_t.shape)
