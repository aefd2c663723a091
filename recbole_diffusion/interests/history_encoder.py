"""Encoders of a whole history: a causal Transformer as DreamRec's code has it, and a perceptron of its mean.

    s = Drop(E[items] + P) mask                                                                      (DreamRec's code)
    a = LN(s) + MHA(Q = LN(s), K = V = s)          causal, padding hidden; the residual is the normalised query
    f = LN(b + Drop(W_2 ReLU(W_1 b))),  b = LN(a);   s <- f mask
    state = LN(s),  h = state at the last item

It is the block of SASRec (Kang and McAuley 2018) with one more norm after the feed-forward layer and before the final
one. The last block of a stack is computed for each row's last item alone where only that is asked for. Positions count
from the oldest item; results do not depend on how far a batch is padded.

Shapes: B rows, L history, D embedding, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.interests.multi_interest import Interests, real_items


class CausalBlock(nn.Module):
    """One block.

    Args:
        dim: D.
        n_heads: H, a divisor of D.
        probability: dropout on attention weights and after the feed-forward layer.
    """

    def __init__(self, dim: int, n_heads: int, probability: float) -> None:
        super().__init__()
        if n_heads < 1:
            raise ValueError(f"n_heads is {n_heads}; it must be 1 or more")
        if dim % n_heads:
            raise ValueError(f"hidden_size {dim} is not a multiple of n_heads {n_heads}; change either key")
        self.n_heads, self.probability = n_heads, probability
        self.query_norm = nn.LayerNorm(dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, dim)
        self.contract = nn.Linear(dim, dim)
        self.output_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, mask: Tensor, last: Tensor | None = None) -> Tensor:
        """The block's output.

        Args:
            tokens: (B, L, D).
            mask: (B, Q, L) True where a query may look.
            last: (B,) the places of the only queries (Q = 1); None for all places (Q = L).

        Returns:
            (B, Q, D).
        """
        rows, width, dim = tokens.shape
        asked = tokens
        if last is not None:
            asked = tokens[torch.arange(rows, device=tokens.device), last][:, None]
        asked = self.query_norm(asked)
        query = self.query(asked).view(rows, -1, self.n_heads, dim // self.n_heads).transpose(1, 2)
        key, value = self.key_value(tokens).view(rows, width, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None], dropout_p=self.probability if self.training else 0.0
        )
        mixed = self.feed_forward_norm(asked + attended.transpose(1, 2).reshape(rows, -1, dim))
        hidden = self.contract(functional.relu(self.expand(mixed)))
        return self.output_norm(mixed + functional.dropout(hidden, self.probability, self.training))


class HistoryEncoder(nn.Module):
    """Positions, blocks, norm.

    Args:
        dim: D.
        max_length: longest history.
        n_layers: blocks.
        n_heads: H.
        probability: dropout on the input, attention weights and feed-forward layers.
        position_init_std: of the learned positions at the start; None for Xavier normal.
    """

    def __init__(
        self,
        dim: int,
        max_length: int,
        n_layers: int = 1,
        n_heads: int = 1,
        probability: float = 0.1,
        position_init_std: float | None = 1.0,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers is {n_layers}; it must be 1 or more")
        self.probability = probability
        self.positions = nn.Parameter(torch.empty(max_length, dim))
        if position_init_std is None:
            nn.init.xavier_normal_(self.positions)
        else:
            nn.init.normal_(self.positions, std=position_init_std)
        self.blocks = nn.ModuleList([CausalBlock(dim, n_heads, probability) for _ in range(n_layers)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        """States (B, L, D) of embedded histories (B, L, D) with `lengths` (B,) real items; 0 on padding."""
        states, real = self._enter(items, lengths)
        for block in self.blocks:
            states = block(states, self._causal(real)) * real[:, :, None]
        return self.norm(states) * real[:, :, None]

    def last_state(self, items: Tensor, lengths: Tensor) -> Tensor:
        """The state (B, D) at each history's last item; as :meth:`forward`'s, with less work."""
        states, real = self._enter(items, lengths)
        for block in self.blocks[:-1]:
            states = block(states, self._causal(real)) * real[:, :, None]
        return self.norm(self.blocks[-1](states, real[:, None], lengths - 1)[:, 0])

    def _enter(self, items: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The first block's input (B, L, D), 0 on padding, and where items are real (B, L)."""
        width = items.shape[1]
        real = real_items(lengths, width)
        tokens = functional.dropout(items + self.positions[:width], self.probability, self.training)
        return tokens * real[:, :, None], real

    @staticmethod
    def _causal(real: Tensor) -> Tensor:
        """(B, L, L): every place sees the real items up to itself; one that is padding sees the first item."""
        width = real.shape[1]
        return torch.ones(width, width, dtype=torch.bool, device=real.device).tril() & real[:, None]


class LastStateInterest(nn.Module):
    """One interest: the Transformer's state at the last item ("SASRec" of DimeRec's Table 3)."""

    def __init__(self, encoder: HistoryEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, items: Tensor, lengths: Tensor) -> Interests:
        """Interests (B, 1, D) of embedded histories (B, L, D); the weight is put on the last item."""
        weights = functional.one_hot(lengths - 1, items.shape[1]).to(torch.float32)
        return Interests(self.encoder.last_state(items, lengths)[:, None], weights[:, None])


class MeanMLPInterest(nn.Module):
    """One interest: W_2 tanh(W_1 mean(e)) ("MLP" of DimeRec's Table 3, of which the paper says "a simple MLP").

    Args:
        dim: D; the hidden layer has 4 D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, 4 * dim)
        self.output = nn.Linear(4 * dim, dim)

    def forward(self, items: Tensor, lengths: Tensor) -> Interests:
        """Interests (B, 1, D) of embedded histories (B, L, D) with `lengths` (B,) real items, at least 1 each."""
        real = real_items(lengths, items.shape[1])
        weights = real / lengths[:, None].float()
        mean = torch.bmm(weights[:, None], items.masked_fill(~real[:, :, None], 0.0).to(weights.dtype))
        return Interests(self.output(torch.tanh(self.hidden(mean))), weights[:, None])
