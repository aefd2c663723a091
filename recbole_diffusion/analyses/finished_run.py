"""A finished run opened once, its data and the model of its checkpoint, for whatever an analysis ranks with it.

Shapes: B rows of a batch, R rows of the evaluation set, K vectors a row, D embedding, V items.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataloader import NegSampleEvalDataLoader
from recbole.data.interaction import Interaction

from recbole_diffusion.analyses.request import Request
from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.models.base import EVALUATION_ROW
from recbole_diffusion.models.several_chains import why_without_chain
from recbole_diffusion.quick_start import evaluation_config
from recbole_diffusion.session import TrainingSession
from recbole_diffusion.training.reverse_steps_choice import refuse_open_choice
from recbole_diffusion.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

SPLITS = ("test", "valid")


@dataclass(frozen=True)
class FinishedRun:
    """A checkpoint's model with its data.

    Attributes:
        checkpoint: the file of weights.
        config: the run's keys, with those of the analysis over them.
        session: the data, the model and its trainer.
        split: which rows are ranked, test or valid.
        rows: the loader of these.
    """

    checkpoint: Path
    config: RunConfig
    session: TrainingSession
    split: str
    rows: Any

    @property
    def trainer(self) -> Any:
        """The trainer, which ranks."""
        return self.session.trainer

    @property
    def model(self) -> Any:
        """The model."""
        return self.session.trainer.model

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(self.config["device"])

    def __len__(self) -> int:
        """R."""
        return len(self.rows._dataset)

    def evaluate(self) -> tuple[dict[str, float], pd.DataFrame]:
        """Rank every row: the metrics as `recbole-diff evaluate` has them, and those of every row.

        Returns:
            name -> mean; (R, metrics) of those that have a value for a row, indexed by user token, by row where the
            data have no users.
        """
        trainer, dataset = self.trainer, self.rows._dataset
        show = bool(self.config["show_progress"])
        result = trainer.evaluate(self.rows, load_best_model=False, show_progress=show, keep_rows=True)
        kept = trainer.evaluated_rows
        index = pd.RangeIndex(len(kept.ranking), name="row")
        if kept.users is not None:
            index = pd.Index(dataset.field2id_token[dataset.uid_field][kept.users], name="user")
        return result, pd.DataFrame(kept.metrics, index=index)

    def users_of(self, rows: np.ndarray) -> list[str | None]:
        """User tokens of rows (B,); None where the data have no users."""
        dataset = self.rows._dataset
        if dataset.uid_field not in dataset.inter_feat:
            return [None] * len(rows)
        numbers = np.asarray(dataset.inter_feat[dataset.uid_field])[rows]
        return [str(token) for token in dataset.field2id_token[dataset.uid_field][numbers]]

    def batch_of(self, rows: np.ndarray) -> Any:
        """A batch of any rows (B,) of the evaluation set, which keep their numbers there, and with them their noise."""
        batch = self.rows.collate_fn(np.asarray(rows))
        batch[0].update(Interaction({EVALUATION_ROW: torch.as_tensor(rows, dtype=torch.int64)}))
        return batch


def open_run(request: Request, *, samples_for: str | None = None) -> FinishedRun:
    """The run of the key `checkpoint`: its configuration is checked first, then its data are read, once.

    Args:
        request: with `checkpoint`, and `split` where the analysis takes it.
        samples_for: name of the analysis, if it needs a model that samples.

    Raises:
        UserError: anything a person can correct, in one line.
    """
    config, checkpoint = evaluation_config(request.options["checkpoint"], request.config, data_path=request.data_path)
    if samples_for is not None:
        check_samples(config, checkpoint, samples_for)
    if samples_for != "reverse_steps":  # which ranks with numbers of its own
        refuse_open_choice(config, checkpoint)
    split = request.choice("split", SPLITS)
    if config["num_threads"]:
        torch.set_num_threads(config["num_threads"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        session = TrainingSession(config, RunFolder(request.output, writes=False))
        session.take(checkpoint)
    rows = session.test_data if split == "test" else session.valid_data
    if not rows:
        raise UserError(f"the run's protocol leaves no {split} rows; change --split")
    if isinstance(rows, NegSampleEvalDataLoader):
        raise UserError(
            f"eval_args.mode is {config['eval_args']['mode']}, but an analysis ranks all items; add "
            '--eval_args="{mode: full}"'
        )
    session.trainer.model.eval()
    return FinishedRun(checkpoint, config, session, split, rows)


def check_samples(config: RunConfig, checkpoint: Path, analysis: str) -> None:
    """Refuse a model that draws nothing where it ranks: without diffusion, or with its diffusion switched off.

    Raises:
        UserError: it is one.
    """
    why = why_without_chain(config.entry.model_class, config)
    if why is not None:
        raise UserError(f"{analysis}: {checkpoint} is of {config.entry.name}, which {why}")


def shown_cutoff(request: Request, config: RunConfig) -> int:
    """The cut-off of a picture's metrics: the key `cutoff`, else that of `valid_metric`, else the largest one.

    Raises:
        UserError: it is none of the run's.
    """
    cutoffs = list(config["topk"])
    _, _, text = str(config["valid_metric"]).partition("@")
    own = int(text) if text.isdigit() and int(text) in cutoffs else max(cutoffs)
    cutoff = request.whole("cutoff", own)
    if cutoff not in cutoffs:
        allowed = ", ".join(map(str, cutoffs))
        raise UserError(f"--cutoff is {cutoff}; the run's topk has {allowed}, add --topk=[{cutoff}]")
    return cutoff


def metrics_at(metrics: list[str], cutoff: int) -> list[str]:
    """Those of some metrics that have this cut-off."""
    return [name for name in metrics if name.endswith(f"@{cutoff}")]
