"""A sweep that was cut, gone on with: only by who asks for the same sweep, on the same data."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from recbole_diffusion.command_options import messages
from recbole_diffusion.config_files import Layer, given_layers
from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import search_path
from recbole_diffusion.tuning import search_space
from recbole_diffusion.tuning.options import SweepOptions, check_packages
from recbole_diffusion.tuning.outcome import SweepResult
from recbole_diffusion.tuning.placement import check_resources
from recbole_diffusion.tuning.preparation import prepare_data
from recbole_diffusion.tuning.request import Request
from recbole_diffusion.tuning.running import ray_of, run_trials
from recbole_diffusion.tuning.search_space import SearchSpace
from recbole_diffusion.tuning.sweep_folder import SweepFolder
from recbole_diffusion.tuning.trial import TrialPlan

logger = logging.getLogger(__name__)

# Keys of a run that say where it runs and what it shows; a resumed sweep may have others.
_OF_PLACE = ("data_path", "cache_dir", "cache", "show_progress")
# Model and dataset are compared as such, and Ray gives each trial its GPU.
_NOT_COMPARED = ("model", "dataset", "gpu_id")


def resumed(folder: SweepFolder, asked: Request, given_options: Mapping[str, Any]) -> SweepResult:
    """Go on with a sweep, or read the result of one that is finished.

    Args:
        folder: of the sweep.
        asked: what is given must be what the sweep has, but for where it runs.
        given_options: fields of `SweepOptions`, likewise.

    Raises:
        UserError: the folder is of another sweep, or the data are others.
    """
    facts = folder.facts()
    model, dataset, space = asked.model, asked.dataset, asked.space
    here = f"{folder.path} is a sweep"
    named = f"{model.__module__}:{model.__qualname__}" if isinstance(model, type) else model
    short = {facts["model"], str(facts["model"]).rpartition(":")[2]}
    if named is not None and named not in short and named.rpartition(":")[2] not in short:
        raise UserError(f"{here} of model {facts['model']}, not {named}; give its own folder or start a new sweep")
    if dataset is not None and dataset != facts["dataset"]:
        raise UserError(
            f"{here} of dataset {facts['dataset']}, not {dataset}; give its own folder or start a new sweep"
        )
    stored_space = search_space.read(facts["space"])
    if space is not None and space.digest() != facts["space_digest"]:
        raise UserError(
            f"{here} over another search space ({_difference(stored_space.plain(), space.plain())}); a resumed sweep "
            "keeps its own, start a new one"
        )
    options = SweepOptions(**facts["options"])
    for name, value in given_options.items():
        if value is not None and value != facts["options"][name]:
            raise UserError(
                f"{here} with {name} {facts['options'][name]!r}, not {value!r}; start a new sweep to change it"
            )
    given = _agreed(here, facts, stored_space, options, asked)
    if folder.result.is_file():
        logger.info("the sweep is finished")
        return SweepResult.read(folder)
    check_packages(options.search)
    plan = TrialPlan(
        facts["model"], facts["dataset"], {**given, "show_progress": False}, facts["origins"], facts["bigger"],
        search_path(),
    )  # fmt: skip
    with messages(asked.show):
        fingerprint = prepare_data(plan.config(stored_space.fixed))
        if fingerprint != facts["data"]:
            raise UserError(
                f"{here} on other data: {facts['data']['users']} users and {facts['data']['items']} items, here "
                f"{fingerprint['users']} and {fingerprint['items']} or other interactions; give its own with data_path"
            )
        with ray_of(plan, asked) as ray:
            check_resources(ray, options.cpus_per_trial, facts["gpus"], asked.address)
            logger.info("going on with %s", folder.path)
            return run_trials(ray, folder, facts, plan, stored_space, options, asked, restore=folder.started)


def _agreed(
    here: str, facts: Mapping[str, Any], space: SearchSpace, options: SweepOptions, asked: Request
) -> dict[str, Any]:
    """The sweep's keys, with the places that are given now.

    The same layers lie over each other as when the sweep began, and only what comes out is compared: files, the keys
    that the search space fixes, what is given over them.

    Raises:
        UserError: a key is given that the sweep has otherwise, or draws.
    """
    given = dict(facts["given"])
    *files, over = given_layers(asked.config_files, asked.overrides)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (*files, Layer(space.fixed, dict.fromkeys(space.fixed, "search space")), over):
        values.update(layer.values)
        origins.update(layer.origins)
    for key, value in values.items():
        if key in _OF_PLACE:
            if value is not None:
                given[key] = os.path.abspath(value) if key in ("data_path", "cache_dir") else value
        elif key == "use_gpu":  # else the sweep has the GPUs that the machine had on which it began
            if value is False and facts["gpus"] > 0 and options.gpus_per_trial is None:
                raise UserError(
                    f"{here} with {facts['gpus']} GPUs a trial, not {key} False ({origins[key]}); start a new sweep"
                )
        elif key in space.domains and key in over.values:
            raise UserError(f"{here} that draws {key}, which is given ({origins[key]}); leave it out")
        elif key not in _NOT_COMPARED and not (key == "num_threads" and value is None):
            has = given.get(key, value if key in space.domains else None)
            if has != value:
                raise UserError(
                    f"{here} with {key} {has!r}, not {value!r} ({origins[key]}); a resumed sweep keeps its "
                    "configuration"
                )
    return given


def _difference(stored: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    for key in sorted({*stored, *given}):
        if stored.get(key) != given.get(key):
            return f"{key} is {stored.get(key, 'absent')} there and {given.get(key, 'absent')} here"
    return "the order of values"
