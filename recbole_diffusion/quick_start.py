"""One run: configuration -> data -> model -> training -> evaluation -> result, in one folder.

`run` trains and tests a model, ours or RecBole's; `evaluate` ranks with a checkpoint and trains nothing. Both return
what they also write to `result.json`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recbole.utils import init_seed

from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.config_protocols import protocol_facts, refuse_other_training_rows
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import check_same_data, code_version, data_fingerprint, device_name, package_versions
from recbole_diffusion.registry import ModelEntry
from recbole_diffusion.training.checkpoint import load_model, model_tensors, read_checkpoint
from recbole_diffusion.training.run_folder import RunFolder, RunLog
from recbole_diffusion.training.trainer import TrainingDiverged, trainer_class

logger = logging.getLogger(__name__)

RESUMABLE_KEYS = (
    "epochs",
    "stopping_step",
    "eval_step",
    "show_progress",
    "num_threads",
    "data_path",
    "eval_batch_size",
    "state",
    "use_gpu",
    "gpu_id",
    "cache",
    "cache_dir",
    "rank_memory",
    "save_per_user",
)


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
    train_seconds_per_epoch: float | None


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    config_files: Sequence[str | Path] = (),
    preset: str | None = None,
    data_path: str | Path | None = None,
    output: str | Path = "runs",
    resume: str | Path | None = None,
    show_progress: bool | None = None,
) -> RunResult:
    """Train a model, keep its best epoch by validation, test it.

    Args:
        model: a name (`--list_models`), ``package.module:Class``, or a class; without it a configuration file names it.
        dataset: a dataset's name: ``<data_path>/<dataset>/<dataset>.inter``; without it a configuration file names it.
        config: keys that override every file.
        config_files: YAML files, later ones win.
        preset: `paper` takes the settings of the model's paper for this dataset, below `config_files` and `config`.
        data_path: folder of the datasets.
        output: where the run's folder is made.
        resume: folder of an earlier run to continue; `model` and `dataset` are then its own, and `config` may hold
            only RESUMABLE_KEYS: where it runs, how long, and how often it validates.
        show_progress: progress bars; the key of the same name when None.

    Raises:
        UserError: anything a person can correct, in one line.
    """
    overrides = _overrides(config, data_path, show_progress)
    if preset is not None:
        overrides["preset"] = preset
    if resume is not None:
        folder = RunFolder.open(Path(resume))
        settings = _resumed_config(folder, model, dataset, overrides, config_files)
    else:
        settings = RunConfig(model, dataset, config_files, overrides)
        trainer_class(settings.entry.trainer_class)
        folder = RunFolder.create(Path(output), f"{settings['model']}-{settings['dataset']}")
    return _execute(settings, folder, resume=resume is not None)


def evaluate(
    checkpoint: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    data_path: str | Path | None = None,
    output: str | Path = "runs",
    show_progress: bool | None = None,
) -> RunResult:
    """Rank validation and test rows with a checkpoint, without training.

    Args:
        checkpoint: a run's folder (its best epoch is used) or a checkpoint file.
        config: keys that override those in the checkpoint, such as `reverse_steps` or `eval_seed`.
        data_path: folder of the datasets, where it is no longer the one of the run.
        output: where the folder of this evaluation is made.
        show_progress: progress bars.

    Raises:
        UserError: anything a person can correct, in one line.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = RunFolder.open(path).best
    stored = read_checkpoint(path)
    values = dict(stored.facts["config"])
    overrides = _overrides(config, data_path, show_progress)
    for name in ("model", "dataset", "preset"):
        if overrides.get(name, values.get(name)) != values.get(name):
            raise UserError(f"{path} is of {name} {values.get(name)}, not {overrides[name]}; leave {name} out")
    _default_origin_keys(values, overrides)
    if isinstance(overrides.get("eval_args"), Mapping):  # what is not given stays that of the run
        overrides["eval_args"] = {**values.get("eval_args", {}), **overrides["eval_args"]}
    settings = RunConfig(values["model"], values["dataset"], (), overrides.over(_run_keys(values), str(path)))
    refuse_other_training_rows(settings, values, path)
    folder = RunFolder.create(Path(output), f"evaluate-{settings['model']}-{settings['dataset']}")
    return _execute(settings, folder, checkpoint=path)


def _overrides(config: Mapping[str, Any] | None, data_path: str | Path | None, show_progress: bool | None) -> Overrides:
    overrides = config if isinstance(config, Overrides) else Overrides(dict(config or {}))
    if data_path is not None:
        overrides["data_path"] = str(data_path)
    if show_progress is not None:
        overrides["show_progress"] = show_progress
    return overrides


def _run_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a stored configuration that a new configuration takes."""
    return {key: value for key, value in values.items() if key not in ("model", "dataset")}


def _default_origin_keys(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Drop where the stored run ran, so that this machine's own device is used unless it is asked for."""
    for key in ("use_gpu", "gpu_id"):
        if key not in overrides:
            values.pop(key, None)


