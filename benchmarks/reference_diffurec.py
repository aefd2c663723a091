"""DiffuRec, written out plainly: the yardstick that the speed benchmark measures against.

The model of "DiffuRec: A Diffusion Model for Sequential Recommendation" (Li, Sun, Li; arXiv 2304.00686) as its
authors' released code computes it, and at about that code's speed. Every history is padded to a fixed length on the
left, every position is computed in every layer, layer norm and GELU are chains of element-wise operations, attention is
two matrix products around a masked softmax whose mask is repeated over heads and keys, and all T reverse steps run. It
is neither tuned nor slowed down; what it computes is checked against numbers of the released code in
tests/benchmarks/test_reference_diffurec.py.

Equations (t is a 0-based slot, T slots, alpha_bar the cumulative product of 1 - beta):
    H_0   = LayerNorm(Dropout_0.3(E[history]))
    x_t   = sqrt(alpha_bar_t) E[target] + sqrt(1 - alpha_bar_t) noise         (paper, Eq. 2)
    Z     = H_0 + lambda * (x_t + d_t), lambda ~ N(mean, std) per element     (Eq. 13)
    x_0^  = last position of LayerNorm(Dropout(blocks(Z)))                    (Eq. 12)
    loss  = cross-entropy of softmax(x_0^ E^T) at the target                  (Eq. 18, 19)
    x_t-1 = c1_t x_0^ + c2_t x_t + [t > 0] sqrt(beta_t) noise                 (Algorithm 1; released code's noise scale)

Shape legend: B batch, L padded history length, D embedding, V items with row 0 for padding, T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ReferenceSizes:
    """Sizes and rates of the published setting; `n_items` counts row 0."""

    n_items: int
    hidden_size: int = 128
    n_layers: int = 4
    n_heads: int = 4
    max_length: int = 50
    num_steps: int = 32
    dropout: float = 0.1
    embedding_dropout: float = 0.3
    lambda_mean: float = 0.001
    lambda_std: float = 0.001
    mask_keys: bool = False
    """Padded keys are masked instead of padded query rows: a variant of ours (`mask_mode: key`), not published."""


def truncated_linear_betas(num_steps: int) -> Tensor:
    """`trunc_lin` of the released code, float64 (T,): a straight line whose end is lowered when it would pass 1."""
    scale = 1000 / num_steps
    start, end = scale * 0.0001 + 0.01, scale * 0.02 + 0.01
    if end > 1:
        end = scale * 0.001 + 0.01
    return torch.linspace(start, end, num_steps, dtype=torch.float64)


class ReferenceLayerNorm(nn.Module):
    """Layer norm by mean, biased variance and division, eps 1e-12."""

    def __init__(self, hidden_size: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        return self.weight * ((x - mean) / torch.sqrt(variance + self.eps)) + self.bias


class ReferenceAttention(nn.Module):
    """Multi-head self-attention in which padded query rows, and no keys, are masked; or keys, with `mask_keys`."""

    def __init__(self, hidden_size: int, n_heads: int, dropout: float, mask_keys: bool = False) -> None:
        super().__init__()
        self.mask_keys = mask_keys
        self.n_heads = n_heads
        self.head_size = hidden_size // n_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_normal_(self.output.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (B, L, D), mask (B, L) with 1 for a real item -> (B, L, D)."""
        batch, length, hidden = x.shape
        query, key, value = (
            layer(x).view(batch, length, self.n_heads, self.head_size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = torch.matmul(query, key.transpose(-2, -1)) / math.sqrt(self.head_size)
        repeated = mask.unsqueeze(1).repeat(1, self.n_heads, 1).unsqueeze(-1).repeat(1, 1, 1, length)
        if self.mask_keys:
            repeated = repeated.transpose(-2, -1)
        scores = scores.masked_fill(repeated == 0, -1e9)
        weights = self.dropout(torch.softmax(scores, dim=-1))
        mixed = torch.matmul(weights, value).transpose(1, 2).contiguous().view(batch, length, hidden)
        return self.output(mixed)


class ReferenceFeedForward(nn.Module):
    """D -> 4 D -> D with the tanh form of GELU, dropout after it."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(hidden_size, 4 * hidden_size)
        self.second = nn.Linear(4 * hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_normal_(self.first.weight)
        nn.init.xavier_normal_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        activated = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * torch.pow(hidden, 3))))
        return self.second(self.dropout(activated))


class ReferenceBlock(nn.Module):
    """Pre-norm transformer block with one more dropout on its result."""

    def __init__(self, hidden_size: int, n_heads: int, dropout: float, mask_keys: bool = False) -> None:
        super().__init__()
        self.attention_norm = ReferenceLayerNorm(hidden_size)
        self.attention = ReferenceAttention(hidden_size, n_heads, dropout, mask_keys)
        self.attention_dropout = nn.Dropout(dropout)
        self.feed_forward_norm = ReferenceLayerNorm(hidden_size)
        self.feed_forward = ReferenceFeedForward(hidden_size, dropout)
        self.feed_forward_dropout = nn.Dropout(dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention_dropout(self.attention(self.attention_norm(x), mask))
        x = x + self.feed_forward_dropout(self.feed_forward(self.feed_forward_norm(x)))
        return self.dropout(x)


class ReferenceDiffuRec(nn.Module):
    """The whole model. Histories are (B, L) item numbers, padded with 0 on the left, L = `sizes.max_length`."""

    betas: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor

    def __init__(self, sizes: ReferenceSizes) -> None:
        super().__init__()
        self.sizes = sizes
        hidden = sizes.hidden_size
        self.item_embedding = nn.Embedding(sizes.n_items, hidden)
        self.embedding_norm = ReferenceLayerNorm(hidden)
        self.embedding_dropout = nn.Dropout(sizes.embedding_dropout)
        self.step_first = nn.Linear(hidden, 4 * hidden)
        self.step_second = nn.Linear(4 * hidden, hidden)
        self.blocks = nn.ModuleList(
            ReferenceBlock(hidden, sizes.n_heads, sizes.dropout, sizes.mask_keys) for _ in range(sizes.n_layers)
        )
        self.output_dropout = nn.Dropout(sizes.dropout)
        self.output_norm = ReferenceLayerNorm(hidden)

        betas = truncated_linear_betas(sizes.num_steps)
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        previous = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
        tables = {
            "betas": betas,
            "sqrt_alpha_bar": alpha_bar.sqrt(),
            "sqrt_one_minus_alpha_bar": (1 - alpha_bar).sqrt(),
            "posterior_mean_coef1": betas * previous.sqrt() / (1 - alpha_bar),
            "posterior_mean_coef2": (1 - previous) * (1 - betas).sqrt() / (1 - alpha_bar),
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float(), persistent=False)

    def step_vector(self, t: Tensor) -> Tensor:
        """d_t of slots t (B,): sinusoid of t 1000 / T, cosines first, through two layers -> (B, D)."""
        half = self.sizes.hidden_size // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angles = (t.float() * (1000 / self.sizes.num_steps))[:, None] * frequencies[None]
        sinusoid = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1).to(self.step_first.weight.dtype)
        return self.step_second(nn.functional.silu(self.step_first(sinusoid)))

    def history_vectors(self, history: Tensor) -> Tensor:
        """H_0 (B, L, D) of histories (B, L); padded places hold the (trained) row 0."""
        return self.embedding_norm(self.embedding_dropout(self.item_embedding(history)))

    def noised(self, x_0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t of x_0 (B, D) at slots t (B,) with the given noise (B, D)."""
        return self.sqrt_alpha_bar[t][:, None] * x_0 + self.sqrt_one_minus_alpha_bar[t][:, None] * noise

    def hidden_states(
        self, vectors: Tensor, mask: Tensor, x_t: Tensor, t: Tensor, mixing: Tensor | None = None
    ) -> list[Tensor]:
        """What each block gives and, last, the normed result, all (B, L, D).

        vectors (B, L, D) is H_0, mask (B, L), x_t (B, D), t (B,). `mixing` is lambda, broadcastable to (B, L, D), and
        drawn when absent.
        """
        if mixing is None:
            mean = torch.full(vectors.shape, self.sizes.lambda_mean, device=vectors.device)
            std = torch.full(vectors.shape, self.sizes.lambda_std, device=vectors.device)
            mixing = torch.normal(mean, std)
        states = []
        hidden = vectors + mixing * (x_t + self.step_vector(t)).unsqueeze(1)
        for block in self.blocks:
            hidden = block(hidden, mask)
            states.append(hidden)
        states.append(self.output_norm(self.output_dropout(hidden)))
        return states

    def denoised(self, vectors: Tensor, mask: Tensor, x_t: Tensor, t: Tensor, mixing: Tensor | None = None) -> Tensor:
        """x_0^ (B, D): the last position of the last state; arguments as for `hidden_states`."""
        return self.hidden_states(vectors, mask, x_t, t, mixing)[-1][:, -1]

    def scores(self, x_0: Tensor) -> Tensor:
        """Scores (B, V) over all rows, row 0 included."""
        return torch.matmul(x_0, self.item_embedding.weight.t())

    def loss(
        self,
        history: Tensor,
        target: Tensor,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        mixing: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of histories (B, L) with targets (B,).

        Slots t (B,), noise (B, D) and lambda are drawn unless given.
        """
        if t is None:
            t = torch.randint(0, self.sizes.num_steps, target.shape, device=target.device)
        x_0 = self.item_embedding(target)
        if noise is None:
            noise = torch.randn_like(x_0)
        x_t = self.noised(x_0, t, noise)
        mask = (history > 0).float()
        denoised = self.denoised(self.history_vectors(history), mask, x_t, t, mixing)
        return nn.functional.cross_entropy(self.scores(denoised), target)

    def reverse_trajectory(
        self,
        history: Tensor,
        *,
        x_start: Tensor | None = None,
        step_noise: Tensor | None = None,
        mixing: Tensor | None = None,
    ) -> list[Tensor]:
        """x_T and the result of every reverse step, T + 1 tensors (B, D), for histories (B, L).

        x_start (B, D), step_noise (T, B, D) in the order of the calls, and lambda are drawn unless given.
        """
        vectors = self.history_vectors(history)
        mask = (history > 0).float()
        batch = history.shape[0]
        if x_start is None:
            x_start = torch.randn(batch, self.sizes.hidden_size, device=history.device)
        trajectory = [x_start]
        for call, slot in enumerate(reversed(range(self.sizes.num_steps))):
            x_t = trajectory[-1]
            t = torch.full((batch,), slot, dtype=torch.long, device=history.device)
            denoised = self.denoised(vectors, mask, x_t, t, mixing)
            noise = torch.randn_like(x_t) if step_noise is None else step_noise[call]
            mean = self.posterior_mean_coef1[t][:, None] * denoised + self.posterior_mean_coef2[t][:, None] * x_t
            trajectory.append(mean + (t > 0).float()[:, None] * self.betas[t][:, None].sqrt() * noise)
        return trajectory

    @torch.no_grad()
    def recommend(
        self,
        history: Tensor,
        *,
        x_start: Tensor | None = None,
        step_noise: Tensor | None = None,
        mixing: Tensor | None = None,
    ) -> Tensor:
        """Scores (B, V) after all T reverse steps; arguments as for `reverse_trajectory`."""
        return self.scores(self.reverse_trajectory(history, x_start=x_start, step_noise=step_noise, mixing=mixing)[-1])


def left_padded(histories: list[list[int]], length: int) -> Tensor:
    """The last `length` items of every history as (B, length) item numbers, zeros on the left."""
    rows = torch.zeros(len(histories), length, dtype=torch.long)
    for row, history in enumerate(histories):
        recent = history[-length:]
        rows[row, length - len(recent) :] = torch.tensor(recent, dtype=torch.long)
    return rows
