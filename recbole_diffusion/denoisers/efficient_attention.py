"""Cross-attention approximator of DiffuRecSys (Zolghadr, Winther, Jeha; ROEGEN@RecSys 2024, Eq. 16, and released code).

DiffuRec adds the noised target to every history item; here the two meet in attention. With h_i the embedded items,
u_i = lambda_i * (x_t + d_t) a noisy copy of one vector for every item, and LN_in one norm used twice:

    (i)   g <- h + Drop(CA(LN_in(h), u));  (ii)  g <- g + Drop(MHA(LN_in(g)));  (iii)  g <- g + Drop(FFN(LN_out(g)))
    x_0_hat = LN(Drop(g))_n

CA is efficient attention (Shen et al., WACV 2021): queries q_i = W_q u_i, keys k_j = W_k LN_in(h_j), values
v_j = W_v LN_in(h_j), in heads of D/H features,

    q^_i = softmax(q_i) over the features,   G = sum_j k^_j v_j^T,   out_i = q^_i G = sum_j (q^_i . k^_j) v_j

without scaling, with k^ the softmax over (key `key_softmax`)
    heads      the H heads, entry by entry: what the released code computes;
    seq        the positions of the history, as efficient attention has it;
    standard   replaces all of it by softmax(q_i . k_j / sqrt(D/H)) over the positions.
Then dropout and the projection W_o. `queries: history` exchanges the roles of h and u.

Padding. In the released code the sums run over padded positions too, and out_i of a padded i is overwritten with -1e9
before W_o (key `pad_fill`). The p padding tokens of a row are equal, so one token that counts p times stands for
them, exactly: docs/decisions/083-compact-cross-attention.md. The sum over j is taken in the second order above, inside
packed segments: over n tokens it costs n^2 D against n D^2 / H, and most histories are shorter than D/H.

`stack: last_only` is the released code's loop, which hands the same h to each block and keeps the last one's result:
only that block is computed; the others have parameters, no effect and no gradient (docs/decisions/082).

Shapes: B rows, M packed tokens, D embedding, H heads, S segments, W places of a segment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.denoisers.dropout import dropout, residual_dropout
from recbole_diffusion.denoisers.transformer import (
    NORM_EPSILON,
    Activation,
    FeedForward,
    HistoryMixing,
    SelfAttention,
)
from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.interests.packing import PackedHistory, SegmentGroup
from recbole_diffusion.linear import Linear

KeySoftmax = Literal["heads", "seq", "standard"]
Queries = Literal["target", "history"]
Stack = Literal["last_only", "sequential"]
LARGEST_HALF_FILL = 1e3  # float16 ends at 65504; a norm follows, so 1e3 is as good as 1e9 to its three digits


def softmax_over_rows(x: Tensor, layout: PackedHistory) -> Tensor:
    """Softmax of every feature over the tokens of a row, a token counted as often as it stands for one: (M, D).

    What is returned is the weight of one token; times `layout.counts()` the weights of a row sum to 1.
    """
    counts = layout.counts().to(x.dtype)
    x = x.masked_fill(counts == 0, -math.inf)
    row = layout.row[:, None].expand_as(x)
    highest = x.new_full((layout.rows, x.shape[1]), -math.inf).scatter_reduce(0, row, x.detach(), "amax")
    raised = (x - highest[layout.row]).exp()
    total = torch.zeros_like(highest).index_add(0, layout.row, raised * counts)
    return raised / total[layout.row]


class CrossAttention(nn.Module):
    """Attention between a history and the noised target's copies; module's equations.

    Args:
        dim: D.
        heads: H.
        probability: dropout before the output projection.
        key_softmax: what normalises the keys.
        queries: `target` (copies ask, history answers) or `history` (the other way round).
        pad_fill: what stands in the result of padding tokens before the output projection.

    Raises:
        ValueError: D is not a multiple of H.
    """

    def __init__(
        self, dim: int, heads: int, probability: float, key_softmax: KeySoftmax, queries: Queries, pad_fill: float
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"hidden_size {dim} is not a multiple of n_heads {heads}; change either key")
        self.heads = heads
        self.probability = probability
        self.key_softmax = key_softmax
        self.queries = queries
        self.pad_fill = pad_fill
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim)
        self.output = Linear(dim, dim)
        nn.init.xavier_normal_(self.output.weight)

    def history_side(self, history: Tensor, layout: PackedHistory) -> tuple[Tensor, ...]:
        """What follows from the normed history (M, D) alone and so is the same in every step: keys and values, or
        the queries."""
        return self._keys_values(history, layout) if self.queries == "target" else (self._queries(history),)

    def forward(self, side: tuple[Tensor, ...], copies: Tensor, layout: PackedHistory) -> Tensor:
        """The attention's result (M, D) after the output projection, from `history_side` and the copies u (M, D)."""
        if self.queries == "target":
            query, (key, value) = self._queries(copies), side
        else:
            (query,), (key, value) = side, self._keys_values(copies, layout)
        mixed = self._attend(query, key, value, layout)
        if layout.query_keep is not None:
            mixed = mixed.masked_fill(layout.query_keep == 0, self._fill(mixed))
        return self.output(dropout(mixed, self.probability, self.training))

    def _queries(self, x: Tensor) -> Tensor:
        query = self.query(x)
        if self.key_softmax == "standard":
            return query
        return query.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)

    def _keys_values(self, x: Tensor, layout: PackedHistory) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(x).chunk(2, dim=-1)
        if self.key_softmax == "heads":
            key = key.unflatten(-1, (self.heads, -1)).softmax(-2).flatten(-2)
        elif self.key_softmax == "seq":
            key = softmax_over_rows(key, layout)
        return key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, layout: PackedHistory) -> Tensor:
        """Every token's mixture (M, D) of its row's values."""
        sizes = [*(group.tokens for group in layout.groups), layout.tail]
        mixed = []
        for group, *parts in zip(layout.groups, query.split(sizes), key.split(sizes), value.split(sizes)):
            q, k, v = (part.view(group.segments, group.width, self.heads, -1).transpose(1, 2) for part in parts)
            mixed.append(self._attend_in(group, q, k, v).transpose(1, 2).reshape(-1, query.shape[1]))
        if layout.tail:
            mixed.append(mixed[0].new_zeros(layout.tail, query.shape[1]))
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _attend_in(self, group: SegmentGroup, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same inside segments: (S, H, W, D / H)."""
        if self.key_softmax == "standard":
            bias = group.bias.to(query.dtype)
            return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        # exp(bias) is 1 for an item of the same row, p for a padding token that stands for p, 0 between rows
        weights = torch.matmul(query, key.transpose(-2, -1)) * group.bias.exp().to(query.dtype)
        return torch.matmul(weights.to(value.dtype), value)

    def _fill(self, mixed: Tensor) -> float:
        """`pad_fill`, or as much of it as float16 holds."""
        device = mixed.device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
        if autocast or mixed.dtype == torch.float16:
            return min(max(self.pad_fill, -LARGEST_HALF_FILL), LARGEST_HALF_FILL)
        return self.pad_fill


class CrossAttentionBlock(nn.Module):
    """Cross-attention, self-attention and feed-forward layer, pre-norm; module's equations (i) to (iii)."""

    def __init__(self, cross: CrossAttention, dim: int, heads: int, probability: float, activation: Activation) -> None:
        super().__init__()
        self.probability = probability
        self.input_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.cross_attention = cross
        self.self_attention = SelfAttention(dim, heads, probability)
        self.output_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.feed_forward = FeedForward(dim, probability, activation)

    def history_side(self, x: Tensor, layout: PackedHistory) -> tuple[Tensor, ...]:
        """The part of the cross-attention that follows from the block's input x (M, D) alone."""
        return self.cross_attention.history_side(self.input_norm(x), layout)

    def forward(
        self, x: Tensor, side: tuple[Tensor, ...], copies: Tensor, layout: PackedHistory, last_only: bool
    ) -> Tensor:
        """x (M, D), its `history_side` and u (M, D) -> (M, D), or (B, D) at each row's last item when `last_only`."""
        x = residual_dropout(x, self.cross_attention(side, copies, layout), self.probability, self.training)
        attended = self.self_attention(self.input_norm(x), layout)
        if last_only:
            x, attended = x.index_select(0, layout.last), attended.index_select(0, layout.last)
        x = residual_dropout(x, self.self_attention.output(attended), self.probability, self.training)
        return residual_dropout(x, self.feed_forward(self.output_norm(x)), self.probability, self.training)


@dataclass(frozen=True)
class PreparedHistory(Condition):
    """A condition with what a reverse chain would otherwise compute again at every step."""

    side: tuple[Tensor, ...]
    """`history_side` of the first block that is computed."""


class CrossAttentionDenoiser(nn.Module):
    """The cross-attention approximator.

    Args:
        mixing: makes the noised target's copies; its sum with the history is not used.
        dim: D.
        layers: number of blocks.
        heads: H.
        probability: dropout everywhere in the blocks and before the final norm.
        activation: `gelu_tanh` (released code) or `relu` (paper).
        stack: `last_only` (released code) or `sequential` (paper).
        key_softmax, queries, pad_fill: see `CrossAttention`.
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
        stack: Stack,
        key_softmax: KeySoftmax,
        queries: Queries,
        pad_fill: float,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"n_layers is {layers}; it must be 1 or more")
        self.mixing = mixing
        self.probability = probability
        self.stack = stack
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(
                CrossAttention(dim, heads, probability, key_softmax, queries, pad_fill),
                dim,
                heads,
                probability,
                activation,
            )
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)

    @property
    def computed_blocks(self) -> list[CrossAttentionBlock]:
        """The blocks that have an effect."""
        blocks: list[CrossAttentionBlock] = list(self.blocks)  # type: ignore[arg-type]
        return blocks[-1:] if self.stack == "last_only" else blocks

    def prepare(self, condition: Condition) -> PreparedHistory:
        """Compute once, for all steps of a chain, what does not depend on the step."""
        if isinstance(condition, PreparedHistory):
            return condition
        side = self.computed_blocks[0].history_side(condition.tokens, condition.layout)
        return PreparedHistory(condition.tokens, condition.layout, side)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, *, noise: NoiseSource) -> Tensor:
        """Predict x_0 (B, D) from x_t (B, D) at slots t (B,)."""
        prepared = self.prepare(condition)
        layout, x, side = prepared.layout, prepared.tokens, prepared.side
        copies = self.mixing.copies(x_t, t, layout, noise)
        first, *others = self.computed_blocks
        x = first(x, side, copies, layout, last_only=not others)
        for number, block in enumerate(others, start=1):
            x = block(x, block.history_side(x, layout), copies, layout, last_only=number == len(others))
        return self.norm(dropout(x, self.probability, self.training))
