"""SASRec's causal Transformer: the state after every item of a history (Kang and McAuley, ICDM 2018).

    x_j = Drop(s e_j + p_j)                                          s = sqrt(D) or 1
    q = LN(x);  y = q + MHA(q, x, x)                                 causal: an item sees itself and those before it
    z = LN(y);  x <- z + Drop(W_2 act(Drop(W_1 z)))
    h = LN(x)

Only queries are normalised, and residuals start at the normalised side: so does SASRec's code and what was made of it
(pmixer/SASRec.pytorch, the code of Klenitskiy and Vasilev 2023, gSASRec's): neither the usual pre-norm nor post-norm.

Histories are packed (packing.py); an item's place is counted from the oldest item of its history (padding on the right)
or so that the latest item is always at L - 1 (padding on the left), which is all that the side of padding changes.

Training pairs. A state h_j after item j can be asked for item j + 1 at every place of a history (`all`, one pass over a
user's history for all its targets), or only at its end (`last`, one row for each target).

Shapes: B rows, L history, M packed tokens, P pairs, D embedding, V items.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.interests.packing import PackedHistory, SegmentGroup, pack
from recbole_diffusion.linear import Linear

Activation = Literal["relu", "gelu", "none"]
PositionOrder = Literal["from_first", "from_last"]
TrainPositions = Literal["all", "last"]
NORM_EPSILON = 1e-8


def causal(layout: PackedHistory) -> PackedHistory:
    """The same layout where a token sees itself and earlier tokens of its row alone."""

    def without_future(group: SegmentGroup) -> SegmentGroup:
        future = torch.ones(group.width, group.width, device=group.bias.device).triu_(1).mul_(-1e9)
        return dataclasses.replace(group, bias=group.bias + future)

    return dataclasses.replace(layout, groups=tuple(map(without_future, layout.groups)))


def training_pairs(
    layout: PackedHistory, item_seq: Tensor, item_seq_len: Tensor, targets: Tensor, positions: TrainPositions
) -> tuple[Tensor, Tensor]:
    """Which tokens are asked for which item.

    Args:
        layout: of the histories, without padding tokens.
        item_seq: (B, W) the histories.
        item_seq_len: (B,) their lengths.
        targets: (B,) the item that follows each history.
        positions: `last`, or `all`: at every place the item that follows it, at the last place the target.

    Returns:
        token (P,) in 0 .. M-1 and item (P,).
    """
    if positions == "last":
        return layout.last, targets
    following = functional.pad(item_seq[:, 1:], (0, 1))
    following = following.scatter(1, (item_seq_len - 1)[:, None], targets[:, None])
    token = layout.item_ids.nonzero()[:, 0]
    return token, following[layout.row[token], layout.position[token]]


class CausalAttention(nn.Module):
    """Multi-head attention from normalised queries to unnormalised keys and values, inside packed segments.

    Args:
        dim: D.
        heads: number of heads, a divisor of D.
        probability: dropout of the attention weights.
        output_projection: a D x D map of the joined heads.
    """

    def __init__(self, dim: int, heads: int, probability: float, output_projection: bool) -> None:
        super().__init__()
        self.heads, self.probability = heads, probability
        self.query = Linear(dim, dim)
        self.key_value = Linear(dim, 2 * dim)
        self.output = Linear(dim, dim) if output_projection else None

    def forward(self, queries: Tensor, x: Tensor, layout: PackedHistory) -> Tensor:
        """Queries and x (M, D) -> (M, D)."""
        sizes = [*(group.tokens for group in layout.groups), layout.tail]
        asked, seen = self.query(queries).split(sizes), self.key_value(x).split(sizes)
        mixed = []
        for group, own_queries, own_keys in zip(layout.groups, asked, seen, strict=False):
            query = own_queries.view(group.segments, group.width, self.heads, -1).transpose(1, 2)
            key, value = own_keys.view(group.segments, group.width, 2, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
            attended = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=group.bias.to(query.dtype),
                dropout_p=self.probability if self.training else 0.0,
            )
            mixed.append(attended.transpose(1, 2).reshape(group.tokens, -1))
        if layout.tail:
            mixed.append(mixed[0].new_zeros(layout.tail, x.shape[-1]))
        joined = torch.cat(mixed)
        return joined if self.output is None else self.output(joined)


class CausalBlock(nn.Module):
    """One block: attention and a feed-forward layer, each with its residual from the normalised side."""

    def __init__(
        self, dim: int, heads: int, inner: int, probability: float, activation: Activation, output_projection: bool
    ) -> None:
        super().__init__()
        self.activation, self.probability = activation, probability
        self.attention_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.attention = CausalAttention(dim, heads, probability, output_projection)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.expand = Linear(dim, inner)
        self.contract = Linear(inner, dim)

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.probability, self.training)

    def forward(self, x: Tensor, layout: PackedHistory, last_only: bool) -> Tensor:
        """x (M, D) -> (M, D), or (B, D) at each row's last item when `last_only`."""
        queries = self.attention_norm(x)
        y = queries + self.attention(queries, x, layout)
        if last_only:
            y = y.index_select(0, layout.last)
        z = self.feed_forward_norm(y)
        hidden = self._drop(self.expand(z))
        if self.activation != "none":
            hidden = functional.relu(hidden) if self.activation == "relu" else functional.gelu(hidden)
        return z + self._drop(self.contract(hidden))


