"""Cross-attention denoiser: a noisy interest asks the history items that are kept for it what it was (DMI, Eq. 11).

    x_0_hat = Transformer(Q = x_t, K = V = [e_t ; C])                                      (DMI, section 3.2, Eq. 11)

e_t, the step embedding, is one more token beside the kept items C, so there is always something to attend to. A block
is pre-norm and has no norm at its end, so that x_0_hat may have any length:

    a = x_t + Drop(MHA(LN(x_t); [e_t ; C]));   x_0_hat = a + Drop(FFN(LN(a)))

`norm="post"` normalises after each sum instead. The paper says "a transformer layer" and no more; norm, residual of
the query, heads and widths are keys (docs/decisions/079-dmi-denoiser.md). Items and e_t are not normalised before they
become keys and values. These have no bias: a key's would cancel in the softmax, a value's is the output's.

Many queries share one history: the Q noisy vectors of a row are its K interests (or the one that training selects),
each with its own mask. Few queries ask many items, so keys and values are never formed; the products are taken in the
other order, which is the same number (W_Q, W_K, W_V, W_O of each head h, and sums over heads):

    (W_Q x + b) . (W_K c) = (W_K^T W_Q x + W_K^T b) . c        W_O sum_j a_j W_V c_j = (W_O W_V) sum_j a_j c_j

The products of weights are taken once, in `prepare`, for one step of training or for a whole reverse chain.

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
from recbole_diffusion.linear import Linear, linear

Norm = Literal["pre", "post"]
StepInput = Literal["token", "add_to_query"]


@dataclass(frozen=True)
class HeadMaps:
    """The products of a layer's weights: what its heads ask of an item, and what they make of the answer.

    Attributes:
        question: (H D, D) W_K^T W_Q / sqrt(D / H) of each head.
        question_bias: (H D,) W_K^T b / sqrt(D / H).
        answer: (D, H D) W_O W_V of each head.
    """

    question: Tensor
    question_bias: Tensor
    answer: Tensor


@dataclass(frozen=True)
class AskedHistory:
    """A history ready to be asked, in any number of steps.

    Attributes:
        tokens: (B, L, D) its items.
        bias: (B, Q H, L) 0 where a query may look, minus infinity elsewhere.
        steps: (T, D) the step embeddings.
        layers: each layer's maps.
    """

    tokens: Tensor
    bias: Tensor
    steps: Tensor
    layers: tuple[HeadMaps, ...]


class CrossAttention(nn.Module):
    """Multi-head scaled dot-product attention of queries to the items of their row and to the step token.

    Args:
        dim: D.
        heads: H, a divisor of D.
        probability: dropout of the attention weights.

    Raises:
        ValueError: H is less than 1 or does not divide D.
    """

    def __init__(self, dim: int, heads: int, probability: float) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"n_heads is {heads}; it must be 1 or more")
        if dim % heads:
            raise ValueError(f"hidden_size {dim} is not a multiple of n_heads {heads}; change either key")
        self.heads = heads
        self.probability = probability
        self.query = Linear(dim, dim)
        self.key = Linear(dim, dim, bias=False)
        self.value = Linear(dim, dim, bias=False)
        self.output = Linear(dim, dim)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_normal_(layer.weight)

    def maps(self) -> HeadMaps:
        """The products of the weights as they are now."""
        dim = self.query.in_features
        query, key, value = (layer.weight.view(self.heads, -1, dim) for layer in (self.query, self.key, self.value))
        back = key.transpose(1, 2) * (1.0 / math.sqrt(dim // self.heads))  # (H, D, D / H)
        bias = torch.bmm(back, self.query.bias.view(self.heads, -1, 1))
        output = self.output.weight.view(dim, self.heads, -1).transpose(0, 1)  # (H, D, D / H)
        answer = torch.bmm(output, value).transpose(0, 1)  # (D, H, D)
        return HeadMaps(torch.bmm(back, query).flatten(0, 1), bias.flatten(), answer.flatten(1))

    def forward(self, x: Tensor, history: AskedHistory, maps: HeadMaps, step: Tensor | None) -> Tensor:
        """Attend from x (B Q, D) to the history, and to the step token (B, D) where there is one: (B Q, D)."""
        tokens, bias = history.tokens, history.bias
        question = linear(x, maps.question, maps.question_bias).view(tokens.shape[0], bias.shape[1], -1)  # (B, Q H, D)
        weights = torch.baddbmm(bias, question, tokens.transpose(1, 2))  # (B, Q H, L)
        if step is not None:  # beside the items, not appended to them: they are not copied in every step
            weights = torch.cat([weights, torch.bmm(question, step[:, :, None])], dim=-1)
        weights = dropout(weights.softmax(-1), self.probability, self.training)
        answer = torch.bmm(weights[..., : tokens.shape[1]], tokens)  # (B, Q H, D)
        if step is not None:
            answer = torch.baddbmm(answer, weights[..., -1:], step[:, None])
        return linear(answer.view(x.shape[0], -1), maps.answer, self.output.bias)


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

    def forward(self, x: Tensor, history: AskedHistory, maps: HeadMaps, step: Tensor | None) -> Tensor:
        """x (B Q, D) -> (B Q, D), as :meth:`CrossAttention.forward`."""
        before = self.norm == "pre"
        attended = self.attention(self.attention_norm(x) if before else x, history, maps, step)
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
        self.heads = heads
        self.step_embedding = StepEmbedding(dim, num_steps, rescale=rescale_steps)
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(dim, heads, probability, activation, norm, query_residual) for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(dim) if final_norm else nn.Identity()
        self.num_steps = num_steps

    def prepare(self, tokens: Tensor, keep: Tensor) -> AskedHistory:
        """Everything that does not depend on x_t or t, for one step or a whole chain.

        Args:
            tokens: (B, L, D) embedded history items, padding anywhere it is not kept.
            keep: (B, Q, L) bool, the items that each query may look at, at least one of them.
        """
        steps = self.step_embedding(torch.arange(self.num_steps, device=tokens.device))
        bias = torch.zeros(keep.shape, device=keep.device).masked_fill_(~keep, -torch.inf)
        layers = tuple(cast(CrossAttentionBlock, block).attention.maps() for block in self.blocks)
        return AskedHistory(tokens, bias.repeat_interleave(self.heads, dim=1), steps, layers)

    def forward(self, x_t: Tensor, t: Tensor, condition: AskedHistory, *, noise: NoiseSource) -> Tensor:
        """Predict x_0 (B, Q, D) from x_t (B, Q, D) at slots t (B,); nothing is drawn from `noise`."""
        step: Tensor | None = condition.steps[t]
        if self.step_input == "add_to_query":
            x_t, step = x_t + condition.steps[t][:, None], None
        x = x_t.flatten(0, 1)
        for block, maps in zip(self.blocks, condition.layers, strict=True):
            x = block(x, condition, maps, step)
        return self.final_norm(x).view(x_t.shape)