def _resumed_config(
    folder: RunFolder, model: Any, dataset: str | None, overrides: Overrides, config_files: Sequence[Any]
) -> RunConfig:
    from recbole_diffusion.config import read_yaml

    if folder.result.is_file() and not folder.last.is_file():
        raise UserError(f"{folder.path} is the folder of an evaluation; there is nothing to resume")
    stored = read_yaml(folder.config).values
    named = model.__name__ if isinstance(model, type) else model
    for name, given in (("model", named), ("dataset", dataset)):
        if given is not None and given not in (stored[name], str(stored[name]).rpartition(":")[2]):
            raise UserError(
                f"{folder.path} is a run of {name} {stored[name]}, not {given}; leave --{name} out to resume it"
            )
    if config_files:
        raise UserError("--config_files cannot be given with --resume: the run keeps its own config.yaml")
    stored.setdefault("preset", None)
    refused = [
        key for key in overrides if key in stored and key not in RESUMABLE_KEYS and overrides[key] != stored[key]
    ]
    if refused:
        raise UserError(
            f"'{refused[0]}' cannot change in a resumed run (it has {stored[refused[0]]!r}); "
            f"only {', '.join(RESUMABLE_KEYS)} can, or start a new run"
        )
    return RunConfig(stored["model"], stored["dataset"], (), overrides.over(_run_keys(stored), str(folder.config)))


def _execute(
    config: RunConfig, folder: RunFolder, *, resume: bool = False, checkpoint: Path | None = None
) -> RunResult:
    """Run `config` in `folder`: train and test, or only rank with `checkpoint`."""
    if config["num_threads"]:
        torch.set_num_threads(config["num_threads"])
    entry = config.entry
    trainer_type = trainer_class(entry.trainer_class)
    if not resume:
        folder.write_config(config.to_plain())
    with (
        RunLog(folder.log, config["state"] or "INFO", terminal=bool(config["show_progress"])),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        try:
            return _logged(config, entry, trainer_type, folder, resume, checkpoint)
        except UserError as error:
            logger.debug("error: %s", error)
            if not resume and not isinstance(error, TrainingDiverged):
                folder.discard_unless_trained()
            raise


def _logged(
    config: RunConfig, entry: ModelEntry, trainer_type: type, folder: RunFolder, resume: bool, checkpoint: Path | None
) -> RunResult:
    began = time.perf_counter()
    device = config["device"]
    config["checkpoint_dir"] = str(folder.path)
    logger.info("%s on %s, device %s, folder %s", entry.name, config["dataset"], device_name(device), folder.path)
    init_seed(config["seed"], config["reproducibility"])
    dataset = checked_dataset(entry.dataset_class)(config)
    train_data, valid_data, test_data = prepare_loaders(config, dataset)
    fingerprint = data_fingerprint(Path(config["data_path"]), dataset)
    _log_dataset(dataset, train_data, valid_data, test_data)
    if max(config["topk"]) > dataset.item_num - 1:
        raise UserError(f"topk asks for {max(config['topk'])} items, the data have {dataset.item_num - 1}; lower topk")
    init_seed(config["seed"], config["reproducibility"])
    model = _build_model(entry, config, train_data).to(device)
    _warn_of_unseen_users(config, model, dataset)
    model_tensors(model)  # refuses, before it trains, a model that could not be stored
    trainer = trainer_type(config, model, folder, train_data, fingerprint)
    parameters = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("%d parameters", parameters)
    show = bool(config["show_progress"])
    if checkpoint is None:
        if resume and not trainer.resume():
            logger.info("the run was cut before its first epoch ended; it starts again")
        if resume:
            folder.write_config(config.to_plain())
        trainer.fit(train_data, valid_data, show_progress=show)
        trainer.load_best()
        valid_result = dict(trainer.best_valid_result or {})
    else:
        trainer.eval_collector.data_collect(train_data)
        stored = read_checkpoint(checkpoint)
        check_same_data(stored.facts.get("data"), fingerprint, checkpoint, same_files=False)
        load_model(model, stored, checkpoint)
        valid_result = {}
        if valid_data:
            valid_result = trainer.evaluate(valid_data, load_best_model=False, show_progress=show, split="valid")
    test_result = (
        trainer.evaluate(test_data, load_best_model=False, show_progress=show, split="test") if test_data else {}
    )
    times = [row["train_seconds"] for row in trainer.history]
    result = RunResult(
        model=entry.name,
        dataset=config["dataset"],
        folder=folder.path,
        valid_metric=config["valid_metric"],
        best_epoch=trainer.best_epoch,
        epochs=len(trainer.history),
        best_valid_score=float(trainer.best_valid_score) if trainer.best_valid_result else None,
        valid_result=valid_result,
        test_result=test_result,
        seed=config["seed"],
        parameters=parameters,
        device=device_name(device),
        wall_seconds=round(trainer.seconds if checkpoint is None else time.perf_counter() - began, 3),
        train_seconds_per_epoch=sorted(times)[len(times) // 2] if times else None,
    )
    facts = dataclasses.asdict(result)
    facts.update(
        folder=folder.path.name,
        preset=config.preset,
        checkpoint=str(checkpoint) if checkpoint else None,
        command=_command(),
        code=code_version(),
        versions=package_versions(),
        data=fingerprint,
        protocol={
            **protocol_facts(config),
            **{key: config[key] for key in ("topk", "label_repeats", "eval_seed", "MAX_ITEM_LIST_LENGTH")},
        },
        finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )
    folder.write_result(json.loads(json.dumps(facts, default=str)))
    logger.info("result in %s", folder.result)
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
