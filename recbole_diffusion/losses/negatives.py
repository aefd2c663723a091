"""Which items a sampled loss compares the target with.

    uniform       q(i) = 1 / N                                 draws with replacement (the PyTorch code of REMI)
    log_uniform   q(i) = log((r + 2) / (r + 1)) / log(N + 1)   r the item's 0-based place by popularity (TensorFlow's
                                                               candidate sampler, which ComiRec's code uses)
    in_batch      q(i) = share of i among training targets     the other rows' targets (Yi et al. 2019)

q is the proposal that the log-q correction of a sampled softmax subtracts (Bengio and Senecal 2008): s(i) - log q(i),
for negatives and target alike. Item 0 is padding and never drawn; draws come from torch's global generator, or from
the batch's keyed draws, where negatives that rows share are one draw for all workers.

Drawn without repeats, an item enters with probability 1 - exp(-p_i tau) given the number of tries tau, which is what
TensorFlow's sampler reports. The draw here is the same in law and needs no rejection: the M largest of log p_i +
Gumbel, whose (M + 1)-th largest value is -log tau (Kool et al. 2019, section 4.1).

Shapes: B rows, M negatives, V items (row 0 is padding), N = V - 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from recbole_diffusion.batch_share import whole_batch
from recbole_diffusion.keyed_draws import current_draws


@dataclass(frozen=True)
class Negatives:
    """Sampled items and how likely each was."""

    ids: Tensor
    """(M,) shared by all rows or (B, M), each row its own; 1 .. V-1."""
    log_q: Tensor | None = None
    """As `ids`: log of the proposal's probability (or expected count), up to a constant; None where it is unknown."""
    target_log_q: Tensor | None = None
    """(B,) the same of each row's target."""
    holds_targets: bool = False
    """Whether a row's own target is among its negatives by construction, so that it always has to be left out."""

    @property
    def shared(self) -> bool:
        """Whether all rows have the same negatives."""
        return self.ids.dim() == 1


