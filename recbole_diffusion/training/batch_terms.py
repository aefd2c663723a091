"""From a training batch to the terms of its loss: by one process or by several, with drawn or keyed numbers.

Each of W workers takes its rows of the batch and computes the terms on them. What it returns is its contribution:
the terms of all workers add up to those of the whole batch,

    mean over rows      b / B times the worker's own mean           (the default)
    mean over parts     p / P times it, such as trained places      (`VectorRecommender.averaged_over`)
    sum over rows       the worker's own sum

and DistributedDataParallel, which averages gradients over workers, gets W times the loss, so that it ends with the
gradient of the whole batch. Every worker reads every batch and takes its rows of it: the loaders' order, their
negative samples and the generators' states stay those of one process.

Shapes: B rows of the batch, b rows of this worker, P and p parts of them.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recbole_diffusion.batch_share import BatchShare, sharing
from recbole_diffusion.counter_streams import folded
from recbole_diffusion.errors import UserError
from recbole_diffusion.keyed_draws import KeyedDraws, drawing
from recbole_diffusion.models.base import VectorRecommender
from recbole_diffusion.training.worker_group import WorkerGroup

logger = logging.getLogger(__name__)

TermsOfBatch = Callable[[Interaction], Mapping[str, Tensor]]
_SEEDS = 2**63


class _Loss(nn.Module):
    """A model's loss as the forward pass that DistributedDataParallel watches."""

    def __init__(self, model: nn.Module, terms: TermsOfBatch) -> None:
        super().__init__()
        self.model = model
        self.terms = terms

    def forward(self, interaction: Interaction) -> dict[str, Tensor]:
        return dict(self.terms(interaction))


class BatchTerms:
    """The loss terms of training batches.

    Args:
        model: the recommender.
        terms: gives the terms of rows.
        workers: the group that trains.
        seed: the run's.
        keyed: whether noise, steps and negatives are keyed by step and row (key ``train_noise``).
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, terms: TermsOfBatch, workers: WorkerGroup, *, seed: int, keyed: bool, device: Any
    ) -> None:
        self.model, self.workers, self.seed, self.keyed, self.device = model, workers, seed, keyed, device
        self._terms = terms
        self._loss: Any = None
        if workers.size > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # broadcast_buffers has another name since torch 2.13
                # a parameter may be without gradient in one batch and not in another (an interest that no row has)
                self._loss = DistributedDataParallel(
                    _Loss(model, terms), broadcast_buffers=False, find_unused_parameters=True
                )

    def start_epoch(self, epoch: int) -> None:
        """Give each of several workers a stream of its own; a single process goes on with the one it has."""
        if self.workers.size > 1:
            torch.manual_seed(folded(self.seed, epoch, self.workers.rank) % _SEEDS)

    def __call__(self, batch: Interaction, epoch: int, index: int) -> tuple[Interaction, dict[str, Tensor]]:
        """This worker's rows of a batch, and what they contribute to each term.

        Args:
            batch: the whole batch.
            epoch, index: which one, from 0.
        """
        if self.workers.size == 1:
            interaction = batch.to(self.device)
            with self._draws(epoch, index, torch.arange(len(batch)) if self.keyed else None):
                return interaction, dict(self._terms(interaction))
        share = BatchShare(len(batch), self.workers.rank, self.workers.size, self.workers.gather_tensors)
        interaction = batch[share.places].to(self.device)
        with self._draws(epoch, index, share.places), sharing(share), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "find_unused_parameters")
            terms = self._loss(interaction)
        return interaction, weighted(self.model, terms, batch, interaction, share)

    @contextlib.contextmanager
    def _draws(self, epoch: int, index: int, places: Tensor | None) -> Iterator[None]:
        """Draw keyed numbers inside, where the run does; what is not keyed (dropout) comes from a stream of the step
        and the worker."""
        if not self.keyed or places is None:
            yield
            return
        torch.manual_seed(folded(self.seed, epoch, index, self.workers.rank) % _SEEDS)
        with drawing(KeyedDraws(self.seed, epoch, index, places)):
            yield


def weighted(
    model: Any, terms: Mapping[str, Tensor], batch: Interaction, own: Interaction, share: BatchShare
) -> dict[str, Tensor]:
    """Each term of a worker's rows as its part of the whole batch's.

    Args:
        model: the recommender.
        terms: of its rows.
        batch: the whole batch.
        own: its rows.
        share: which they are.
    """
    whole: Mapping[str, int | None] = {}
    part: Mapping[str, int | None] = {}
    if isinstance(model, VectorRecommender):
        whole, part = model.averaged_over(batch), model.averaged_over(own)

    def weight(name: str) -> float:
        if share.empty:
            return 0.0
        if name not in whole:
            return share.weight
        every, mine = whole[name], part[name]
        return 1.0 if every is None or mine is None else mine / every

    return {name: term * weight(name) for name, term in terms.items()}


_TOLERANCE = 1e-3


@torch.no_grad()
def check_mean_over_rows(model: Any, terms: TermsOfBatch, batch: Interaction, seed: int, device: Any) -> None:
    """Refuse a model whose loss is not what the rows' losses add up to by `weighted`; tried on one batch.

    A loss that draws random numbers of its own cannot be tried; the log says so.

    Raises:
        UserError: its loss of the batch is another one than its halves'.
    """
    if len(batch) < 2:
        return
    training = model.training
    model.eval()

    def loss(rows: Tensor, share: BatchShare | None, salt: int = 0) -> float:
        torch.manual_seed(seed + salt)
        own = batch[rows].to(device)
        with drawing(KeyedDraws(seed, 0, 0, rows)):
            found = dict(terms(own))
        if share is not None:
            found = weighted(model, found, batch, own, share)
        return float(sum(term.float() for term in found.values()))

    state = torch.get_rng_state()
    try:
        every = torch.arange(len(batch))
        whole = loss(every, None)
        if loss(every, None, salt=1) != whole:
            logger.warning(
                "the loss of %s draws random numbers of its own; it is taken for a mean over rows", type(model).__name__
            )
            return
        halves = [BatchShare(len(batch), rank, 2, lambda part: [part]) for rank in range(2)]
        joined = sum(loss(half.places, half) for half in halves)
    finally:
        torch.set_rng_state(state)
        model.train(training)
    if abs(joined - whole) > _TOLERANCE * max(1.0, abs(whole)):
        raise UserError(
            f"num_workers: the loss of {type(model).__name__} is not a mean over rows ({whole:.6f} for a batch, "
            f"{joined:.6f} for its two halves together), so workers cannot share a batch; set num_workers: 1"
            + (" or write averaged_over(interaction)" if isinstance(model, VectorRecommender) else "")
        )
