"""Which slot t a training row gets, and the weight that keeps the loss unbiased.

    uniform     t ~ U{0..T-1}, weight 1
    last        t = T - 1, weight 1: the noise that inference starts from
    lossaware   p_t proportional to sqrt(E[L_t^2]), weight 1 / (T p_t)       (Nichol and Dhariwal 2021, equation 18)

The weighted loss has the uniform mean with `uniform` and `lossaware`: sum_t p_t L_t / (T p_t) = mean_t L_t.
DiffuRec's released code names `lossaware` but never feeds it a loss, so it stays uniform
(docs/decisions/015-step-sampling.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from recbole_diffusion.batch_share import whole_batch
from recbole_diffusion.keyed_draws import current_draws


class StepSampler(Protocol):
    """Draws slots for training rows and may learn from their losses."""

    def sample(
        self, n: int, *, device: torch.device | str, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Slots (n,) long and the weights (n,) float of their losses, both on ``device``."""
        ...

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Take note of the unweighted losses (n,) that slots t (n,) had."""
        ...


class UniformSteps:
    """Every slot equally often, weight 1."""

    def __init__(self, num_steps: int) -> None:
        _check_num_steps(num_steps)
        self.num_steps = num_steps

    def sample(
        self, n: int, *, device: torch.device | str, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`StepSampler.sample`."""
        draws = current_draws() if generator is None else None
        if draws is not None:
            return (draws.uniform(n, 1, device=device)[:, 0] * self.num_steps).long(), torch.ones(n, device=device)
        where = device if generator is None else generator.device
        t = torch.randint(self.num_steps, (n,), device=where, generator=generator).to(device)
        return t, torch.ones(n, device=device)

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Nothing to learn."""


class LastStep:
    """The noisiest slot for every row (DMI's algorithm 1, line 5, as printed)."""

    def __init__(self, num_steps: int) -> None:
        _check_num_steps(num_steps)
        self.num_steps = num_steps

    def sample(
        self, n: int, *, device: torch.device | str, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`StepSampler.sample`; nothing is drawn."""
        return torch.full((n,), self.num_steps - 1, device=device), torch.ones(n, device=device)

    def update(self, t: Tensor, loss: Tensor) -> None:
        """Nothing to learn."""


class LossAwareSteps(nn.Module):
    """The second-moment sampler of improved DDPM: slots whose loss is large come more often.

    Uniform until every slot has ``history`` losses. Its buffers are part of the ``state_dict``, so that a resumed run
    draws the same slots.

    Args:
        num_steps: T.
        history: how many of a slot's latest losses make up its second moment.
        uniform_probability: share of the draws that stays uniform, so that no weight explodes.
    """

    losses: Tensor
    """(T, history) the latest losses of every slot, a ring per slot."""
    counts: Tensor
    """(T,) how many losses every slot has had so far."""

    def __init__(self, num_steps: int, history: int = 10, uniform_probability: float = 0.001) -> None:
        super().__init__()
        _check_num_steps(num_steps)
        if history < 1:
            raise ValueError(f"history is {history}; a second moment needs at least 1 loss")
        if not 0.0 <= uniform_probability <= 1.0:
            raise ValueError(f"uniform_probability is {uniform_probability}; it must lie between 0 and 1")
        self.num_steps, self.history, self.uniform_probability = num_steps, history, uniform_probability
        self.register_buffer("losses", torch.zeros(num_steps, history))
        self.register_buffer("counts", torch.zeros(num_steps, dtype=torch.long))

    def probabilities(self) -> Tensor:
        """(T,) probability of every slot."""
        root = self.losses.square().mean(dim=1).sqrt()
        total = root.sum()
        uniform = torch.full_like(root, 1.0 / self.num_steps)
        share = self.uniform_probability
        learned = (1.0 - share) * root / total.clamp_min(torch.finfo(root.dtype).tiny) + share * uniform
        ready = (self.counts >= self.history).all() & (total > 0)
        return torch.where(ready, learned, uniform)  # no read-back from the device

    def sample(
        self, n: int, *, device: torch.device | str, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`StepSampler.sample`."""
        probability = self.probabilities().to(device if generator is None else generator.device)
        draws = current_draws() if generator is None else None
        if draws is None:
            t = torch.multinomial(probability, n, replacement=True, generator=generator)
        else:
            below = probability.double().cumsum(0)
            wanted = draws.uniform(n, 1, device=probability.device)[:, 0] * below[-1]
            t = torch.searchsorted(below, wanted, right=True).clamp_max(self.num_steps - 1)
        weight = 1.0 / (self.num_steps * probability[t])
        return t.to(device), weight.to(device)

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Put the losses into their slots' rings, in the order given; losses that are not finite are left out.

        Every worker takes note of the rows of all workers.

        Raises:
            ValueError: the two are not (n,) each.
        """
        if t.dim() != 1 or t.shape != loss.shape:
            raise ValueError(
                f"got slots of shape {tuple(t.shape)} and losses of shape {tuple(loss.shape)}; "
                "both must be (n,), one loss per row"
            )
        loss = whole_batch(loss.detach().to(self.losses))
        t = whole_batch(t.to(self.losses.device))
        finite = loss.isfinite()
        t, order = t[finite].sort(stable=True)
        loss = loss[finite][order]
        received = torch.bincount(t, minlength=self.num_steps)
        first = received.cumsum(0) - received
        rank = torch.arange(len(t), device=t.device) - first[t]  # 0, 1, ... among the losses of the same slot
        kept = rank >= received[t] - self.history  # the others would share a place with a later one
        t, loss, rank = t[kept], loss[kept], rank[kept]
        self.losses[t, (self.counts[t] + rank) % self.history] = loss
        self.counts += received


STEP_SAMPLERS: dict[str, type] = {"uniform": UniformSteps, "last": LastStep, "lossaware": LossAwareSteps}
"""The values of key ``step_sampler``; each is built with ``num_steps``."""


def build_step_sampler(name_or_class: str | Callable[[int], StepSampler], num_steps: int) -> StepSampler:
    """The step sampler called `name_or_class` (key ``step_sampler``), or a user's own class, for T = ``num_steps``.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(name_or_class, str):
        return name_or_class(num_steps)
    if name_or_class not in STEP_SAMPLERS:
        raise ValueError(
            f"step_sampler '{name_or_class}' does not exist; choose one of {', '.join(STEP_SAMPLERS)} "
            "or give a class as package.module:Class"
        )
    sampler: StepSampler = STEP_SAMPLERS[name_or_class](num_steps)
    return sampler


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps!r}; it must be at least 1")