class NegativeSampler(Protocol):
    """Draws negatives for a batch of targets."""

    def __call__(self, targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
        """Negatives for targets (B,) out of the ids 1 .. n_items - 1.

        Args:
            targets: (B,), or (P,) of several places of a row.
            n_items: V.
            places: (P, 2) row and number in the row of each target, where they are not one a row.
        """
        ...


def _shape(n_negatives: int, per_row: bool, targets: Tensor) -> tuple[int, ...]:
    return (targets.shape[0], n_negatives) if per_row else (n_negatives,)


def _uniform_draws(shape: tuple[int, ...], device: torch.device, places: Tensor | None) -> Tensor | None:
    """Keyed uniform numbers (M,) for all rows or (B, M); None where torch's generator is asked."""
    draws = current_draws()
    if draws is None:
        return None
    if len(shape) == 1:
        return draws.shared_uniform(shape[0], device=device)
    return draws.uniform(*shape, device=device, parts=places)


def _checked(n_negatives: int) -> int:
    if n_negatives < 1:
        raise ValueError(f"n_negatives is {n_negatives}; it must be 1 or more")
    return n_negatives


def _counts(item_counts: Tensor, n_items: int | None = None) -> Tensor:
    if item_counts.dim() != 1 or item_counts.shape[0] < 2 or (n_items is not None and item_counts.shape[0] != n_items):
        wanted = "2 or more items, padding included" if n_items is None else f"the catalogue's {n_items} items"
        raise ValueError(f"item_counts has shape {tuple(item_counts.shape)}; it must be (V,) with {wanted}")
    return item_counts


class UniformNegatives:
    """Every item alike, with replacement."""

    def __init__(self, n_negatives: int, *, per_row: bool = False) -> None:
        self.n_negatives = _checked(n_negatives)
        self.per_row = per_row

    def __call__(self, targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
        """See :meth:`NegativeSampler.__call__`."""
        shape = _shape(self.n_negatives, self.per_row, targets)
        uniform = _uniform_draws(shape, targets.device, places)
        if uniform is None:
            ids = torch.randint(1, n_items, shape, device=targets.device)
        else:
            ids = 1 + uniform.mul_(n_items - 1).long()
        log_q = torch.full((), -math.log(n_items - 1), device=targets.device)
        return Negatives(ids, log_q.expand(shape), log_q.expand(targets.shape))


class LogUniformNegatives(nn.Module):
    """Popular items more often: q falls as 1 / rank.

    Args:
        n_negatives: M; with `unique` at most the number of items is drawn.
        item_counts: (V,) how often each item occurs; entry 0 is not looked at. Ties go to the smaller id.
        per_row: each row its own negatives.
        unique: no item twice, as in TensorFlow's sampler; q is then the probability of being among the M.

    Raises:
        ValueError: `unique` with `per_row`, or counts that are not (V,).
    """

    by_popularity: Tensor
    log_probability: Tensor

    def __init__(self, n_negatives: int, item_counts: Tensor, *, per_row: bool = False, unique: bool = False) -> None:
        super().__init__()
        if unique and per_row:
            raise ValueError("negatives without repeats are drawn for the whole batch; set per_row or unique, not both")
        self.n_negatives = _checked(n_negatives)
        self.per_row, self.unique = per_row, unique
        order = torch.argsort(_counts(item_counts)[1:], descending=True, stable=True)
        rank = torch.arange(len(order), dtype=torch.float64)
        probability = ((rank + 2) / (rank + 1)).log() / math.log(len(order) + 1)
        by_id = torch.zeros(len(order) + 1, dtype=torch.float64)
        by_id[order.cpu() + 1] = probability
        self.register_buffer("by_popularity", order + 1, persistent=False)
        self.register_buffer("log_probability", by_id.log().float(), persistent=False)  # -inf for padding

    def forward(self, targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
        """See :meth:`NegativeSampler.__call__`."""
        _counts(self.log_probability, n_items)
        if self.unique:
            return self._without_repeats(targets)
        shape = _shape(self.n_negatives, self.per_row, targets)
        uniform = _uniform_draws(shape, targets.device, places)
        if uniform is None:
            uniform = torch.rand(shape, dtype=torch.float64, device=targets.device)
        rank = ((uniform * math.log(n_items)).exp() - 1).long().clamp_(0, n_items - 2)
        ids = self.by_popularity[rank]
        return Negatives(ids, self.log_probability[ids], self.log_probability[targets])

    def _without_repeats(self, targets: Tensor) -> Negatives:
        log_p = self.log_probability[1:]
        n_drawn = min(self.n_negatives, len(log_p))
        if n_drawn == len(log_p):
            ids = torch.arange(1, len(log_p) + 1, device=targets.device)
            certain = log_p.new_zeros(())
            return Negatives(ids, certain.expand(ids.shape), certain.expand(targets.shape))
        draws = current_draws()
        if draws is None:
            exponential = torch.empty_like(log_p).exponential_()
        else:
            exponential = -torch.log1p(-draws.shared_uniform(len(log_p), device=log_p.device)).to(log_p.dtype)
        gumbel = -exponential.clamp_min_(torch.finfo(log_p.dtype).tiny).log()
        largest, chosen = (log_p + gumbel).topk(n_drawn + 1)
        ids = chosen[:-1] + 1

        def log_inclusion(of: Tensor) -> Tensor:
            expected = (self.log_probability[of] - largest[-1]).exp()  # p tau
            return (-torch.expm1(-expected)).clamp_min(torch.finfo(log_p.dtype).tiny).log()

        return Negatives(ids, log_inclusion(ids), log_inclusion(targets))


class InBatchNegatives(nn.Module):
    """The batch's targets, those of all workers; a row's own is left out by the loss.

    Args:
        item_counts: (V,) how often each item is a target in training, whole numbers or not; an item that is none counts
            as the rarest target. Without them there is no log-q correction.
    """

    log_probability: Tensor | None

    def __init__(self, item_counts: Tensor | None = None) -> None:
        super().__init__()
        log_probability = None
        if item_counts is not None:
            counts = _counts(item_counts).double().clone()
            counts[0] = 0.0
            least = counts[counts > 0].amin() if bool((counts > 0).any()) else counts.new_ones(())
            log_probability = (counts.clamp_min(least) / counts.sum().clamp_min(least)).log().float()
        self.register_buffer("log_probability", log_probability, persistent=False)

    def forward(self, targets: Tensor, n_items: int, places: Tensor | None = None) -> Negatives:
        """See :meth:`NegativeSampler.__call__`."""
        ids = whole_batch(targets)
        if self.log_probability is None:
            return Negatives(ids, holds_targets=True)
        return Negatives(ids, self.log_probability[ids], self.log_probability[targets], holds_targets=True)


def _uniform(n_negatives: int, item_counts: Tensor | None, per_row: bool) -> NegativeSampler:
    return UniformNegatives(n_negatives, per_row=per_row)


def _log_uniform(n_negatives: int, item_counts: Tensor | None, per_row: bool) -> NegativeSampler:
    if item_counts is None:
        raise ValueError("log_uniform negatives need item_counts, how often each item occurs in training")
    return LogUniformNegatives(n_negatives, item_counts, per_row=per_row, unique=not per_row)


def _in_batch(n_negatives: int, item_counts: Tensor | None, per_row: bool) -> NegativeSampler:
    return InBatchNegatives(item_counts)


NEGATIVE_SAMPLERS: dict[str, Callable[[int, Tensor | None, bool], NegativeSampler]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "in_batch": _in_batch,
}


def build_negative_sampler(
    name: str,
    n_negatives: int,
    *,
    item_counts: Callable[[], Tensor] | None = None,
    log_q_correction: bool = False,
    per_row: bool = False,
) -> NegativeSampler:
    """The sampler that key ``negative_sampler`` names.

    Args:
        name: `uniform`, `log_uniform` (without repeats where the batch shares its negatives) or `in_batch`.
        n_negatives: M; `in_batch` has as many as the batch has rows, whatever this says.
        item_counts: gives (V,), how often each item is a training target; called only where it is read: by
            `log_uniform`, and by `in_batch` for the log-q correction.
        log_q_correction: whether the loss subtracts log q.
        per_row: each row its own negatives; not for `in_batch`.

    Raises:
        ValueError: an unknown name, or counts that are needed and not given.
    """
    if name not in NEGATIVE_SAMPLERS:
        raise ValueError(f"negative_sampler '{name}' does not exist; use one of {', '.join(NEGATIVE_SAMPLERS)}")
    counted = name == "log_uniform" or (name == "in_batch" and log_q_correction)
    counts = item_counts() if counted and item_counts is not None else None
    return NEGATIVE_SAMPLERS[name](n_negatives, counts, per_row)
