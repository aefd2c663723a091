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
before W_o. So nothing of a row reaches its padding, and one set of padding tokens serves all rows of a batch, each
counted as often as a row has it: docs/decisions/083-padding-once-for-a-batch.md. The sum over j is taken in the second
order above, inside packed segments: over n tokens it costs n^2 D against n D^2 / H, and most histories are shorter
than D/H.

`stack: last_only` is the released code's loop, which hands the same h to each block and keeps the last one's result:
only that block is computed; the others have parameters, no effect and no gradient (docs/decisions/082).

Shapes: B rows, M packed tokens, R padding tokens, D embedding, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from recbole_diffusion.denoisers.dropout import dropout, residual_dropout
from recbole_diffusion.denoisers.row_attention import (
    PaddingKeys,
    RowKeys,
    last_softmax_attention,
    linear_attention,
    softmax_attention,
    softmax_over_rows,
)
from recbole_diffusion.denoisers.transformer import NORM_EPSILON, Activation, FeedForward, HistoryMixing, SelfAttention
from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.interests.packing import PackedHistory
from recbole_diffusion.linear import Linear, linear

KeySoftmax = Literal["heads", "seq", "standard"]
Queries = Literal["target", "history"]
Stack = Literal["last_only", "sequential"]
PAD_FILL = -1e9  # a norm follows, so that only its direction remains
PAD_FILL_HALF = -1e3  # float16 ends at 65504; as good as -1e9 to its three digits


@dataclass(frozen=True)
class PaddedCondition(Condition):
    """An embedded batch of histories, items alone, and the padding that all rows share."""

    padding: Tensor | None
    """(R, D) embedded padding tokens; None when padding is not seen."""
    counts: Tensor | None
    """(B, R) how often a row has each of them."""


