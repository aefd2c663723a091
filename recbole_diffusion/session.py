"""A run step by step: open (data, model, trainer), train or take a checkpoint, test, finish (result.json).

`quick_start.run` does them in one go; a sweep trains many and tests one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recbole.utils import init_seed

from recbole_diffusion.config import RunConfig
from recbole_diffusion.config_protocols import recorded_protocol
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.loggers.run_loggers import RunLoggers
from recbole_diffusion.memory_reuse import reuse_freed_memory
from recbole_diffusion.provenance import check_same_data, code_version, data_fingerprint, device_name, package_versions
from recbole_diffusion.registry import ModelEntry
from recbole_diffusion.training.checkpoint import Checkpoint, load_model, model_tensors, read_checkpoint
from recbole_diffusion.training.reverse_steps_choice import (
    StepsChoice,
    check_validation_rows,
    choose_reverse_steps,
    is_open,
    store_choice,
)
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.shared_run import check_workers, in_turn
from recbole_diffusion.training.trainer import trainer_class
from recbole_diffusion.training.worker_group import ALONE, WorkerGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run ends with; the same facts as its result.json."""

    model: str
    dataset: str
    folder: Path
    valid_metric: str
    best_epoch: int | None
    epochs: int
    best_valid_score: float | None
    valid_result: dict[str, float]
    test_result: dict[str, float]
    seed: int
    parameters: int
    device: str
    wall_seconds: float
    processor_seconds: float
    train_seconds_per_epoch: float | None
    reverse_steps_choice: dict[str, Any] | None = None


