"""Attention of packed histories that share their padding: every token attends to its row's tokens and to the row's part
of a common set of padding tokens.

    linear     out_i = sum_j c_j (q_i . k_j) v_j
    softmax    out_i = sum_j c_j exp(q_i . k_j / sqrt(D/H)) v_j / sum_j c_j exp(q_i . k_j / sqrt(D/H))

j runs over the row's tokens, where c_j = 1, and over the padding tokens, where c_j is how often the row has that one
(in a softmax a bias of log c_j). Rows lie side by side in segments (interests/packing.py); what is between rows is
masked. docs/decisions/083-padding-once-for-a-batch.md says why padding can be common.

Shapes: B rows, M packed tokens, R padding tokens, D embedding, H heads, S segments, W places of a segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.denoisers.dropout import dropout
from recbole_diffusion.interests.packing import PackedHistory, SegmentGroup


@dataclass(frozen=True)
class PaddingKeys:
    """Keys and values of padding."""

    key: Tensor
    """(1, R, D) common to all rows, or (B, R, D) each row's own."""
    value: Tensor
    """As `key`."""
    counts: Tensor
    """(B, R) how often a row has each of them, in float."""
    query_scale: Tensor | None = None
    """(B, D) factor of a row's queries when they meet padding; None for 1."""

    def products(self, query: Tensor, heads: int, row: Tensor | None = None) -> Tensor:
        """(H, N, R) of queries (N, D) with the keys; `row` (N,) says whose a query is, None for a query a row."""
        asked = query.unflatten(1, (heads, -1))
        if self.key.shape[0] == 1:
            return torch.matmul(asked.transpose(0, 1), self.key[0].unflatten(1, (heads, -1)).permute(1, 2, 0))
        key = self.key if row is None else self.key[row]
        return torch.einsum("nhd,nrhd->hnr", asked, key.unflatten(2, (heads, -1)))

    def mixture(self, weights: Tensor, heads: int, row: Tensor | None = None) -> Tensor:
        """(N, D) of the values by weights (H, N, R); `row` as in `products`."""
        weights = weights.to(self.value.dtype)
        if self.value.shape[0] == 1:
            value = self.value[0].unflatten(1, (heads, -1)).transpose(0, 1)
            return torch.matmul(weights, value).transpose(0, 1).flatten(1)
        value = self.value if row is None else self.value[row]
        return torch.einsum("hnr,nrhd->nhd", weights, value.unflatten(2, (heads, -1))).flatten(1)


@dataclass(frozen=True)
class RowKeys:
    """Keys and values of the tokens of packed rows, and of their padding where it is seen."""

    key: Tensor
    """(M, D)"""
    value: Tensor
    """(M, D)"""
    heads: int
    """H"""
    padding: PaddingKeys | None
    query_scale: Tensor | None = None
    """(B, D) factor of a row's queries when they meet its tokens; None for 1."""


def softmax_over_rows(keys: RowKeys, layout: PackedHistory) -> RowKeys:
    """Keys that are, feature by feature, a softmax over the row's tokens and padding.

    k^_j = exp(k_j - m) / Z with m and Z of the row. Padding belongs to no row, so its row's part is put on the queries:
    q . k^_j = (q / Z) . exp(k_j - m) for tokens, (q exp(m_pad - m) / Z) . exp(k_j - m_pad) for padding; every exponent
    is at most 0.
    """
    key = _wide(keys.key).masked_fill((layout.item_ids == 0)[:, None], -math.inf)
    highest = _highest(key, layout)
    padding = keys.padding
    if padding is None:
        raised = (key - highest[layout.row]).exp()
        return replace(keys, key=raised, query_scale=1 / _sums(raised, layout))
    pad_key, counts = _wide(padding.key), padding.counts
    pad_highest = pad_key.detach().amax(1)  # (1 or B, D)
    has_padding = counts.sum(1, keepdim=True) > 0
    highest = torch.where(has_padding, torch.maximum(highest, pad_highest), highest)
    raised, pad_raised = (key - highest[layout.row]).exp(), (pad_key - pad_highest[:, None]).exp()
    share = (pad_highest - highest).masked_fill(~has_padding, -math.inf).exp()
    if pad_raised.shape[0] == 1:
        of_padding = counts.to(pad_raised.dtype) @ pad_raised[0]
    else:
        of_padding = (counts[..., None] * pad_raised).sum(1)
    total = _sums(raised, layout) + share * of_padding
    return replace(
        keys,
        key=raised,
        query_scale=1 / total,
        padding=replace(padding, key=pad_raised, query_scale=share / total),
    )


def linear_attention(query: Tensor, keys: RowKeys, layout: PackedHistory) -> Tensor:
    """Attention without a softmax of scores: query (M, D) -> (M, D)."""
    asked = query if keys.query_scale is None else query * keys.query_scale[layout.row]
    mixed = []
    for group, q, k, v in _segments(asked, keys, layout):
        weights = torch.matmul(q, k.transpose(-2, -1)) * (group.bias == 0)
        mixed.append(_tokens(torch.matmul(weights.to(v.dtype), v)))
    result = _joined(mixed, layout)
    padding = keys.padding
    if padding is None:
        return result
    asked = query if padding.query_scale is None else query * padding.query_scale[layout.row]
    weights = padding.products(asked, keys.heads, layout.row) * padding.counts[layout.row]
    return result + padding.mixture(weights, keys.heads, layout.row)


