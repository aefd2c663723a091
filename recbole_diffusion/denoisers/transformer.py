"""Transformer approximator of DiffuRec: predicts the target's clean embedding from its noised one and the history.

    z_i = h_i + lambda_i * (x_t + d_t)                                                (DiffuRec, Eq. 13)
    x_0_hat = Transformer([z_1 .. z_n])_n                                             (DiffuRec, Eq. 12)

h_i are embedded history items, d_t the step embedding, lambda_i ~ N(lambda_mean, lambda_std^2) drawn for every element
of every token at every call. Blocks are pre-norm and bidirectional:

    h <- h + Drop(MHA(LN(h)));  h <- h + Drop(FFN(LN(h)));  h <- Drop(h)

with an extra dropout at the end of each block, and Drop, LN after the last. There are no positions unless the tokens
carry them: the history is a set plus its last item.

Differs from the published code in speed only: fused norm, GELU and attention, oneDNN products (linear.py), packed rows
instead of padding (interests/packing.py), and in the last block everything after the keys and values is computed for
each row's last item alone (in training, everything after attention).

Shapes: B rows, M packed tokens, D embedding.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recbole_diffusion.denoisers.dropout import dropout, residual_dropout
from recbole_diffusion.denoisers.row_attention import RowKeys, last_attention
from recbole_diffusion.denoisers.step_embedding import StepEmbedding
from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.interests.packing import PackedHistory
from recbole_diffusion.linear import Linear, linear, linear_gelu

Activation = Literal["gelu_tanh", "relu"]
NORM_EPSILON = 1e-12


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The feed-forward layer's non-linearity, any shape."""
    return functional.relu(x) if activation == "relu" else functional.gelu(x, approximate="tanh")