class TrainingSession:
    """One run of a model in a run folder.

    Attributes:
        config: its configuration.
        folder: where it writes.
        trainer: RecBole's trainer inside the folder; `trainer.model` is the model.
        train_data, valid_data, test_data: the loaders; the last two may be None where the split leaves them empty.
        fingerprint: what tells these data from others.
        valid_result, test_result: metrics so far; empty before they are there.
        loggers: TensorBoard, wandb, mlflow, as `loggers` asks for them.
    """

    def __init__(self, config: RunConfig, folder: RunFolder, workers: WorkerGroup = ALONE) -> None:
        """Read the data and build model and trainer, from the configuration's seed.

        Args:
            config: its configuration.
            folder: where it writes; of several workers the first one's writes, the others' do not.
            workers: the group that trains the model, each of which opens the same session.

        Raises:
            UserError: anything a person can correct, in one line.
        """
        self.config, self.folder, self.workers = config, folder, workers
        self.began = time.perf_counter()
        self.checkpoint: Path | None = None
        self.valid_result: dict[str, float] = {}
        self.test_result: dict[str, float] = {}
        self.steps_choice: StepsChoice | None = None
        entry, device = config.entry, config["device"]
        config["checkpoint_dir"] = str(folder.path)
        logger.info("%s on %s, device %s, folder %s", entry.name, config["dataset"], device_name(device), folder.path)
        if config["reuse_memory"] and torch.device(device).type == "cpu":
            reuse_freed_memory()
        init_seed(config["seed"], config["reproducibility"])
        dataset = in_turn(workers, lambda: checked_dataset(entry.dataset_class)(config))
        self.train_data, self.valid_data, self.test_data = prepare_loaders(config, dataset)
        self.fingerprint = data_fingerprint(Path(config["data_path"]), dataset)
        _log_dataset(dataset, self.train_data, self.valid_data, self.test_data)
        items = dataset.item_num - 1
        if max(config["topk"]) > items:
            raise UserError(f"topk asks for {max(config['topk'])} items, the data have {items}; lower topk")
        init_seed(config["seed"], config["reproducibility"])
        model = _build_model(entry, config, self.train_data).to(device)
        _warn_of_unseen_users(config, model, dataset)
        model_tensors(model)  # refuses, before it trains, a model that could not be stored
        trainer_type = trainer_class(entry.trainer_class)
        self.trainer = trainer_type(config, model, folder, self.train_data, self.fingerprint, workers)
        self.loggers = RunLoggers(config, folder)
        self.trainer.epoch_ended = self.loggers.epochs
        self.parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        logger.info("%d parameters", self.parameters)

    def train(
        self,
        *,
        resume: bool = False,
        callback_fn: Callable[[int, float], None] | None = None,
        written_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Train to the end, and put the best epoch's weights into the model.

        Args:
            resume: go on from the folder's last checkpoint.
            callback_fn: called with the epoch, from 0, and the validation score after each validation, once the
                epoch's checkpoint is written.
            written_config: what config.yaml of a resumed run is to say; None for this session's configuration.

        Raises:
            TrainingDiverged: a loss is not finite.
            UserError: the checkpoint does not fit.
        """
        check_workers(self.config, self.trainer, self.train_data, self.workers)
        if resume:
            if not self.trainer.resume():
                logger.info("the run was cut before its first epoch ended; it starts again")
        if self.trainer.goes_on:  # before config.yaml says so: what was finished is not any more
            self.folder.remove_result()
        if resume:
            self.folder.write_config(self.config.to_plain() if written_config is None else written_config)
        if self.config["reverse_steps"] == "auto":  # a choice of earlier weights, or of the run that is repeated, goes
            check_validation_rows(self.valid_data)
            self.config["reverse_steps_chosen"] = None
            self.trainer.model.use_reverse_steps(None)
        show = bool(self.config["show_progress"])
        with self._logged():
            self.loggers.epochs(self.trainer.history)
            self.trainer.fit(self.train_data, self.valid_data, show_progress=show, callback_fn=callback_fn)
            self.trainer.load_best()
        self.valid_result = dict(self.trainer.best_valid_result or {})

    def choose_reverse_steps(self) -> None:
        """With `reverse_steps: auto`, choose the number on the validation rows, for the weights that the model has.

        A run's own choice is stored in its config.yaml and best checkpoint; one for another run's checkpoint stays in
        this session, that run is not altered. Without `auto`, or where the number is chosen, nothing happens.

        Raises:
            UserError: there are no validation rows.
            KeyboardInterrupt: passed on after the log says how to go on.
        """
        if not is_open(self.config):
            return
        weights = f"epoch {self.trainer.best_epoch}" if self.checkpoint is None else str(self.checkpoint)
        show = bool(self.config["show_progress"])
        with self._logged():
            try:
                self.steps_choice = choose_reverse_steps(
                    self.trainer, self.valid_data, weights=weights, show_progress=show
                )
            except KeyboardInterrupt as interrupt:
                if self.checkpoint is None:
                    logger.warning(
                        "interrupted while the reverse steps are chosen; go on with --resume=%s", self.folder.path
                    )
                    interrupt.run_folder = self.folder.path  # type: ignore[attr-defined]  # for the command line
                raise
        if self.checkpoint is None:
            store_choice(self.folder, self.steps_choice)
        else:
            self.folder.write_config(self.config.to_plain())
            number = self.steps_choice.chosen
            logger.info("%s is left as it is; --reverse_steps=%d gives it this number", self.checkpoint, number)

    def take(self, checkpoint: Path) -> None:
        """Take a checkpoint's weights instead of training; nothing is ranked yet.

        Raises:
            UserError: the checkpoint is of other data, other interactions of the same users and items among them, or of
                another model.
        """
        self.checkpoint = checkpoint
        self.trainer.eval_collector.data_collect(self.train_data)
        stored = read_checkpoint(checkpoint)
        check_same_data(stored.facts.get("data"), self.fingerprint, checkpoint, same_files=True)
        load_model(self.trainer.model, stored, checkpoint)

    def use(self, checkpoint: Path) -> None:
        """Take a checkpoint's weights, and rank the validation rows with them; raises what `take` does."""
        self.take(checkpoint)
        self.choose_reverse_steps()
        if self.valid_data:
            self.valid_result = self._evaluate(self.valid_data, "valid")

    def rebuild(self, keys: Mapping[str, Any]) -> None:
        """Put a model of other keys in the place of the one that there is, with its weights; the data stay.

        Args:
            keys: of the configuration, which keeps them; none that data or weights depend on.

        Raises:
            UserError: a value that cannot be, or weights that do not fit.
        """
        for key, value in keys.items():
            self.config[key] = value
        weights = Checkpoint(model_tensors(self.trainer.model))
        init_seed(self.config["seed"], self.config["reproducibility"])
        model = _build_model(self.config.entry, self.config, self.train_data).to(self.config["device"])
        load_model(model, weights, self.checkpoint or self.folder.best)
        self.trainer.model = model

    def test(self) -> dict[str, float]:
        """Rank the test rows with the weights that the model has; empty where there are none."""
        with self._logged():
            self.test_result = self._evaluate(self.test_data, "test") if self.test_data else {}
        return self.test_result

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """What ends the run inside, ends its logs."""
        try:
            yield
        except BaseException as error:
            self.loggers.end(error)
            raise

    def _evaluate(self, data: Any, split: str) -> dict[str, float]:
        show = bool(self.config["show_progress"])
        result: dict[str, float] = self.trainer.evaluate(data, load_best_model=False, show_progress=show, split=split)
        return result

    def finish(self) -> RunResult:
        """Write result.json, end the logs, and return the figures."""
        config, trainer = self.config, self.trainer
        times = [row["train_seconds"] for row in trainer.history]
        seconds = trainer.seconds if self.checkpoint is None else time.perf_counter() - self.began
        result = RunResult(
            model=config.entry.name,
            dataset=config["dataset"],
            folder=self.folder.path,
            valid_metric=config["valid_metric"],
            best_epoch=trainer.best_epoch,
            epochs=len(trainer.history),
            best_valid_score=float(trainer.best_valid_score) if trainer.best_valid_result else None,
            valid_result=self.valid_result,
            test_result=self.test_result,
            seed=config["seed"],
            parameters=self.parameters,
            device=device_name(config["device"]),
            wall_seconds=round(seconds, 3),
            processor_seconds=round(trainer.processor_seconds, 3),
            train_seconds_per_epoch=sorted(times)[len(times) // 2] if times else None,
            reverse_steps_choice=None if self.steps_choice is None else self.steps_choice.facts(),
        )
        facts = dataclasses.asdict(result)
        facts.update(
            folder=self.folder.path.name,
            preset=config.preset,
            checkpoint=str(self.checkpoint) if self.checkpoint else None,
            command=_command(),
            code=code_version(),
            versions=package_versions(),
            data=self.fingerprint,
            protocol=recorded_protocol(config),
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        )
        self.folder.write_result(json.loads(json.dumps(facts, default=str)))
        logger.info("result in %s", self.folder.result)
        self.loggers.finish(trainer.history, result.best_epoch, self.valid_result, self.test_result)
        return result


def _command() -> str:
    """How the program was called, absolute paths cut to their last part."""
    words = []
    for word in sys.argv:
        key, equals, value = word.rpartition("=")
        words.append(key + equals + (Path(value).name if Path(value).is_absolute() else value))
    return " ".join(words) if words and words[0] else "python"


def _build_model(entry: ModelEntry, config: RunConfig, train_data: Any) -> torch.nn.Module:
    """The model; a wrong value that one of its parts refuses becomes a person's error."""
    try:
        return entry.model_class(config, train_data._dataset)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    except KeyError as error:
        if config["selected_features"] and error.args[0] in config["selected_features"]:
            raise UserError(
                f"{entry.name} needs the item features {config['selected_features']} (selected_features), but "
                f"{error.args[0]!r} is not loaded; name it in load_col: {{item: [item_id, ...]}} or change the key"
            ) from error
        raise


def _warn_of_unseen_users(config: RunConfig, model: torch.nn.Module, dataset: Any) -> None:
    """A model with a vector for each user has learned none for the users that a split by users keeps apart."""
    tables = (part for part in model.modules() if isinstance(part, torch.nn.Embedding))
    if str(config["protocol"]).startswith("user_split") and any(
        table.num_embeddings == dataset.user_num != dataset.item_num for table in tables
    ):
        logger.warning(
            "%s has a vector for every user; protocol %s evaluates users that do not train, whose vectors stay as they "
            "began",
            config["model"],
            config["protocol"],
        )


def _log_dataset(dataset: Any, train_data: Any, valid_data: Any, test_data: Any) -> None:
    logger.info(
        "%d users, %d items; %d training, %d validation, %d test rows",
        dataset.user_num - 1,
        dataset.item_num - 1,
        len(train_data._dataset),
        len(valid_data._dataset) if valid_data else 0,
        len(test_data._dataset),
    )
