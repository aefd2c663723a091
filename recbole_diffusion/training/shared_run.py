"""What a group of workers must agree on before it trains: who reads the data first, and that the work can be shared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from recbole.utils import EvaluatorType

from recbole_diffusion.errors import UserError
from recbole_diffusion.training.batch_terms import check_mean_over_rows
from recbole_diffusion.training.epochs import OneLossEpochs
from recbole_diffusion.training.losses import terms_of
from recbole_diffusion.training.worker_group import WorkerGroup

_Read = TypeVar("_Read")
_TRIED_ROWS = 64


def in_turn(workers: WorkerGroup, read: Callable[[], _Read]) -> _Read:
    """Let the first worker read, then the others: they find in the cache what it has put there.

    Raises:
        UserError: what the first worker was refused, at all of them.
    """
    if workers.size == 1:
        return read()
    if not workers.first:
        refused = workers.broadcast(None)
        if refused is not None:
            raise UserError(refused)
        return read()
    try:
        found = read()
    except UserError as error:
        workers.broadcast(str(error))
        raise
    workers.broadcast(None)
    return found


def check_workers(config: Any, trainer: Any, train_data: Any, workers: WorkerGroup) -> None:
    """Refuse a run that its workers could not share.

    Args:
        config: the run's configuration.
        trainer: made by `trainer_class`.
        train_data: the training loader.
        workers: the group.

    Raises:
        UserError: says why, and which key to change.
    """
    asked = config["num_workers"]
    if asked != workers.size:
        raise UserError(f"num_workers is {asked}, but this trains in {workers.size} process(es); set num_workers: 1")
    if workers.size == 1:
        return
    if not isinstance(trainer, OneLossEpochs):
        raise UserError(
            f"num_workers is {asked}, but {config['model']} has training epochs of its own ({type(trainer).__name__}), "
            "which workers cannot share; set num_workers: 1"
        )
    if config["eval_type"] != EvaluatorType.RANKING:
        raise UserError(f"num_workers is {asked}, but metrics {config['metrics']} rank nothing; set num_workers: 1")
    if not config.entry.ours:
        # a loader that samples negatives goes on as if nothing had been read
        state = np.random.get_state()  # noqa: NPY002 (RecBole draws from it)
        batch = train_data.collate_fn(np.arange(min(len(train_data._dataset), _TRIED_ROWS)))
        np.random.set_state(state)  # noqa: NPY002
        terms = terms_of(trainer.model, None)
        check_mean_over_rows(trainer.model, terms, batch, config["seed"], config["device"])
