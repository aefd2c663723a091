"""What models share whose chains are conditioned on a whole packed history: embedding it, and rows in chunks.

Shapes: B rows, L history, M packed tokens, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_diffusion.denoisers.dropout import dropout
from recbole_diffusion.denoisers.efficient_attention import PaddedCondition
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.interests.packing import pack

INFERENCE_TOKENS = 4096  # packed tokens of one reverse chain on a CPU: activations stay in its caches


def embed_history(
    item_seq: Tensor,
    item_seq_len: Tensor,
    item_embedding: nn.Embedding,
    norm: nn.Module,
    *,
    position_embedding: nn.Embedding | None = None,
    dropout_prob: float = 0.0,
    padding_tokens: bool,
    padded_length: int,
) -> Condition:
    """Embed and pack histories: ``LN(Drop(E[history] + P))``.

    Args:
        item_seq: (B, L') item ids, right-padded with 0.
        item_seq_len: (B,) number of items.
        item_embedding: E, (V, D).
        norm: LN; its `training` flag decides about dropout.
        position_embedding: P, by place from the oldest item; padding has none. None for no positions.
        dropout_prob: dropout before the norm.
        padding_tokens: whether a row's padding is seen (one token stands for it).
        padded_length: L, the length that histories count as padded to.
    """
    layout = pack(item_seq, item_seq_len, padding_tokens=padding_tokens, padded_length=padded_length)
    tokens = item_embedding(layout.item_ids)
    if position_embedding is not None:
        place = layout.position
        if layout.query_keep is not None:  # a row's padding token comes first and has no position
            start = layout.last - layout.lengths.to(place.device) + 1
            padded = 1 - layout.query_keep[start, 0].long()
            place = (place - padded[layout.row]).clamp_min(0)
        positions = position_embedding(place)
        tokens = tokens + (positions if layout.query_keep is None else positions * layout.query_keep)
    return Condition(norm(dropout(tokens, dropout_prob, norm.training)), layout)


def share_padding(
    condition: Condition,
    item_seq_len: Tensor,
    item_embedding: nn.Embedding,
    norm: nn.Module,
    *,
    dropout_prob: float,
    padded_length: int,
) -> PaddedCondition:
    """Add to histories that were packed without padding the padding tokens ``LN(Drop(E[0]))`` that all rows share.

    In training a row with p padded positions has the first p of L - 1 tokens, each with its own dropout; in evaluation
    they are all equal, so one token counts p times.

    Args:
        condition: the packed items.
        item_seq_len: (B,) number of items.
        item_embedding, norm, dropout_prob: see `embed_history`.
        padded_length: L.
    """
    missing = (padded_length - item_seq_len).clamp_min(0).to(condition.tokens.device)[:, None]
    count = max(padded_length - 1, 1) if norm.training else 1
    counts = (torch.arange(count, device=missing.device) < missing) if norm.training else missing
    rows = item_embedding(item_seq_len.new_zeros(1)).expand(count, -1)
    tokens = norm(dropout(rows, dropout_prob, norm.training))
    return PaddedCondition(condition.tokens, condition.layout, tokens, counts.to(condition.tokens.dtype))


def row_chunks(lengths: Tensor) -> list[Tensor]:
    """Row numbers in order of length (B,), in chunks of INFERENCE_TOKENS tokens; one chunk on an accelerator, and where
    a program is traced."""
    if lengths.device.type != "cpu" or torch.compiler.is_compiling():
        return [torch.arange(lengths.shape[0], device=lengths.device)]
    if len(lengths) == 1:
        return [torch.zeros(1, dtype=torch.int64)]
    order = torch.argsort(lengths, stable=True)
    chunk = ((lengths[order] + 1).cumsum(0) - 1) // INFERENCE_TOKENS
    return [order[chunk == number] for number in chunk.unique()]  # a long row may skip numbers
