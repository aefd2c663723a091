"""One run: configuration -> data -> model -> training -> evaluation -> result, in one folder.

`run` trains and tests a model, ours or RecBole's; `evaluate` ranks with a checkpoint and trains nothing. Both return
what they also write to `result.json`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recbole_diffusion.config import Overrides, RunConfig, read_yaml
from recbole_diffusion.config_keys import LOGGER_KEYS, drop_stale_choice
from recbole_diffusion.config_protocols import over_eval_args, refuse_other_training_rows
from recbole_diffusion.errors import UserError
from recbole_diffusion.loggers.choice import check_loggers
from recbole_diffusion.session import RunResult, TrainingSession
from recbole_diffusion.training.checkpoint import read_checkpoint, read_facts
from recbole_diffusion.training.run_folder import RunFolder, RunLog
from recbole_diffusion.training.trainer import TrainingDiverged, trainer_class

logger = logging.getLogger(__name__)

_LENGTH_KEYS = ("epochs", "stopping_step", "eval_step", "time_limit", "time_limit_clock")
RESUMABLE_KEYS = (
    *_LENGTH_KEYS,
    "show_progress",
    "num_threads",
    "reuse_memory",
    "num_workers",
    "worker_restarts",
    "ray_address",
    "data_path",
    "eval_batch_size",
    "state",
    "use_gpu",
    "gpu_id",
    "cache",
    "cache_dir",
    "rank_memory",
    "save_per_user",
    *LOGGER_KEYS,
)


def run(
    model: str | type | None = None,
    dataset: str | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    config_files: Sequence[str | Path] = (),
    preset: str | None = None,
    data_path: str | Path | None = None,
    output: str | Path | None = None,
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
        output: where the run's folder is made; ``runs`` when None.
        resume: folder of an earlier run to continue; `model`, `dataset` and folder are then its own, and `config` may
            hold only RESUMABLE_KEYS: where it runs, how long (no less than it has trained), and how often it validates.
        show_progress: progress bars; the key of the same name when None.

    Raises:
        UserError: anything a person can correct, in one line.
    """
    overrides = _overrides(config, data_path, show_progress)
    if preset is not None:
        overrides["preset"] = preset
    if resume is not None:
        folder = RunFolder.open(Path(resume))
        if output is not None:
            raise UserError(f"--output cannot be given with --resume: the run goes on in its own folder, {folder.path}")
        settings = _resumed_config(folder, model, dataset, overrides, config_files)
        check_loggers(settings)
    else:
        settings = RunConfig(model, dataset, config_files, overrides)
        trainer_class(settings.entry.trainer_class)
        check_loggers(settings)
        folder = RunFolder.create(
            Path("runs" if output is None else output), f"{settings['model']}-{settings['dataset']}"
        )
    with folder.held():
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
    settings, path = evaluation_config(checkpoint, config, data_path=data_path, show_progress=show_progress)
    folder = RunFolder.create(Path(output), f"evaluate-{settings['model']}-{settings['dataset']}")
    return _execute(settings, folder, checkpoint=path)


def evaluation_config(
    checkpoint: str | Path,
    config: Mapping[str, Any] | None = None,
    *,
    data_path: str | Path | None = None,
    show_progress: bool | None = None,
) -> tuple[RunConfig, Path]:
    """The configuration with which a checkpoint is ranked, and the checkpoint file; arguments as those of `evaluate`.

    Raises:
        UserError: anything a person can correct, in one line.
    """
    path, at_the_end = Path(checkpoint), {}
    if path.is_dir():
        folder = RunFolder.open(path)
        path = folder.best
        at_the_end = {key: value for key, value in read_yaml(folder.config).values.items() if key in _LENGTH_KEYS}
    stored = read_checkpoint(path)
    values = {**stored.facts["config"], **at_the_end}  # a resumed run may have its best epoch from before
    overrides = _overrides(config, data_path, show_progress)
    for name in ("model", "dataset", "preset"):
        if overrides.get(name, values.get(name)) != values.get(name):
            raise UserError(f"{path} is of {name} {values.get(name)}, not {overrides[name]}; leave {name} out")
    _default_origin_keys(values, overrides)
    drop_stale_choice(values, overrides)
    if isinstance(overrides.get("eval_args"), Mapping):  # what is not given stays that of the run
        overrides["eval_args"] = over_eval_args(values.get("eval_args", {}), overrides["eval_args"])
    settings = RunConfig(values["model"], values["dataset"], (), overrides.over(_run_keys(values), str(path)))
    refuse_other_training_rows(settings, values, path)
    check_loggers(settings)
    return settings, path


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
    """Drop where the stored run ran and was logged: this machine's own device is used, and nothing is logged, unless
    it is asked for."""
    for key in ("use_gpu", "gpu_id", *LOGGER_KEYS):
        if key not in overrides:
            values.pop(key, None)


