"""One pass over the training rows of a model that minimises one loss: every batch a step of the optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from recbole_diffusion.errors import UserError
from recbole_diffusion.training.batch_terms import BatchTerms
from recbole_diffusion.training.evaluation import RankingTrainer, progress
from recbole_diffusion.training.losses import EpochLosses, stop_unless_finite, terms_of
from recbole_diffusion.training.row_wise_adam import clip_gradients


class OneLossEpochs(RankingTrainer):
    """A trainer's epochs for a model with one loss; the rest of the trainer is `trainer.py`'s."""

    scaler: torch.amp.GradScaler
    loss_terms: dict[str, float]
    _autocast: Callable[[], contextlib.AbstractContextManager[Any]]

    _terms: BatchTerms | None = None

    def _batch_terms(self, loss_function: Any) -> BatchTerms:
        """What turns a batch into the terms of its loss; made once, since workers agree on it."""
        if self._terms is None:
            config = self.config
            keyed, seed = config["train_noise"] == "keyed", config["seed"]
            terms = terms_of(self.model, loss_function)
            self._terms = BatchTerms(self.model, terms, self.workers, seed=seed, keyed=keyed, device=self.device)
        return self._terms

    def _train_epoch(
        self, train_data: Any, epoch_idx: int, loss_func: Any = None, show_progress: bool = False
    ) -> float:
        """One pass over the training rows; the sum over batches of the loss, and in `loss_terms` of its named terms."""
        self.model.train()
        terms_of_batch = self._batch_terms(loss_func)
        terms_of_batch.start_epoch(epoch_idx)
        losses = EpochLosses(self.workers)
        for index, batch in enumerate(progress(train_data, f"epoch {epoch_idx + 1}/{self.epochs}", show_progress)):
            self.optimizer.zero_grad()
            with self._autocast():
                interaction, terms = terms_of_batch(batch, epoch_idx, index)
            loss, value = losses.add(terms)
            user_field, last = self.config["USER_ID_FIELD"], self.folder.last
            stop_unless_finite(value, terms, interaction, user_field, epoch=epoch_idx, batch=index, last=last)
            self.scaler.scale(loss).backward()
            if self.clip_grad_norm:
                self.scaler.unscale_(self.optimizer)
                clip_gradients(self.model.parameters(), **self.clip_grad_norm)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if not losses.batches:
            raise UserError("there is no training row: every history has one item; lower the filters or use more data")
        self.loss_terms = losses.terms
        return losses.total