def softmax_attention(query: Tensor, keys: RowKeys, layout: PackedHistory, probability: float = 0.0) -> Tensor:
    """Scaled dot-product attention of every token, query (M, D) -> (M, D); weights are dropped by `probability`."""
    padding, row, heads = keys.padding, layout.row, keys.heads
    if padding is None:
        mixed = [
            functional.scaled_dot_product_attention(q, k, v, attn_mask=group.bias.to(q.dtype), dropout_p=probability)
            for group, q, k, v in _segments(query, keys, layout)
        ]
        return _joined([_tokens(part) for part in mixed], layout)
    query = query / math.sqrt(query.shape[1] // heads)
    pad_scores = padding.products(query, heads, row) + padding.counts.log()[row]  # (H, M, R)
    mixed, pad_weights = [], []
    for group, q, k, v in _segments(query, keys, layout):
        pad_part = pad_scores[:, group.start : group.stop].unflatten(1, (group.segments, group.width))
        scores = torch.cat([torch.matmul(q, k.transpose(-2, -1)) + group.bias, pad_part.transpose(0, 1)], dim=-1)
        weights = dropout(scores.softmax(-1), probability, True)
        weights, pad_part = weights.split([group.width, weights.shape[-1] - group.width], dim=-1)
        mixed.append(_tokens(torch.matmul(weights.to(v.dtype), v)))
        pad_weights.append(pad_part.transpose(0, 1).flatten(1, 2))
    if layout.tail:
        pad_weights.append(pad_weights[0].new_zeros(heads, layout.tail, pad_scores.shape[2]))
    return _joined(mixed, layout) + padding.mixture(torch.cat(pad_weights, dim=1), heads, row)


def last_softmax_attention(query: Tensor, keys: RowKeys, layout: PackedHistory, probability: float = 0.0) -> Tensor:
    """The same for one query a row, (B, D) -> (B, D)."""
    heads, size, padding, row = keys.heads, query.shape[1] // keys.heads, keys.padding, layout.row
    query = query / math.sqrt(size)
    scores = (query.index_select(0, row) * keys.key).unflatten(1, (heads, size)).sum(-1)  # (M, H)
    scores = _wide(scores) + layout.key_bias[:, None]
    highest = _highest(scores, layout)
    if padding is not None:
        pad_scores = _wide(padding.products(query, heads)) + padding.counts.log()  # (H, B, R)
        highest = torch.maximum(highest, pad_scores.detach().amax(-1).t())
    raised = (scores - highest[row]).exp()
    total = _sums(raised, layout)
    if padding is not None:
        pad_raised = (pad_scores - highest.t()[..., None]).exp()
        total = total + pad_raised.sum(-1).t()
    weights = dropout(raised / total[row], probability, True)
    result = _sums((weights[..., None] * keys.value.unflatten(1, (heads, size))).flatten(1), layout)
    if padding is None:
        return result
    return result + padding.mixture(dropout(pad_raised / total.t()[..., None], probability, True), heads)


def last_attention(query: Tensor, keys: RowKeys, layout: PackedHistory) -> Tensor:
    """`last_softmax_attention` without dropout or common padding, by the way that suits the device.

    Sums over scattered places are the fastest on a CPU; on an accelerator they would be added up in an order that
    changes, so there the rows are gathered side by side; so they are in a traced program, whose rows lie apart.
    """
    if query.device.type == "cpu" and layout.row_width is None:
        return last_softmax_attention(query, keys, layout)
    return last_attention_of_gathered(query, keys, layout)


def last_attention_of_gathered(query: Tensor, keys: RowKeys, layout: PackedHistory) -> Tensor:
    """One query a row, (B, D) -> (B, D), over keys and values gathered to (B, W, D), W the longest row."""
    longest = int(layout.lengths.max()) if layout.row_width is None else layout.row_width
    before = torch.arange(longest - 1, -1, -1, device=query.device)
    absent = before >= layout.lengths.to(query.device)[:, None]
    place = (layout.last[:, None] - before).clamp_min(0)
    bias = layout.key_bias[place].masked_fill(absent, -math.inf)
    key, value = (part[place].unflatten(2, (keys.heads, -1)).transpose(1, 2) for part in (keys.key, keys.value))
    asked = query.unflatten(1, (keys.heads, 1, -1))
    mixed = functional.scaled_dot_product_attention(asked, key, value, attn_mask=bias[:, None, None].to(query.dtype))
    return mixed.flatten(1)


def _wide(x: Tensor) -> Tensor:
    """x in float32 or wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _highest(x: Tensor, layout: PackedHistory) -> Tensor:
    """Each row's largest entries (B, F) of x (M, F), without gradient."""
    x = x.detach()
    start = x.new_full((layout.rows, x.shape[1]), -math.inf)
    return start.scatter_reduce(0, layout.row[:, None].expand_as(x), x, "amax")


def _sums(x: Tensor, layout: PackedHistory) -> Tensor:
    """Each row's sums (B, F) of x (M, F)."""
    return x.new_zeros(layout.rows, x.shape[1]).index_add(0, layout.row, x)


def _segments(
    query: Tensor, keys: RowKeys, layout: PackedHistory
) -> Iterator[tuple[SegmentGroup, Tensor, Tensor, Tensor]]:
    """(group, q, k, v) of every group of segments, each (S, H, W, D / H)."""
    sizes = [*(group.tokens for group in layout.groups), layout.tail]
    parts = [tokens.split(sizes) for tokens in (query, keys.key, keys.value)]
    for number, group in enumerate(layout.groups):
        q, k, v = (part[number].view(group.segments, group.width, keys.heads, -1).transpose(1, 2) for part in parts)
        yield group, q, k, v


def _tokens(mixed: Tensor) -> Tensor:
    """(S, H, W, D / H) -> (S W, D)."""
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)


def _joined(mixed: list[Tensor], layout: PackedHistory) -> Tensor:
    """The groups' tokens one after the other, and zeros for the layout's tail."""
    if layout.tail:
        mixed = [*mixed, mixed[0].new_zeros(layout.tail, mixed[0].shape[1])]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed)