def _resumed_config(
    folder: RunFolder, model: Any, dataset: str | None, overrides: Overrides, config_files: Sequence[Any]
) -> RunConfig:
    if folder.result.is_file() and not folder.last.is_file():
        raise UserError(f"{folder.path} is the folder of an evaluation; there is nothing to resume")
    stored = read_yaml(folder.config).values
    named = model.__name__ if isinstance(model, type) else model
    for name, given in (("model", named), ("dataset", dataset)):
        if not isinstance(stored.get(name), str):
            raise UserError(f"{folder.config} is not the configuration of a run of this program: it has no {name}")
        if given is not None and given not in (stored[name], stored[name].rpartition(":")[2]):
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
        raise _cannot_change(refused[0], stored[refused[0]])
    settings = RunConfig(stored["model"], stored["dataset"], (), overrides.over(_run_keys(stored), str(folder.config)))
    unset = [key for key in overrides if key not in stored and key not in RESUMABLE_KEYS]
    if unset:  # keys without a default, or of a later version than the run's
        own = RunConfig(stored["model"], stored["dataset"], (), Overrides().over(_run_keys(stored), str(folder.config)))
        for key in unset:
            if settings[key] != own[key]:
                raise _cannot_change(key, own[key])
    if "epochs" in overrides and folder.last.is_file():
        trained = read_facts(folder.last)["epoch"] + 1
        if settings["epochs"] < trained:
            raise UserError(
                f"epochs must be {trained} or more, which {folder.path} has trained already, got {settings['epochs']} "
                f"({overrides.origin_of('epochs')}); start a new run for fewer"
            )
    return settings


def _cannot_change(key: str, value: Any) -> UserError:
    return UserError(
        f"'{key}' cannot change in a resumed run (it has {value!r}); "
        f"only {', '.join(RESUMABLE_KEYS)} can, or start a new run"
    )


def _execute(
    config: RunConfig, folder: RunFolder, *, resume: bool = False, checkpoint: Path | None = None
) -> RunResult:
    """Run `config` in `folder`: train and test, or only rank with `checkpoint`."""
    if config["num_threads"]:
        torch.set_num_threads(config["num_threads"])
    trainer_class(config.entry.trainer_class)  # refuses here, before anything is read
    several = config["num_workers"] > 1 and checkpoint is None
    if not resume:
        folder.write_config(config.to_plain())
    if several:
        return _execute_with_workers(config, folder, resume=resume)
    with (
        RunLog(folder.log, config["state"] or "INFO", terminal=bool(config["show_progress"])),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", category=FutureWarning, module="recbole")
        try:
            session = TrainingSession(config, folder)
            if checkpoint is not None:
                session.use(checkpoint)
            else:
                session.train(resume=resume)
                session.choose_reverse_steps()
            session.test()
            return session.finish()
        except Exception as error:
            logger.debug("error: %s", error)
            if not resume and not isinstance(error, TrainingDiverged):
                folder.discard_unless_trained()
            raise


def _execute_with_workers(config: RunConfig, folder: RunFolder, *, resume: bool) -> RunResult:
    """Run `config` in `folder` with several workers, which log and write the result."""
    from recbole_diffusion.workers.ray_training import train_with_workers

    try:
        return train_with_workers(config, folder, resume=resume)
    except Exception as error:
        if not resume and not isinstance(error, TrainingDiverged):
            folder.discard_unless_trained()
        raise
