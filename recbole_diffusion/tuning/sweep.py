"""`tune`: a sweep from its search space to the tested best configuration, begun or resumed.

Everything that can be wrong with keys, values, options and data is found before Ray starts. The data are read once,
into the cache that every trial maps into memory. Trials report validation metrics alone; the test rows are ranked once,
by the chosen trial, and a sweep that is finished stays so.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.command_options import messages
from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.config_files import given_layers
from recbole_diffusion.config_protocols import OF_RECBOLE
from recbole_diffusion.data import cache
from recbole_diffusion.errors import UserError
from recbole_diffusion.loggers.choice import check_loggers
from recbole_diffusion.provenance import code_version, package_versions
from recbole_diffusion.ray_session import search_path
from recbole_diffusion.training.trainer import trainer_class
from recbole_diffusion.tuning import search_space
from recbole_diffusion.tuning.options import SweepOptions, check_packages, seconds
from recbole_diffusion.tuning.outcome import SweepResult
from recbole_diffusion.tuning.placement import check_resources
from recbole_diffusion.tuning.preparation import prepare_data
from recbole_diffusion.tuning.request import Request
from recbole_diffusion.tuning.resuming import resumed
from recbole_diffusion.tuning.running import ray_of, run_trials
from recbole_diffusion.tuning.search_space import SearchSpace
from recbole_diffusion.tuning.sweep_folder import SweepFolder
from recbole_diffusion.tuning.trial import TrialPlan

logger = logging.getLogger(__name__)

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def tune(
    model: str | type | None = None,
    dataset: str | None = None,
    space: str | Path | Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    *,
    config_files: Sequence[str | Path] = (),
    preset: str | None = None,
    data_path: str | Path | None = None,
    storage_path: str | Path = "sweeps",
    resume: str | Path | bool = False,
    ray_address: str | None = None,
    show_progress: bool = True,
    ray_logs: bool = False,
    **options: Any,
) -> SweepResult:
    """Search hyper-parameters of a model on Ray Tune, then test the best trial once.

    Args:
        model: as in `run`; a class must be importable by its name.
        dataset: the dataset's name.
        space: a search space: a YAML file, a `.test` file of RecBole's, or a mapping such as
            ``{"learning_rate": {"loguniform": [1e-4, 1e-2]}}``.
        config: keys that are the same in every trial; they win over `config_files`.
        config_files: YAML files, later ones win.
        preset: `paper`, as in `run`.
        data_path: folder of the datasets.
        storage_path: where the sweep's folder is made; on a cluster a folder that all machines see.
        resume: a sweep's folder to go on with, or True for the newest in `storage_path`. Whatever else is given must
            be what that sweep has.
        ray_address: of a cluster; without it Ray is started on this machine unless it runs in this process already.
        show_progress: lines on standard error.
        ray_logs: let Ray's own logs through.
        options: fields of :class:`~recbole_diffusion.tuning.options.SweepOptions`.

    Raises:
        UserError: anything a person can correct, in one line, before a trial starts; or no trial could be chosen.
        KeyboardInterrupt: after Ctrl-C; its `run_folder` is the folder to resume.
    """
    if "time_budget" in options and options["time_budget"] is not None:
        options["time_budget"] = seconds(options["time_budget"])
    storage = Path(storage_path)
    if "://" in str(storage_path):
        raise UserError(f"storage_path must be a folder (on a cluster one that all machines see), got {storage_path}")
    overrides = config if isinstance(config, Overrides) else Overrides(dict(config or {}))
    if data_path is not None:
        overrides["data_path"] = str(data_path)
    if preset is not None:
        overrides["preset"] = preset
    read_space = search_space.read(space) if space is not None else None
    asked = Request(model, dataset, read_space, overrides, config_files, ray_address, show_progress, ray_logs)
    unknown = [name for name in options if name not in SweepOptions().plain()]
    if unknown:
        raise UserError(f"tune has no option {unknown[0]}; it has {', '.join(SweepOptions().plain())}")
    try:
        if resume is not False:
            folder = SweepFolder.find(None if resume is True else Path(resume), storage.resolve())
            return resumed(SweepFolder(folder.path.resolve()), asked, options)
        if read_space is None:
            raise UserError("a sweep needs a search space: --tune=FILE, or the argument space")
        return _begun(read_space, asked, SweepOptions(**options), storage.resolve())
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        place = error.filename or storage
        raise UserError(
            f"cannot write {place}: {error.strerror or error}; make room and go on with --resume"
        ) from error


def _begun(space: SearchSpace, asked: Request, options: SweepOptions, storage: Path) -> SweepResult:
    overrides = asked.overrides
    options.check_space(space)
    check_packages(options.search)
    digest = space.digest()
    for key in space.domains:
        if key in overrides:
            raise UserError(
                f"{key} is given ({overrides.origin_of(key)}) and drawn ({space.origins.get(key, space.source)}); "
                "leave one of them out"
            )
    kept = {key: value for key, value in space.fixed.items() if key not in overrides}
    space = dataclasses.replace(space, fixed=kept)  # what is given wins over what the file fixes
    base = RunConfig(asked.model, asked.dataset, asked.config_files, overrides)
    if base.model_reference.startswith("__main__"):
        raise UserError(
            f"{base.model_reference} cannot be imported by a worker; put the class into a module of its own"
        )
    trainer_class(base.entry.trainer_class)
    check_loggers(base)
    gpus = _gpus(options, base)
    plan = _plan(base, space, asked, options, gpus)
    space.check(lambda values: _refusal(plan, values), seed=options.search_seed)
    settings = plan.config(space.fixed)
    if settings["eval_step"] <= 0:
        raise UserError(f"eval_step is {settings['eval_step']}: a sweep compares validations; set it to 1 or more")
    if settings["num_workers"] not in (None, 1):
        raise UserError(
            f"num_workers is {settings['num_workers']}: a trial trains on one worker, and a sweep runs many trials; "
            "leave it out"
        )
    if "seed" in space.domains and settings["protocol"] in OF_RECBOLE and settings["eval_args"]["order"] == "RO":
        raise UserError(
            f"{space.origins.get('seed', space.source)}: seed cannot be drawn with eval_args.order RO, whose rows it "
            "shuffles: trials would be validated on other rows; give it one value, or order TO"
        )
    with messages(asked.show):
        fingerprint = prepare_data(settings)
        facts = {
            "model": plan.model,
            "dataset": plan.dataset,
            "metric": settings["valid_metric"],
            "bigger": plan.bigger,
            "given": plan.given,
            "origins": plan.origins,
            "space": space.plain(),
            "space_source": space.source,
            "space_digest": digest,
            "options": options.plain(),
            "gpus": gpus,
            "epochs": max([settings["epochs"], *_searched(space, "epochs")]),
            "eval_step": max([settings["eval_step"], *_searched(space, "eval_step")]),
            "data": fingerprint,
            "versions": package_versions(),
            "code": code_version(),
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        with ray_of(plan, asked) as ray:
            check_resources(ray, options.cpus_per_trial, gpus, asked.address)
            folder = SweepFolder.create(storage, f"{settings['model']}-{plan.dataset}")
            folder.write_facts(facts)
            logger.info("%d trials, folder %s", options.trials(space), folder.path)
            return run_trials(ray, folder, facts, plan, space, options, asked, restore=False)


def _plan(
    base: RunConfig,
    space: SearchSpace,
    asked: Request,
    options: SweepOptions,
    gpus: float,
) -> TrialPlan:
    """What all trials share; nothing in it depends on the working directory."""
    given: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in given_layers(asked.config_files, asked.overrides):
        given.update(layer.values)
        origins.update(layer.origins)
    for key in ("model", "dataset"):
        given.pop(key, None)
    if not (base.dataset == "ml-100k" and not base.is_given("data_path")):  # else the copy inside RecBole
        given["data_path"] = os.path.abspath(base._folders["data_path"])
    if base["cache_dir"]:
        given["cache_dir"] = os.path.abspath(base["cache_dir"])
    elif asked.address is None:
        given["cache_dir"] = str(cache.default_folder().absolute())
    if given.get("num_threads") not in (None, options.cpus_per_trial):
        raise UserError(
            f"num_threads is {given['num_threads']} ({origins['num_threads']}), but a trial has "
            f"{options.cpus_per_trial} CPU cores; set cpus_per_trial instead"
        )
    given.update(space.fixed)
    given.update(num_threads=options.cpus_per_trial, use_gpu=gpus > 0, show_progress=False)
    given.pop("gpu_id", None)
    if base.preset is not None:
        given["preset"] = base.preset
    origins.update(space.origins)
    return TrialPlan(
        model=base.model_reference,
        dataset=base.dataset,
        given=given,
        origins=origins,
        bigger=bool(base["valid_metric_bigger"]),
        search_path=search_path(),
    )


def _gpus(options: SweepOptions, base: RunConfig) -> float:
    """GPUs of a trial: as asked for, else one where the configuration would use one here."""
    if options.gpus_per_trial is not None:
        return options.gpus_per_trial
    return 1.0 if base["device"].type == "cuda" else 0.0


def _refusal(plan: TrialPlan, values: Mapping[str, Any]) -> UserError | None:
    try:
        plan.config(values)
    except UserError as error:
        return error
    return None


def _searched(space: SearchSpace, key: str) -> list[int]:
    """The ends of a searched key."""
    return [int(value) for value in space.domains[key].ends()] if key in space.domains else []
