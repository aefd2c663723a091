"""DiffuRecSys, written out plainly: the yardstick that its speed benchmark measures against.

The model of "Generative Diffusion Models for Sequential Recommendations" (Zolghadr, Winther, Jeha; ROEGEN@RecSys 2024)
as its authors' released code computes it. It differs from reference_diffurec.py in its blocks and in the noise of
training; every history is padded to a fixed length on the left and every position is computed, as there.

A block, with u = lambda * (x_t + d_t) for every position and LN_in one norm used twice:
    y   = LN_in(x);  q = W_q u, k = W_k y, v = W_v y, each split into heads (B, H, L, D / H)
    G   = softmax(k over the heads)^T v, summed over all L positions;  out = softmax(q over the features) G
    out = -1e9 at padded positions
    x   = x + Drop(W_o Drop(out));  x = x + Drop(MHA(LN_in(x)));  x = x + Drop(FFN(LN_out(x)))

The released loop hands the same x to each of the blocks and keeps the last one's result, so that only the last block
has an effect. `every_block` computes the others all the same, as that code does; without it they are skipped, which is
faster and gives the same numbers. `stack="sequential"` is the paper's stack.

Shape legend: B batch, L padded history length, D embedding, H heads, V items with row 0 for padding, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from reference_diffurec import (
    ReferenceAttention,
    ReferenceDiffuRec,
    ReferenceFeedForward,
    ReferenceLayerNorm,
    ReferenceSizes,
)
from torch import Tensor, nn

PAD_FILL = -1e9


@dataclass(frozen=True)
class DiffuRecSysSizes(ReferenceSizes):
    """Sizes and rates of the released code; `n_items` counts row 0."""

    hidden_size: int = 256
    max_length: int = 100
    offset_scale: float = 0.1
    stack: str = "last_only"
    every_block: bool = False


class ReferenceCrossAttention(nn.Module):
    """Efficient attention with the released code's axes, over padded positions too."""

    def __init__(self, hidden_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.head_size = hidden_size // n_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_normal_(self.output.weight)

    def forward(self, x: Tensor, copies: Tensor, mask: Tensor) -> Tensor:
        """x and copies (B, L, D), mask (B, L) with 1 for a real item -> (B, L, D)."""
        batch, length, hidden = x.shape
        query, key, value = (
            layer(source).view(batch, length, self.n_heads, self.head_size).transpose(1, 2)
            for layer, source in ((self.query, copies), (self.key, x), (self.value, x))
        )
        query = torch.softmax(query, dim=-1)
        key = torch.softmax(key, dim=1)
        context = torch.matmul(key.transpose(-2, -1), value)
        mixed = torch.matmul(query, context)
        mixed = mixed.masked_fill(mask[:, None, :, None] == 0, PAD_FILL)
        mixed = self.dropout(mixed).transpose(1, 2).contiguous().view(batch, length, hidden)
        return self.output(mixed)


class ReferenceCrossBlock(nn.Module):
    """Cross-attention, self-attention and feed-forward layer, pre-norm."""

    def __init__(self, hidden_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.input_norm = ReferenceLayerNorm(hidden_size)
        self.input_dropout = nn.Dropout(dropout)
        self.cross_attention = ReferenceCrossAttention(hidden_size, n_heads, dropout)
        self.attention = ReferenceAttention(hidden_size, n_heads, dropout)
        self.output_norm = ReferenceLayerNorm(hidden_size)
        self.feed_forward = ReferenceFeedForward(hidden_size, dropout)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, copies: Tensor, mask: Tensor) -> Tensor:
        x = x + self.input_dropout(self.cross_attention(self.input_norm(x), copies, mask))
        x = x + self.input_dropout(self.attention(self.input_norm(x), mask))
        return x + self.output_dropout(self.feed_forward(self.output_norm(x)))


class ReferenceDiffuRecSys(ReferenceDiffuRec):
    """The whole model; everything but the blocks and the training noise is the yardstick's for DiffuRec."""

    sizes: DiffuRecSysSizes

    def __init__(self, sizes: DiffuRecSysSizes) -> None:
        super().__init__(sizes)
        self.blocks = nn.ModuleList(
            ReferenceCrossBlock(sizes.hidden_size, sizes.n_heads, sizes.dropout) for _ in range(sizes.n_layers)
        )

    def hidden_states(
        self, vectors: Tensor, mask: Tensor, x_t: Tensor, t: Tensor, mixing: Tensor | None = None
    ) -> list[Tensor]:
        """What each computed block gives and, last, the normed result; arguments as in the DiffuRec yardstick."""
        if mixing is None:
            mean = torch.full(vectors.shape, self.sizes.lambda_mean, device=vectors.device)
            std = torch.full(vectors.shape, self.sizes.lambda_std, device=vectors.device)
            mixing = torch.normal(mean, std)
        copies = (mixing * (x_t + self.step_vector(t)).unsqueeze(1)).expand_as(vectors)
        states = []
        hidden = vectors
        for number, block in enumerate(self.blocks):
            if self.sizes.stack == "sequential":
                hidden = block(hidden, copies, mask)
                states.append(hidden)
            elif self.sizes.every_block or number == len(self.blocks) - 1:
                hidden = block(vectors, copies, mask)
                states.append(hidden)
        states.append(self.output_norm(self.output_dropout(hidden)))
        return states

    def loss(
        self,
        history: Tensor,
        target: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        mixing: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy; noise, unless given, has a scalar offset for each row (paper, Eq. 17)."""
        if noise is None:
            shape = (len(target), self.sizes.hidden_size)
            offset = torch.randn(len(target), 1, device=target.device)
            noise = torch.randn(shape, device=target.device) + self.sizes.offset_scale * offset
        return super().loss(history, target, t=t, noise=noise, mixing=mixing)
