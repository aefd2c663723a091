"""The training loop: RecBole's trainer with exact resume, atomic checkpoints and evaluation noise that belongs to rows.

What RecBole's `Trainer` does stays (losses, optimisers, metrics); what is added or replaced:
  - step learning-rate decay, gradient clipping that knows the loss scaler, bf16 / fp16 autocast, fused Adam;
  - a checkpoint after every epoch with optimiser, scheduler, every generator's state: a run cut and resumed gives the
  same
    weights, bit for bit on a CPU, as one that was not;
  - early stopping counts a strictly better score alone as better;
  - a loss that is not finite stops the run and names the batch (`losses.py`);
  - the terms of a loss are logged one by one;
  - Ctrl-C leaves the last good checkpoint and says how to resume;
  - the row number of an evaluation row goes to the model, so that its noise does not depend on the batch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from recbole.trainer import Trainer
from recbole.utils import calculate_valid_score

from recbole_diffusion.compat import without_recbole_loggers
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.collector import RankCollector
from recbole_diffusion.models.base import DiffusionRecommender, VectorRecommender
from recbole_diffusion.models.item_table import ItemTable
from recbole_diffusion.provenance import check_same_data, package_versions
from recbole_diffusion.training.changed_attributes import TENSOR_PARTS, ChangedAttributes
from recbole_diffusion.training.checkpoint import (
    Checkpoint,
    load_model,
    model_tensors,
    pack_optimizer,
    pack_random_state,
    read_checkpoint,
    unpack_optimizer,
    unpack_random_state,
    write_checkpoint,
    write_text_atomically,
)
from recbole_diffusion.training.epochs import OneLossEpochs
from recbole_diffusion.training.evaluation import RankingTrainer
from recbole_diffusion.training.item_catalogue import keep_items
from recbole_diffusion.training.losses import TrainingDiverged, in_words, numbered, stop_unless_weights_finite
from recbole_diffusion.training.optimizer import fused_adam, refuse_dense_parameters, step_decay
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.worker_group import ALONE, WorkerGroup

__all__ = ["RunTrainer", "TrainingDiverged", "trainer_class"]

logger = logging.getLogger(__name__)

AUTOCAST_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

OWN_PROCEDURE = (
    "{} trains in a way of its own that cannot be checkpointed and resumed here; "
    "run this model with RecBole's own run_recbole"
)


def _check_trainer(base: Any) -> None:
    """Refuse RecBole trainers with a training procedure of their own."""
    if not issubclass(base, Trainer) or base.fit is not Trainer.fit:
        raise UserError(OWN_PROCEDURE.format(base.__name__))


_CLASSES: dict[Any, Any] = {}


def trainer_class(base: Any) -> Any:
    """The subclass of a RecBole trainer that trains, evaluates and checkpoints as this module says.

    Raises:
        UserError: `base` has a training procedure of its own (S3Rec, NCL, RaCT, gradient-boosted trees).
    """
    _check_trainer(base)
    if base not in _CLASSES:
        if base is Trainer:
            _CLASSES[base] = RunTrainer
        else:
            loop = RunTrainer if base._train_epoch is Trainer._train_epoch else _Run
            _CLASSES[base] = type(f"Run{base.__name__}", (loop, base), {})
    return _CLASSES[base]


class _Run(RankingTrainer):
    """RecBole's trainer inside a run folder. Made by `trainer_class`."""

    def __init__(
        self,
        config: Any,
        model: torch.nn.Module,
        folder: RunFolder,
        train_data: Any = None,
        fingerprint: dict[str, Any] | None = None,
        workers: WorkerGroup = ALONE,
    ) -> None:
        with without_recbole_loggers():
            super().__init__(config, model)
        self.item_tensor: Any = None
        self.changed = ChangedAttributes(model)
        if sum(isinstance(value, torch.optim.Optimizer) for value in vars(self).values()) > 1:
            raise UserError(OWN_PROCEDURE.format(type(self).__name__.removeprefix("Run")))
        self.folder = folder
        self.workers = workers
        self.eval_collector = RankCollector(config)
        self.train_data = train_data
        self.fingerprint = fingerprint
        self.precision = config["precision"] or "fp32"
        if self.precision == "fp32" and config["enable_amp"]:
            self.precision = "bf16" if self.device.type == "cpu" else "fp16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.lr_scheduler = step_decay(self.optimizer, config)
        self.history: list[dict[str, Any]] = []
        self.loss_terms: dict[str, float] = {}  # of the epoch: sums over batches of the loss's named terms
        self.best_epoch: int | None = None
        self.seconds_before, self.processor_seconds_before = 0.0, 0.0
        self.started, self.started_processor = time.perf_counter(), time.process_time()
        self.stopped = False
        self.epoch_ended: Callable[[list[dict[str, Any]]], None] = lambda history: None  # after its checkpoint

    # building -------------------------------------------------------------------------------------------------------

    def _build_optimizer(self, **kwargs: Any) -> torch.optim.Optimizer:
        parameters = kwargs["params"] = list(kwargs.get("params", self.model.parameters()))
        learner: Any = kwargs.get("learner", self.learner)
        rate: Any = kwargs.get("learning_rate", self.learning_rate)
        decay: Any = kwargs.get("weight_decay", self.weight_decay)
        refuse_dense_parameters(learner, self.model)
        row_wise = any(isinstance(part, ItemTable) and part.gradient == "rows" for part in self.model.modules())
        fused = fused_adam(learner, parameters, rate, decay, row_wise=row_wise)
        return fused or super()._build_optimizer(**kwargs)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=AUTOCAST_TYPES[self.precision])

    # checkpoints ----------------------------------------------------------------------------------------------------

    def _generators(self) -> list[tuple[str, torch.Generator]]:
        loaders = {
            "train_data": self.train_data,
            "general_data": getattr(
                self.train_data, "general_dataloader", None
            ),  # RecBole's loader of knowledge graphs
            "kg_data": getattr(self.train_data, "kg_dataloader", None),
        }
        return [(name, loader.generator) for name, loader in loaders.items() if hasattr(loader, "generator")]

    def _facts(self, epoch: int) -> dict[str, Any]:
        return {
            "model": self.config["model"],
            "dataset": self.config["dataset"],
            "epoch": epoch,
            "best_epoch": self.best_epoch,
            "best_valid_score": float(self.best_valid_score) if math.isfinite(self.best_valid_score) else None,
            "best_valid_result": dict(self.best_valid_result) if self.best_valid_result else None,
            "config": self.config.to_plain(),
            "versions": package_versions(),
            "data": self.fingerprint,
        }

    def _save_best(self, epoch: int) -> None:
        """Write best/: the weights with the facts in their header, the facts beside them for people, and the items."""
        if not self.folder.writes:
            return
        facts = self._facts(epoch)
        keep_items(self.folder.best, self.train_data, self.fingerprint)
        write_checkpoint(self.folder.best, Checkpoint(model_tensors(self.model), facts))
        write_text_atomically(
            self.folder.best.with_suffix(".json"), json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        )

    def _save_last(self, epoch: int) -> None:
        """Write last/: everything that the next epoch depends on."""
        if not self.folder.writes:
            return
        optimizer_tensors, optimizer_facts = pack_optimizer(self.optimizer)
        random_tensors, random_facts = pack_random_state(self._generators(), self.device)
        changed_tensors, changed_numbers = self.changed.pack()
        tensors = {**model_tensors(self.model), **optimizer_tensors, **random_tensors, **changed_tensors}
        facts = self._facts(epoch)
        facts.update(
            attributes=changed_numbers,
            cur_step=self.cur_step,
            stopped=self.stopped,
            seconds=self.seconds,
            processor_seconds=self.processor_seconds,
            history=self.history,
            optimizer=optimizer_facts,
            random=random_facts,
            scheduler=self.lr_scheduler.state_dict() if self.lr_scheduler else None,
            scaler=self.scaler.state_dict(),
        )
        write_checkpoint(self.folder.last, Checkpoint(tensors, facts))
        self.folder.write_metrics(self.history)

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """RecBole's hook for a trainer of its own; the loop below writes the checkpoints itself."""

    def resume(self) -> bool:
        """Continue from last/ of the run folder; False when the run was cut before its first epoch ended.

        Raises:
            UserError: the data are not those that the run was trained on, or the checkpoint does not fit.
        """
        self.folder.remove_unfinished()
        if not self.folder.last.is_file():
            return False
        checkpoint = read_checkpoint(self.folder.last)
        facts = checkpoint.facts
        check_same_data(facts.get("data"), self.fingerprint, self.folder.last, same_files=True)
        load_model(self.model, checkpoint, self.folder.last)
        numbers = facts.get("attributes", {})  # runs of older versions have none
        self.changed.unpack({part: checkpoint.part(part) for part in TENSOR_PARTS}, numbers)
        unpack_optimizer(self.optimizer, checkpoint.part("optimizer"), facts["optimizer"])
        if self.lr_scheduler is not None and facts["scheduler"] is not None:
            self.lr_scheduler.load_state_dict(facts["scheduler"])
        self.scaler.load_state_dict(facts["scaler"])
        self.start_epoch = facts["epoch"] + 1
        self.cur_step = facts["cur_step"]
        self.stopped = facts["stopped"] and self.cur_step > self.stopping_step
        self.best_epoch = facts["best_epoch"]
        if facts["best_valid_score"] is not None:
            self.best_valid_score = facts["best_valid_score"]
        self.best_valid_result = facts["best_valid_result"]
        self.history = facts["history"]
        self.seconds_before = facts["seconds"]
        self.processor_seconds_before = facts.get("processor_seconds", 0.0)  # runs of older versions have none
        unpack_random_state(self._generators(), self.device, checkpoint.part("generator"), facts["random"])
        self.folder.write_metrics(self.history)
        if self.best_epoch == self.start_epoch and self._stored_best_epoch() != self.best_epoch:
            self._save_best(facts["epoch"])  # the run was cut between its two checkpoints; these are the best weights
        logger.info("resumed from %s after epoch %d", self.folder.last, self.start_epoch)
        return True

    @property
    def goes_on(self) -> bool:
        """Whether an epoch is left to train; all of several workers ask together."""
        return self.start_epoch < self.epochs and not (self.stopped or self._late())

    def load_best(self) -> None:
        """Put the best weights into the model."""
        if self.workers.first and self.folder.best.is_file():
            load_model(self.model, read_checkpoint(self.folder.best), self.folder.best)
        self.workers.broadcast_weights(self.model)

    def _stored_best_epoch(self) -> int | None:
        """The epoch whose weights best/ holds, from 1; None without one."""
        if not self.folder.best.is_file():
            return None
        epoch: int = read_checkpoint(self.folder.best).facts["epoch"]
        return epoch + 1

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier parts of a resumed run included."""
        return self.seconds_before + time.perf_counter() - self.started

    @property
    def processor_seconds(self) -> float:
        """CPU time of this process's threads for the run so far, earlier parts included: other programs that share the
        cores lengthen it little."""
        return self.processor_seconds_before + time.process_time() - self.started_processor

    # training -------------------------------------------------------------------------------------------------------

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train to `epochs` or early stopping; the best validation score and its metrics.

        Raises:
            TrainingDiverged: a loss is not finite.
            KeyboardInterrupt: passed on after the log says how to resume.
        """
        self.train_data = train_data
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        if isinstance(self.model, VectorRecommender) and self.model.loss_choice.why:
            logger.info(self.model.loss_choice.why)
        if self.start_epoch:
            self.stopped = self.stopped or self._late()
            logger.info("epochs %d to %d follow", self.start_epoch + 1, self.epochs)
        try:
            for epoch in range(self.start_epoch, self.epochs):
                if self.stopped:
                    break
                self._one_epoch(epoch, train_data, valid_data, verbose, saved, show_progress, callback_fn)
        except KeyboardInterrupt as interrupt:
            logger.warning("interrupted; the last complete epoch is kept, go on with --resume=%s", self.folder.path)
            interrupt.run_folder = self.folder.path  # type: ignore[attr-defined]  # the command line says how to go on
            raise
        return self.best_valid_score, self.best_valid_result

    def _one_epoch(
        self,
        epoch: int,
        train_data: Any,
        valid_data: Any,
        verbose: bool,
        saved: bool,
        show_progress: bool,
        callback_fn: Callable[[int, float], None] | None,
    ) -> None:
        """Train and, when due, validate one epoch; then write its checkpoint."""
        began = time.perf_counter()
        rate = self.optimizer.param_groups[0]["lr"]
        self.loss_terms = {}
        losses = self._train_epoch(train_data, epoch, show_progress=show_progress)
        stop_unless_weights_finite(self.model, epoch=epoch, last=self.folder.last)
        batches = max(len(train_data), 1)
        loss = (sum(losses) if isinstance(losses, tuple) else losses) / batches
        terms = {name: value / batches for name, value in (self.loss_terms or numbered(losses)).items()}
        self.train_loss_dict[epoch] = loss
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "train_loss": loss,
            **{f"train_{name}": value for name, value in terms.items()},
            "learning_rate": rate,
            "train_seconds": round(time.perf_counter() - began, 3),
        }
        message = f"epoch {epoch + 1}/{self.epochs}  {in_words(loss, terms)}  {row['train_seconds']:.1f} s"
        improved = False
        score = None
        late = self._late()
        due = self.eval_step > 0 and ((epoch + 1) % self.eval_step == 0 or epoch + 1 == self.epochs or late)
        if valid_data and due:
            score, result, row["valid_seconds"] = self._validate(valid_data, show_progress)
            row.update({f"valid_{name}": value for name, value in result.items()})
            improved = self._improves(score)
            if improved:
                self.best_valid_score, self.cur_step = score, 0
            else:
                self.cur_step += 1
                self.stopped = self.cur_step > self.stopping_step
            message += f"  {self.valid_metric} {score:.6f}{' best' if improved else ''}  {row['valid_seconds']:.1f} s"
            if improved:
                self.best_valid_result = dict(result)
        elif not valid_data or self.eval_step <= 0:
            improved = True  # without validation the last epoch is the one to keep
        self.history.append(row)
        if improved:
            self.best_epoch = epoch + 1
        if improved and due and saved and valid_data:  # before last/: an epoch cut here is run and written again
            self._write_per_user("valid", valid_data._dataset, self.best_valid_result or {})
        if saved:  # last/ first: a run cut between the two writes best/ from it when it is resumed
            self._save_last(epoch)
            if improved:
                self._save_best(epoch)
        if verbose:
            logger.info(message)
        if self.stopped and verbose:
            logger.info("stopped early: no better %s since epoch %s", self.valid_metric, self.best_epoch)
        elif late and verbose:
            logger.info("stopped: time_limit is %s s (%s)", self.config["time_limit"], self.config["time_limit_clock"])
        self.stopped = self.stopped or late
        self.epoch_ended(self.history)
        if score is not None and callback_fn is not None:
            callback_fn(epoch, score)

    def _late(self) -> bool:
        """Whether the run has taken longer than it may; what the first of several workers says."""
        limit = self.config["time_limit"]
        if limit is None:
            return False
        spent = self.processor_seconds if self.config["time_limit_clock"] == "processor" else self.seconds
        return bool(self.workers.broadcast(spent > limit))

    def _improves(self, score: float) -> bool:
        """Whether a validation score is strictly better than the best so far. RecBole counts a tie as an improvement,
        so a
        model that no longer learns never stops."""
        if self.best_epoch is None:
            return not math.isnan(score)
        return score > self.best_valid_score if self.valid_metric_bigger else score < self.best_valid_score

    def _validate(self, valid_data: Any, show_progress: bool) -> tuple[float, dict[str, float], float]:
        began = time.perf_counter()
        diffusion = isinstance(self.model, DiffusionRecommender)
        if diffusion:
            self.model.validating = True
        try:
            result = self.evaluate(valid_data, load_best_model=False, show_progress=show_progress)
        finally:
            if diffusion:
                self.model.validating = False
        return float(calculate_valid_score(result, self.valid_metric)), result, round(time.perf_counter() - began, 3)


class RunTrainer(OneLossEpochs, _Run):
    """The trainer of models that minimise one loss, ours and most of RecBole's."""