class CausalEncoder(nn.Module):
    """SASRec's encoder over histories of item vectors.

    Args:
        dim: D.
        layers: number of blocks.
        heads: attention heads.
        inner: width of the feed-forward layers.
        probability: dropout of embeddings, attention weights and feed-forward layers.
        max_length: L, the number of positions.
        activation: `relu` (SASRec), `gelu`, or `none` (gSASRec's PyTorch code).
        position_order: `from_first` counts places from the oldest item, `from_last` so that the latest has L - 1.
        scale_items: multiply item vectors by sqrt(D) before positions are added.
        output_projection: whether attention has an output map.
        init_std: standard deviation of weights and positions at the start.
        sparse_look_ups: the gradient of the item vectors is a sparse tensor of those that were read.

    Raises:
        ValueError: sizes that no network can have.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        inner: int,
        probability: float,
        max_length: int,
        *,
        activation: Activation = "relu",
        position_order: PositionOrder = "from_first",
        scale_items: bool = True,
        output_projection: bool = True,
        init_std: float = 0.02,
        sparse_look_ups: bool = False,
    ) -> None:
        super().__init__()
        for key, value in (("hidden_size", dim), ("n_layers", layers), ("n_heads", heads), ("inner_size", inner)):
            if value < 1:
                raise ValueError(f"{key} is {value}; it must be 1 or more")
        if dim % heads:
            raise ValueError(f"hidden_size {dim} is not a multiple of n_heads {heads}; change either key")
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout_prob is {probability}; it must be at least 0 and less than 1")
        self.max_length, self.position_order, self.probability = max_length, position_order, probability
        self.sparse_look_ups = sparse_look_ups
        self.scale = math.sqrt(dim) if scale_items else 1.0
        self.position_embedding = nn.Embedding(max_length, dim)
        self.blocks = nn.ModuleList(
            CausalBlock(dim, heads, inner, probability, activation, output_projection) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)
        self.reset_parameters(init_std)

    def reset_parameters(self, init_std: float) -> None:
        """Weights and positions N(0, init_std^2), biases 0; queries, keys and values as one Xavier-uniform (3 D, D)
        map, as torch's `MultiheadAttention` has it."""
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=init_std)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, CausalAttention):
                bound = math.sqrt(6 / (4 * module.query.in_features))
                for projection in (module.query, module.key_value):
                    nn.init.uniform_(projection.weight, -bound, bound)

    def embed(self, item_vectors: Tensor, layout: PackedHistory) -> Tensor:
        """Item vectors (V, D) and positions of every token, (M, D)."""
        place = layout.position
        if self.position_order == "from_last":
            place = place + (self.max_length - layout.lengths.to(place.device))[layout.row]
        items = functional.embedding(layout.item_ids, item_vectors, sparse=self.sparse_look_ups)
        tokens = items * self.scale + self.position_embedding(place)
        return functional.dropout(tokens, self.probability, self.training)

    def forward(
        self, item_vectors: Tensor, item_seq: Tensor, item_seq_len: Tensor, *, last_only: bool
    ) -> tuple[Tensor, PackedHistory]:
        """States after the items of histories.

        Args:
            item_vectors: (V, D).
            item_seq: (B, W) right-padded with 0, W <= L.
            item_seq_len: (B,) at least 1.
            last_only: the state after the last item alone.

        Returns:
            (M, D) in the layout's order, or (B, D) with `last_only`; and the layout.
        """
        layout = causal(pack(item_seq, item_seq_len, padding_tokens=False, padded_length=self.max_length))
        x = self.embed(item_vectors, layout)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, layout, last_only=last_only and number == len(self.blocks))
        return self.norm(x), layout

    def pairs(
        self, item_vectors: Tensor, item_seq: Tensor, item_seq_len: Tensor, targets: Tensor, positions: TrainPositions
    ) -> tuple[Tensor, Tensor]:
        """States to train and the item that each is asked for; see `training_pairs`.

        Returns:
            (P, D) and (P,).
        """
        return self.placed_pairs(item_vectors, item_seq, item_seq_len, targets, positions)[:2]

    def placed_pairs(
        self, item_vectors: Tensor, item_seq: Tensor, item_seq_len: Tensor, targets: Tensor, positions: TrainPositions
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `pairs`, and where each stands: (P, 2) row and place in its history; None for one a row."""
        states, layout = self(item_vectors, item_seq, item_seq_len, last_only=positions == "last")
        if positions == "last":
            return states, targets, None
        token, items = training_pairs(layout, item_seq, item_seq_len, targets, positions)
        places = torch.stack((layout.row[token], layout.position[token]), dim=1)
        return states.index_select(0, token), items, places

    def users(self, item_vectors: Tensor, item_seq: Tensor, item_seq_len: Tensor) -> Tensor:
        """The state after the last item of each history, (B, D)."""
        return self(item_vectors, item_seq, item_seq_len, last_only=True)[0]