class HistoryMixing(nn.Module):
    """``z_i = h_i + lambda_i * (x_t + d_t)`` (DiffuRec, Eq. 13) for every token of a packed history.

    Args:
        dim: D.
        num_steps: T, for the step embedding.
        lambda_mean: mean of lambda.
        lambda_std: standard deviation of lambda; 0 makes it constant.
        rescale_steps: feed t * 1000 / T instead of t to the step embedding.
    """

    def __init__(self, dim: int, num_steps: int, lambda_mean: float, lambda_std: float, rescale_steps: bool) -> None:
        super().__init__()
        if lambda_std < 0:
            raise ValueError(f"lambda_std is {lambda_std}; it must be 0 or more")
        self.dim = dim
        self.lambda_mean = lambda_mean
        self.lambda_std = lambda_std
        self.num_steps = num_steps
        self.step_embedding = StepEmbedding(dim, num_steps, rescale=rescale_steps)

    def step_vectors(self) -> Tensor:
        """d_t of every slot, (T, D)."""
        return self.step_embedding(torch.arange(self.num_steps, device=self.step_embedding.waves.device))

    def embed_steps(self, t: Tensor) -> Tensor:
        """Step vectors d_t (B, D) of slots t (B,); from those of all T where they are fewer."""
        traced = torch.compiler.is_compiling()  # no size of a program depends on a value
        return self.step_vectors()[t] if traced or self.num_steps < t.shape[0] else self.step_embedding(t)

    def guide(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """``x_t + d_t``, (B, D)."""
        return x_t + (self.embed_steps(t) if condition.steps is None else condition.steps[t])

    def copies(self, guide: Tensor, layout: PackedHistory, noise: NoiseSource) -> Tensor:
        """``lambda_i * guide`` (B, D) for every token, (M, D): what DiffuRecSys attends with instead of adding it."""
        guide = torch.index_select(guide, 0, layout.row)
        strength = self._strength(guide.dtype, layout, noise)
        return guide * (self.lambda_mean if strength is None else strength)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, noise: NoiseSource) -> Tensor:
        """Mix x_t (B, D) at slots t (B,) into the condition's tokens: (M, D)."""
        guide = torch.index_select(self.guide(x_t, t, condition), 0, condition.layout.row)
        strength = self._strength(guide.dtype, condition.layout, noise)
        if strength is None:
            return torch.add(condition.tokens, guide, alpha=self.lambda_mean)
        return torch.addcmul(condition.tokens, guide, strength)

    def _strength(self, dtype: torch.dtype, layout: PackedHistory, noise: NoiseSource) -> Tensor | None:
        """Lambda of every token, (M, D); None where it is constant."""
        if self.lambda_std == 0.0:
            return None
        return layout.normal(noise, self.dim, dtype=dtype).mul_(self.lambda_std).add_(self.lambda_mean)


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention inside the segments of a packed history.

    Query, key and value projections share one weight (3 D, D), each initialised as its own linear layer would be; the
    output projection is Xavier normal.
    """

    def __init__(self, dim: int, heads: int, probability: float) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"n_heads is {heads}; it must be 1 or more")
        if dim % heads:
            raise ValueError(f"hidden_size {dim} is not a multiple of n_heads {heads}; change either key")
        self.dim = dim
        self.heads = heads
        self.probability = probability
        self.projection = Linear(dim, 3 * dim)
        self.output = Linear(dim, dim)
        nn.init.xavier_normal_(self.output.weight)

    def forward(self, x: Tensor, layout: PackedHistory) -> Tensor:
        """Attend from every token of x (M, D) to its row; the result (M, D) is before the output projection."""
        projected = self.projection(x)
        keep = layout.query_keep
        mixed = []
        # torch.split and unbind, not slices: their backward concatenates instead of adding into zeros
        sizes = [*(group.tokens for group in layout.groups), layout.tail]
        for group, part in zip(layout.groups, projected.split(sizes)):
            parts = part.view(group.segments, group.width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            query, key, value = parts.unbind(0)  # each (segments, heads, width, D / heads)
            if keep is not None:  # padding tokens ask nothing: their scores are all equal
                query = query * keep[group.start : group.stop].view(group.segments, 1, group.width, 1).to(query.dtype)
            attended = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=group.bias.to(query.dtype),
                dropout_p=self.probability if self.training else 0.0,
            )
            mixed.append(attended.transpose(1, 2).reshape(-1, self.dim))
        if layout.tail:
            mixed.append(mixed[0].new_zeros(layout.tail, self.dim))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def of_last(self, x: Tensor, layout: PackedHistory) -> Tensor:
        """The same at each row's last item alone, (M, D) -> (B, D), where nothing is trained: one query a row."""
        weight, bias, dim = self.projection.weight, self.projection.bias, self.dim
        key, value = linear(x, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        query = linear(x.index_select(0, layout.last), weight[:dim], bias[:dim])
        return last_attention(query, RowKeys(key, value, self.heads, None), layout)


class FeedForward(nn.Module):
    """``W_2 Drop(act(W_1 x))``, D -> 4 D -> D, both weights Xavier normal."""

    def __init__(self, dim: int, probability: float, activation: Activation) -> None:
        super().__init__()
        self.probability = probability
        self.activation = activation
        self.expand = Linear(dim, 4 * dim)
        self.contract = Linear(4 * dim, dim)
        nn.init.xavier_normal_(self.expand.weight)
        nn.init.xavier_normal_(self.contract.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Position-wise: (M, D) -> (M, D)."""
        if self.activation == "gelu_tanh":
            hidden = linear_gelu(x, self.expand.weight, self.expand.bias)
        else:
            hidden = activate(self.expand(x), self.activation)
        return self.contract(dropout(hidden, self.probability, self.training))


class Block(nn.Module):
    """One pre-norm Transformer block with the published code's extra dropout at its end."""

    def __init__(self, dim: int, heads: int, probability: float, activation: Activation) -> None:
        super().__init__()
        self.probability = probability
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.attention = SelfAttention(dim, heads, probability)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(dim, probability, activation)

    def forward(self, x: Tensor, layout: PackedHistory, last_only: bool) -> Tensor:
        """x (M, D) -> (M, D), or (B, D) at each row's last item when `last_only`."""
        normed = self.attention_norm(x)
        if last_only and not self.training:
            x, attended = x.index_select(0, layout.last), self.attention.of_last(normed, layout)
        else:
            attended = self.attention(normed, layout)
            if last_only:  # in training dropout draws a number for every attention weight
                x, attended = x.index_select(0, layout.last), attended.index_select(0, layout.last)
        x = residual_dropout(x, self.attention.output(attended), self.probability, self.training)
        x = residual_dropout(x, self.feed_forward(self.feed_forward_norm(x)), self.probability, self.training)
        return dropout(x, self.probability, self.training)


class TransformerDenoiser(nn.Module):
    """The Transformer approximator.

    Args:
        mixing: how the noised target enters the history.
        dim: D.
        layers: number of blocks.
        heads: attention heads.
        probability: dropout everywhere in the blocks and before the final norm.
        activation: `gelu_tanh` (published code) or `relu` (paper).
        recompute: in training, keep a block's input alone and compute the block again in the backward pass (activation
            checkpointing; Chen, Xu, Zhang, Guestrin, arXiv 1604.06174). Dropout draws the same masks again, so results
            are the same.
    """

    def __init__(
        self,
        mixing: HistoryMixing,
        dim: int,
        layers: int,
        heads: int,
        probability: float,
        activation: Activation,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"n_layers is {layers}; it must be 1 or more")
        self.recompute = recompute
        self.mixing = mixing
        self.probability = probability
        self.blocks = nn.ModuleList(Block(dim, heads, probability, activation) for _ in range(layers))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, *, noise: NoiseSource) -> Tensor:
        """Predict x_0 (B, D) from x_t (B, D) at slots t (B,)."""
        x = self.mixing(x_t, t, condition, noise)
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for index, block in enumerate(self.blocks):
            last_only = index == len(self.blocks) - 1
            if recompute:
                x = checkpoint(block, x, condition.layout, last_only, use_reentrant=False)
            else:
                x = block(x, condition.layout, last_only)
        return self.norm(dropout(x, self.probability, self.training))