class CrossAttention(nn.Module):
    """Attention between a history and the noised target's copies; module's equations.

    Args:
        dim: D.
        heads: H.
        probability: dropout before the output projection.
        key_softmax: what normalises the keys.
        queries: `target` (copies ask, history answers) or `history` (the other way round).

    Raises:
        ValueError: H is less than 1, or D is not a multiple of H.
    """

    def __init__(self, dim: int, heads: int, probability: float, key_softmax: KeySoftmax, queries: Queries) -> None:
        super().__init__()
        if heads < 1:
            raise ValueError(f"n_heads is {heads}; it must be 1 or more")
        if dim % heads:
            raise ValueError(f"hidden_size {dim} is not a multiple of n_heads {heads}; change either key")
        self.dim = dim
        self.heads = heads
        self.probability = probability
        self.key_softmax = key_softmax
        self.queries = queries
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim)
        self.output = Linear(dim, dim)
        nn.init.xavier_normal_(self.output.weight)

    def keys(self, x: Tensor, padding: Tensor | None, counts: Tensor | None, layout: PackedHistory) -> RowKeys:
        """Keys and values of tokens x (M, D) and of padding: (1, R, D) for all rows, or (B, R, D) each row's own."""
        key, value = self._project_keys(x)
        pads = None
        if padding is not None and counts is not None:
            pad_key, pad_value = self._project_keys(padding.flatten(0, 1))
            pads = PaddingKeys(pad_key.reshape(padding.shape), pad_value.reshape(padding.shape), counts)
        keys = RowKeys(key, value, self.heads, pads)
        return softmax_over_rows(keys, layout) if self.key_softmax == "seq" else keys

    def _project_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, D) of x (N, D)."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        if self.key_softmax == "heads":
            key = key.unflatten(-1, (self.heads, -1)).softmax(-2).flatten(-2)
        return key, value

    def ask(self, x: Tensor) -> Tensor:
        """Queries (M, D) of tokens x (M, D)."""
        query: Tensor = self.query(x)
        if self.key_softmax == "standard":
            return query
        return query.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)

    def forward(self, query: Tensor, keys: RowKeys, layout: PackedHistory) -> Tensor:
        """The attention's result (M, D) after the output projection."""
        attend = softmax_attention if self.key_softmax == "standard" else linear_attention
        return self.project(attend(query, keys, layout))

    def of_padding(self, count: int, like: Tensor) -> Tensor:
        """The result (R, D) at padding tokens: the overwritten value, projected."""
        half = torch.is_autocast_enabled(like.device.type) and (
            torch.get_autocast_dtype(like.device.type) == torch.float16
        )
        return self.project(like.new_full((count, self.dim), PAD_FILL_HALF if half else PAD_FILL))

    def project(self, mixed: Tensor) -> Tensor:
        """``W_o Drop(out)``."""
        projected: Tensor = self.output(dropout(mixed, self.probability, self.training))
        return projected


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

    def history_side(self, x: Tensor, condition: PaddedCondition, padding: Tensor | None) -> RowKeys | Tensor:
        """What of the cross-attention follows from the block's input alone: x (M, D), padding (R, D)."""
        cross = self.cross_attention
        if cross.queries == "history":
            return cross.ask(self.input_norm(x))
        normed = None if padding is None else self.input_norm(padding)[None]
        return cross.keys(self.input_norm(x), normed, condition.counts, condition.layout)

    def padding_side(self, padding: Tensor, counts: Tensor) -> tuple[Tensor, PaddingKeys]:
        """Padding tokens (R, D) after the block, and their keys and values in its self-attention; counts (B, R)."""
        projection, dim = self.self_attention.projection, self.cross_attention.dim
        filled = self.cross_attention.of_padding(len(padding), padding)
        padding = residual_dropout(padding, filled, self.probability, self.training)
        key_value = linear(self.input_norm(padding), projection.weight[dim:], projection.bias[dim:])[None]
        key, value = key_value.chunk(2, dim=-1)
        return padding, PaddingKeys(key, value, counts)

    def forward(
        self,
        x: Tensor,
        side: RowKeys | Tensor,
        copies: tuple[Tensor, Tensor | None],
        condition: PaddedCondition,
        padding: Tensor | None,
        last_only: bool,
        known: tuple[Tensor, PaddingKeys] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One block.

        Args:
            x: (M, D) tokens.
            side: `history_side` of them.
            copies: u of the tokens (M, D), and of each row's padding (B, 1, D) with `queries: history`.
            condition: the layout and how often rows have each padding token.
            padding: (R, D) the padding tokens at this depth.
            last_only: compute no more than each row's last item needs.
            known: `padding_side`, where it is computed once for all steps of a chain.

        Returns:
            (M, D), or (B, D) when `last_only`, and the padding tokens after the block: what self-attention and
            feed-forward layer would add to them is lost beside 1e9.
        """
        layout, cross, attention = condition.layout, self.cross_attention, self.self_attention
        if isinstance(side, RowKeys):
            query, keys = cross.ask(copies[0]), side
        else:
            total = None if condition.counts is None else condition.counts.sum(1, keepdim=True)
            query, keys = side, cross.keys(copies[0], copies[1], total, layout)
        x = residual_dropout(x, cross(query, keys, layout), self.probability, self.training)
        weight, bias, dim = attention.projection.weight, attention.projection.bias, cross.dim
        pads = None
        if padding is not None and condition.counts is not None:
            padding, pads = self.padding_side(padding, condition.counts) if known is None else known
        normed = self.input_norm(x)
        key, value = linear(normed, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        keys = RowKeys(key, value, attention.heads, pads)
        if last_only:
            x, normed = x.index_select(0, layout.last), normed.index_select(0, layout.last)
        query = linear(normed, weight[:dim], bias[:dim])
        attend = last_softmax_attention if last_only else softmax_attention
        attended = attend(query, keys, layout, attention.probability if self.training else 0.0)
        x = residual_dropout(x, attention.output(attended), self.probability, self.training)
        x = residual_dropout(x, self.feed_forward(self.output_norm(x)), self.probability, self.training)
        return x, padding


@dataclass(frozen=True)
class PreparedHistory(PaddedCondition):
    """A condition with what a reverse chain would otherwise compute again at every step."""

    side: RowKeys | Tensor
    """`history_side` of the first block that is computed."""
    padding_sides: tuple[tuple[Tensor, PaddingKeys], ...] | None = None
    """`padding_side` of every block that is computed; None in training, where dropout makes it anew."""


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
        key_softmax, queries: see `CrossAttention`.
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
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"n_layers is {layers}; it must be 1 or more")
        self.mixing = mixing
        self.probability = probability
        self.stack = stack
        self.queries = queries
        crosses = (CrossAttention(dim, heads, probability, key_softmax, queries) for _ in range(layers))
        self.blocks = nn.ModuleList(CrossAttentionBlock(c, dim, heads, probability, activation) for c in crosses)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)

    @property
    def computed_blocks(self) -> list[CrossAttentionBlock]:
        """The blocks that have an effect."""
        blocks: list[CrossAttentionBlock] = list(self.blocks)  # type: ignore[arg-type]
        return blocks[-1:] if self.stack == "last_only" else blocks

    def prepare(self, condition: PaddedCondition) -> PreparedHistory:
        """Compute once, for all steps of a chain, what does not depend on the step."""
        if isinstance(condition, PreparedHistory):
            return condition
        side = self.computed_blocks[0].history_side(condition.tokens, condition, condition.padding)
        sides = None
        if not self.training and condition.padding is not None and condition.counts is not None:
            sides, padding = [], condition.padding
            for block in self.computed_blocks:
                sides.append(block.padding_side(padding, condition.counts))
                padding = sides[-1][0]
        shared = condition.tokens, condition.layout, condition.padding, condition.counts
        return PreparedHistory(*shared, side, None if sides is None else tuple(sides), steps=condition.steps)

    def forward(self, x_t: Tensor, t: Tensor, condition: PaddedCondition, *, noise: NoiseSource) -> Tensor:
        """Predict x_0 (B, D) from x_t (B, D) at slots t (B,)."""
        prepared = self.prepare(condition)
        x, padding, side = prepared.tokens, prepared.padding, prepared.side
        guide = self.mixing.guide(x_t, t, prepared)
        of_padding = None
        if padding is not None and self.queries == "history":  # lambda at its mean for the many
            of_padding = self.mixing.lambda_mean * guide[:, None]
        copies = self.mixing.copies(guide, prepared.layout, noise), of_padding
        blocks = self.computed_blocks
        for number, block in enumerate(blocks, start=1):
            if number > 1:
                side = block.history_side(x, prepared, padding)
            known = None if prepared.padding_sides is None else prepared.padding_sides[number - 1]
            x, padding = block(x, side, copies, prepared, padding, number == len(blocks), known)
        return self.norm(dropout(x, self.probability, self.training))
