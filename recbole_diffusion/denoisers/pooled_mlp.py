"""MLP denoiser guided by the mean of the kept history items: what is left of DMI without attention.

    x_0_hat = W_2 Drop(act(W_x x_t + W_e e_t + W_c mean(C) + b)) + b_2            (DMI, "DMI-T" of its Table 3)

The paper says "we replace the Transformer layer with an MLP" and no more; this is an MLP on [x_t ; e_t ; mean C], the
first layer written as the sum of its three blocks, so that those of the history and of the steps are computed once a
chain (docs/decisions/079-dmi-denoiser.md). There is no residual: x_t goes through the layers.

Shapes: B rows, Q queries a row, L history, D embedding, T steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recbole_diffusion.denoisers.dropout import dropout
from recbole_diffusion.denoisers.step_embedding import StepEmbedding
from recbole_diffusion.denoisers.transformer import Activation, activate
from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.linear import Linear


@dataclass(frozen=True)
class PooledHistory:
    """What the hidden layer adds for the history and for each step.

    Attributes:
        guide: (B, Q, 4 D) W_c mean(C) of each query's kept items.
        steps: (T, 4 D) W_e e_t + b.
    """

    guide: Tensor
    steps: Tensor


class PooledMLPDenoiser(nn.Module):
    """x_0_hat of noisy interests from the mean of the items kept for each.

    Args:
        dim: D.
        num_steps: T.
        probability: dropout of the hidden layer.
        activation: of the hidden layer.
        rescale_steps: feed t * 1000 / T instead of t to the step embedding.
    """

    def __init__(
        self, dim: int, num_steps: int, *, probability: float, activation: Activation, rescale_steps: bool = True
    ) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.probability = probability
        self.activation = activation
        self.step_embedding = StepEmbedding(dim, num_steps, rescale=rescale_steps)
        self.noisy = Linear(dim, 4 * dim, bias=False)
        self.step = Linear(dim, 4 * dim)
        self.guide = Linear(dim, 4 * dim, bias=False)
        self.contract = Linear(4 * dim, dim)
        for block in (self.noisy, self.step, self.guide):  # Xavier for the one layer, 3 D -> 4 D, that they make up
            nn.init.normal_(block.weight, std=math.sqrt(2.0 / (7 * dim)))
        nn.init.xavier_normal_(self.contract.weight)

    def prepare(self, tokens: Tensor, keep: Tensor) -> PooledHistory:
        """Everything that does not depend on x_t or t, for one step or a whole chain.

        Args:
            tokens: (B, L, D) embedded history items, padding anywhere it is not kept.
            keep: (B, Q, L) bool, the items of each query, at least one of them.
        """
        share = keep.to(tokens.dtype)
        mean = torch.matmul(share / share.sum(-1, keepdim=True), tokens)  # (B, Q, D)
        steps = self.step(self.step_embedding(torch.arange(self.num_steps, device=tokens.device)))
        return PooledHistory(self.guide(mean.flatten(0, 1)).view(*mean.shape[:2], -1), steps)

    def forward(self, x_t: Tensor, t: Tensor, condition: PooledHistory, *, noise: NoiseSource) -> Tensor:
        """Predict x_0 (B, Q, D) from x_t (B, Q, D) at slots t (B,); nothing is drawn from `noise`."""
        noisy = self.noisy(x_t.flatten(0, 1)).view(condition.guide.shape)
        hidden = activate(noisy + condition.guide + condition.steps[t][:, None], self.activation)
        hidden = dropout(hidden, self.probability, self.training)
        return self.contract(hidden.flatten(0, 1)).view(x_t.shape)
