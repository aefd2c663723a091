"""Training losses: what a model minimises term by term, their sums over an epoch, and when they stop a run.

A model of this package names the terms of its loss (`losses`); a RecBole model gives one number or a tuple of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_diffusion.errors import UserError
from recbole_diffusion.models.base import VectorRecommender
from recbole_diffusion.training.worker_group import ALONE, WorkerGroup

Terms = Mapping[str, Tensor]
ADVICE = "lower learning_rate, set clip_grad_norm: {max_norm: 1.0} or use precision: fp32"


class TrainingDiverged(UserError):
    """A training loss or a weight that is not finite."""


def numbered(losses: Any) -> dict[str, Any]:
    """Names for what RecBole's models and trainers return: none for one number, `loss_1`, `loss_2` ... for a tuple."""
    return {f"loss_{place}": part for place, part in enumerate(losses, start=1)} if isinstance(losses, tuple) else {}


def terms_of(model: Any, loss_function: Callable[[Interaction], Any] | None) -> Callable[[Interaction], Terms]:
    """The function of a batch that gives a model's loss as terms to be summed.

    Args:
        model: the recommender.
        loss_function: what RecBole's trainers may pass instead of the model's `calculate_loss`.
    """
    own = getattr(model.calculate_loss, "__func__", None) is VectorRecommender.calculate_loss
    if loss_function is None and own:
        return model.losses

    calculate: Callable[[Interaction], Any] = loss_function or model.calculate_loss

    def terms(interaction: Interaction) -> Terms:
        losses = calculate(interaction)
        return numbered(losses) or {"loss": losses}

    return terms


class EpochLosses:
    """Sums over the batches of an epoch.

    Args:
        workers: the group whose contributions make up a batch's terms.

    Attributes:
        total: of the loss.
        terms: of its terms, by name; empty where the loss has none of its own.
        batches: how many there were.
    """

    def __init__(self, workers: WorkerGroup = ALONE) -> None:
        self.workers = workers
        self.total = 0.0
        self.terms: dict[str, float] = {}
        self.batches = 0

    def add(self, terms: Terms) -> tuple[Tensor, float]:
        """Count one batch; its loss, the sum of the terms, as a tensor to differentiate and as a number.

        Of several workers each gives its part; the tensor is then as many times the worker's own part, whose gradient
        is averaged over workers, and the number is the whole batch's.
        """
        loss = functools.reduce(torch.add, terms.values())
        # one transfer from the device for all of them
        numbers = torch.stack([term.detach().float().reshape(()) for term in (loss, *terms.values())])
        value, *parts = self.workers.sum(numbers).tolist()
        self.total += value
        self.batches += 1
        if set(terms) != {"loss"}:
            for name, part in zip(terms, parts, strict=True):
                self.terms[name] = self.terms.get(name, 0.0) + part
        return loss * self.workers.size if self.workers.size > 1 else loss, value


def in_words(loss: float, terms: Mapping[str, float]) -> str:
    """A loss for the log, with its terms where there are several."""
    parts = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
    return f"loss {loss:.4f}" + (f" ({parts})" if len(terms) > 1 else "")


def stop_unless_finite(
    loss: float, terms: Terms, interaction: Interaction, user_field: str, *, epoch: int, batch: int, last: Path
) -> None:
    """Refuse a loss that is not finite, naming the batch and, of several terms, those that are not.

    Raises:
        TrainingDiverged: it is not finite.
    """
    if math.isfinite(loss):
        return
    broken = [name for name, term in terms.items() if not bool(torch.isfinite(term.detach()).all())]
    ids = interaction[user_field] if user_field in interaction.interaction else []
    users = ", ".join(str(int(user)) for user in ids[:5])
    raise TrainingDiverged(
        f"training loss is {loss} in epoch {epoch + 1}, batch {batch + 1} ({len(interaction)} rows"
        + (f", first internal user ids {users}" if users else "")
        + (f", not finite: {', '.join(broken)}" if broken and len(terms) > 1 else "")
        + f"); {ADVICE}; {_last_good(last)}"
    )


def stop_unless_weights_finite(model: nn.Module, *, epoch: int, last: Path) -> None:
    """Refuse weights that are not finite.

    Raises:
        TrainingDiverged: the first three that are not.
    """
    broken = [name for name, weight in model.named_parameters() if not _finite(weight.detach())]
    if broken:
        raise TrainingDiverged(
            f"weights are not finite after epoch {epoch + 1} ({', '.join(broken[:3])}); {ADVICE}; {_last_good(last)}"
        )


def _finite(weight: Tensor) -> bool:
    """Whether all numbers are, without a copy of them: extremes are NaN where one is."""
    if not weight.numel() or not weight.is_floating_point():
        return True
    low, high = torch.aminmax(weight)
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def _last_good(last: Path) -> str:
    return f"the last good checkpoint is {last if last.is_file() else 'none yet'}"
