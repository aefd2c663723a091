"""DiffuRecSys's denoiser over padded histories, written out plainly with every switch: what the packed one is tested
against. It reads the weights of a model, computes every one of the L positions of every row and sums over all of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(B, L, D) -> (B, H, L, D / H)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def cross_attention(layer: Any, history: Tensor, copies: Tensor, real: Tensor, padding_is_seen: bool) -> Tensor:
    """The cross-attention's result (B, L, D) after its projection; `real` (B, L) says where items are."""
    asking, answering = (copies, history) if layer.queries == "target" else (history, copies)
    key_weight, value_weight = layer.key_value.weight.chunk(2)
    key_bias, value_bias = layer.key_value.bias.chunk(2)
    q = heads_of(functional.linear(asking, layer.query.weight, layer.query.bias), layer.heads)
    k = heads_of(functional.linear(answering, key_weight, key_bias), layer.heads)
    v = heads_of(functional.linear(answering, value_weight, value_bias), layer.heads)
    seen = (torch.ones_like(real) if padding_is_seen else real)[:, None, :, None]
    if layer.key_softmax == "standard":
        scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(~seen.transpose(-2, -1), -math.inf)
        mixed = scores.softmax(-1) @ v
    else:
        if layer.key_softmax == "heads":
            k = k.softmax(1)
        else:
            k = k.masked_fill(~seen, -math.inf).softmax(2)
        context = (k * seen).transpose(-2, -1) @ v  # G, (B, H, D / H, D / H)
        mixed = q.softmax(-1) @ context
    if padding_is_seen:
        mixed = mixed.masked_fill(~real[:, None, :, None], -1e9)
    return layer.output(mixed.transpose(1, 2).flatten(2).flatten(0, 1)).view_as(history)


def self_attention(layer: Any, x: Tensor, real: Tensor, padding_is_seen: bool) -> Tensor:
    """Multi-head attention (B, L, D); padded queries have constant scores, padded keys are seen or not."""
    q, k, v = (
        heads_of(functional.linear(x, weight, bias), layer.heads)
        for weight, bias in zip(layer.projection.weight.chunk(3), layer.projection.bias.chunk(3))
    )
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if padding_is_seen:
        scores = scores.masked_fill(~real[:, None, :, None], -1e9)
    else:
        scores = scores.masked_fill(~real[:, None, None, :], -math.inf)
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return layer.output(mixed.flatten(0, 1)).view_as(x)


def padded_denoiser(
    model: Any, item_seq: Tensor, x_t: Tensor, t: Tensor, strength: Tensor, padding: Tensor | None = None
) -> Tensor:
    """x_0_hat (B, D) of right-padded histories (B, L).

    `strength` is lambda at every position, (B, L, D); `padding` (R, D), when given, is what stands at a row's first,
    second, ... padded position instead of the embedded item 0.
    """
    denoiser = model.denoiser
    real = item_seq > 0
    padding_is_seen = model.options.mask_mode == "query"
    x = model.history_norm(model.item_embedding(item_seq))
    if padding is not None:
        place = (torch.arange(item_seq.shape[1]) - real.sum(1, keepdim=True)).clamp_min(0)
        x = torch.where(real[..., None], x, padding[place.clamp_max(len(padding) - 1)])
    copies = strength * (x_t + denoiser.mixing.step_embedding(t))[:, None]
    blocks = list(denoiser.blocks)
    start = x
    for block in blocks:
        if denoiser.stack == "last_only":
            x = start  # every block gets the same input
        x = x + cross_attention(block.cross_attention, block.input_norm(x), copies, real, padding_is_seen)
        x = x + self_attention(block.self_attention, block.input_norm(x), real, padding_is_seen)
        x = x + block.feed_forward(block.output_norm(x).flatten(0, 1)).view_as(x)
    return denoiser.norm(x)[torch.arange(len(x)), real.sum(1) - 1]
