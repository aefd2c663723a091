"""Denoisers that are multilayer perceptrons of the noised target, the step and one or more guidance vectors.

    x_0_hat = MLP([x_t ; g ; d_t])                                       (DimeRec, Eq. 20; DreamRec's code)
    d_t     = W_2 GELU(W_1 [sin(t w) ; cos(t w)]),  w_j = 10000^(-j / (D/2 - 1))                  (DreamRec's code)

How K vectors g_1 .. g_K become one, which DimeRec does not say:

    flatten    [g_1 ; ... ; g_K]
    mean       (g_1 + ... + g_K) / K
    attention  sum_k a_k g_k,  a = softmax((x_t + d_t) . g_k / sqrt(D))

Nothing in a reverse chain but x_t changes between its steps. The first layer's product is therefore taken in three
parts: that of the guidance once a user, that of the T step vectors once a chain, that of x_t in every step. Each part
has a weight of its own: a slice of one weight, whose rows do not touch, is multiplied far slower on a CPU.

Shapes: B batch, K guidance vectors, D embedding, H width of the first layer's output, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.diffusion.process import CLEAN
from recbole_diffusion.diffusion.sphere import normalise
from recbole_diffusion.linear import Linear

Fusion = Literal["flatten", "mean", "attention"]
MLPActivation = Literal["gelu", "relu", "silu", "tanh"]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


class SineStepEmbedding(nn.Module):
    """Slot -> sinusoid, sines first -> Linear(D, 2D) -> GELU -> Linear(2D, D), as in DreamRec's code.

    Args:
        dim: D; an odd one gets a last column of zeros.
        num_steps: T.
    """

    waves: Tensor
    """(T + 1, D) the sinusoids of the slots CLEAN, 0, .., T - 1; they follow from the arguments."""

    def __init__(self, dim: int, num_steps: int) -> None:
        super().__init__()
        half = dim // 2
        frequency = torch.exp(-math.log(10000.0) / max(1, half - 1) * torch.arange(half, dtype=torch.float32))
        angle = torch.arange(CLEAN, num_steps, dtype=torch.float32)[:, None] * frequency
        waves = functional.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, dim - 2 * half))
        self.register_buffer("waves", waves, persistent=False)
        self.first = Linear(dim, 2 * dim)
        self.second = Linear(2 * dim, dim)

    def forward(self, t: Tensor | None = None) -> Tensor:
        """(B, D) of slots t (B,), or (T + 1, D) of all from CLEAN on."""
        waves = self.waves if t is None else self.waves[t - CLEAN]
        return self.second(functional.gelu(self.first(waves)))


@dataclass(frozen=True)
class GuidanceCondition:
    """What every step of a chain needs of the guidance.

    Attributes:
        vectors: (B, K, D), for ``attention``; None otherwise.
        part: (B, H) the guidance's part of the first layer; None for ``attention``.
        steps: (T + 1, D) the step vectors of all slots from CLEAN on; None where few of them are needed.
        step_part: (T + 1, H) their part of the first layer, bias included; None as ``steps``.
    """

    vectors: Tensor | None
    part: Tensor | None
    steps: Tensor | None
    step_part: Tensor | None

    @property
    def rows(self) -> int:
        """B."""
        rows = self.part if self.vectors is None else self.vectors
        return 0 if rows is None else rows.shape[0]


class MLPDenoiser(nn.Module):
    """The multilayer perceptron.

    Args:
        dim: D.
        num_steps: T.
        n_guidance: K.
        hidden_sizes: widths between input and output; empty for a single linear layer.
        activation: between layers.
        fusion: how K guidance vectors enter.
        unit_output: divide x_0_hat by its length.

    Raises:
        ValueError: an unknown name, or a width below 1.
    """

    def __init__(
        self,
        dim: int,
        num_steps: int,
        *,
        n_guidance: int = 1,
        hidden_sizes: Sequence[int] = (),
        activation: MLPActivation | str = "gelu",
        fusion: Fusion | str = "flatten",
        unit_output: bool = False,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"hidden_act is {activation!r}; it must be one of {', '.join(_ACTIVATIONS)}")
        if fusion not in get_args(Fusion):
            raise ValueError(f"guidance_fusion is {fusion!r}; it must be one of {', '.join(get_args(Fusion))}")
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"denoiser_hidden_sizes is {list(hidden_sizes)}; every width must be 1 or more")
        self.dim, self.num_steps, self.fusion, self.unit_output = dim, num_steps, fusion, unit_output
        self.activate = _ACTIVATIONS[activation]
        self.step_embedding = SineStepEmbedding(dim, num_steps)
        guidance_width = dim * (n_guidance if fusion == "flatten" else 1)
        sizes = [2 * dim + guidance_width, *hidden_sizes, dim]
        self.of_x = Linear(dim, sizes[1], bias=False)
        self.of_guidance = Linear(guidance_width, sizes[1], bias=False)
        self.of_step = Linear(dim, sizes[1])
        for layer in (self.of_x, self.of_guidance, self.of_step):  # as one linear layer of all three would start
            nn.init.uniform_(layer.weight, -(sizes[0] ** -0.5), sizes[0] ** -0.5)
        nn.init.uniform_(self.of_step.bias, -(sizes[0] ** -0.5), sizes[0] ** -0.5)
        self.rest = nn.ModuleList([Linear(a, b) for a, b in pairwise(sizes[1:])])

    repeats_rows = True

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"fusion={self.fusion!r}, unit_output={self.unit_output}"

    def condition(self, guidance: Tensor) -> GuidanceCondition:
        """Everything that does not change along a chain, from guidance vectors (B, K, D).

        In training, where a row has one step, the T step vectors are computed only if there are fewer than rows.
        """
        part = None
        if self.fusion != "attention":
            fused = guidance.mean(1) if self.fusion == "mean" else guidance.flatten(1)
            part = self.of_guidance(fused)
        steps = step_part = None
        if not self.training or self.num_steps < len(guidance):
            steps = self.step_embedding()
            step_part = self.of_step(steps)
        return GuidanceCondition(guidance if self.fusion == "attention" else None, part, steps, step_part)

    def forward(self, x_t: Tensor, t: Tensor, condition: GuidanceCondition, *, noise: NoiseSource) -> Tensor:
        """x_0_hat from x_t (B, D) at slots t (B,), CLEAN allowed; nothing is drawn from ``noise``.

        The condition may have n B rows, row i's being i, B + i, ...: x_0_hat (n B, D) then has n answers for every row,
        and what is computed of x_t and t is computed once.
        """
        if condition.steps is None or condition.step_part is None:
            steps = self.step_embedding(t)
            step_part = self.of_step(steps)
        else:
            steps, step_part = condition.steps[t - CLEAN], condition.step_part[t - CLEAN]
        own, part, copies = self.of_x(x_t), condition.part, condition.rows // x_t.shape[0]
        if part is None:
            query = x_t + steps
            part = self.of_guidance(self._attend(query.repeat(copies, 1) if copies > 1 else query, condition.vectors))
        if copies > 1:
            own, step_part = own.repeat(copies, 1), step_part.repeat(copies, 1)
        x = own + part + step_part
        for layer in self.rest:
            x = layer(self.activate(x))
        return normalise(x) if self.unit_output else x

    def _attend(self, query: Tensor, vectors: Tensor | None) -> Tensor:
        """sum_k softmax_k(q . g_k / sqrt(D)) g_k (B, D) of queries (B, D) and vectors (B, K, D)."""
        if vectors is None:
            raise ValueError("attention over guidance vectors needs them in the condition")
        scores = torch.bmm(vectors, query.to(vectors.dtype)[:, :, None]).float() / math.sqrt(self.dim)
        weights = functional.softmax(scores, dim=1).to(vectors.dtype)
        return torch.bmm(weights.transpose(1, 2), vectors).squeeze(1)
