"""A sweep as Ray Tune's experiment: its Tuner, scheduler and searcher made from options and a search space."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from recbole_diffusion.tuning.domains import Domain
from recbole_diffusion.tuning.options import SweepOptions
from recbole_diffusion.tuning.progress import SweepProgress
from recbole_diffusion.tuning.schedulers import MedianStopping, PopulationTraining
from recbole_diffusion.tuning.search_space import SearchSpace
from recbole_diffusion.tuning.sweep_folder import SweepFolder
from recbole_diffusion.tuning.trial import SCORE, TIME_ATTRIBUTE, TrialPlan, train_trial

KEPT_CHECKPOINTS = 3  # the newest is enough; the others are there until Ray has written down that it is


def scheduler_of(options: SweepOptions, space: SearchSpace, epochs: int, eval_step: int) -> Any:
    """Ray Tune's scheduler.

    Args:
        options: of the sweep.
        space: of the sweep.
        epochs: that a trial has at most.
        eval_step: epochs between validations.
    """
    grace = min(options.grace_period or max(eval_step, round(epochs / options.reduction_factor**2), 1), epochs)
    if options.scheduler == "asha":
        return ASHAScheduler(
            time_attr=TIME_ATTRIBUTE, max_t=epochs, grace_period=grace, reduction_factor=options.reduction_factor
        )
    if options.scheduler == "median":
        return MedianStopping(time_attr=TIME_ATTRIBUTE, grace_period=grace, min_samples_required=3)
    if options.scheduler == "pbt":
        random.seed(options.search_seed)  # Ray's PBT draws from Python's global generator
        return PopulationTraining(
            time_attr=TIME_ATTRIBUTE,
            perturbation_interval=options.perturbation_interval or eval_step,
            hyperparam_mutations={
                key: list(domain.values) if domain.finite else domain.to_ray() for key, domain in space.domains.items()
            },
            custom_explore_fn=partial(within_ranges, domains=dict(space.domains)),
        )
    return FIFOScheduler()


def within_ranges(values: Mapping[str, Any], domains: Mapping[str, Domain]) -> dict[str, Any]:
    """Values that population based training changed, cut to the ranges of the search space."""
    kept = dict(values)
    for key, domain in domains.items():
        if not domain.finite and key in kept:
            low, high = domain.values[:2]
            kept[key] = min(max(kept[key], low), high)
    return kept


def searcher_of(options: SweepOptions) -> Any:
    """Ray Tune's search algorithm."""
    if options.search == "optuna":
        from ray.tune.search.optuna import OptunaSearch

        return OptunaSearch(seed=options.search_seed)
    return BasicVariantGenerator(max_concurrent=options.max_concurrent or 0, random_state=options.search_seed)


def trainable_of(plan: TrialPlan, cpus: float, gpus: float) -> Any:
    """The trial as Ray Tune runs it."""
    resources = {"cpu": cpus, **({"gpu": gpus} if gpus else {})}
    return tune.with_resources(tune.with_parameters(train_trial, plan=plan), resources)


def new_tuner(
    plan: TrialPlan,
    space: SearchSpace,
    options: SweepOptions,
    folder: SweepFolder,
    *,
    epochs: int,
    eval_step: int,
    gpus: float,
    show_progress: bool,
    logs: bool,
) -> tune.Tuner:
    """The Tuner of a sweep that begins."""
    scheduler = scheduler_of(options, space, epochs, eval_step)
    progress = SweepProgress(options.trials(space), epochs, plan.bigger, scheduler, show=show_progress)
    return tune.Tuner(
        trainable_of(plan, options.cpus_per_trial, gpus),
        param_space=space.to_ray(as_grid=options.search == "grid"),
        tune_config=tune.TuneConfig(
            metric=SCORE,
            mode="max" if plan.bigger else "min",
            scheduler=scheduler,
            search_alg=searcher_of(options),
            num_samples=options.samples,
            max_concurrent_trials=options.max_concurrent if options.search == "optuna" else None,
            time_budget_s=options.time_budget,
            reuse_actors=True,  # a new worker would import torch and RecBole for every trial
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.path.name,
            storage_path=str(folder.path.parent),
            failure_config=tune.FailureConfig(max_failures=options.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            callbacks=[progress],
            verbose=2 if logs else 0,
        ),
    )


def restored_tuner(plan: TrialPlan, options: SweepOptions, folder: SweepFolder, *, gpus: float) -> tune.Tuner:
    """The Tuner of a sweep that goes on: finished trials are kept, the others start from their last checkpoint.

    A trial that failed for a reason that may be gone (a full disk, a lost machine) is tried once more; one that was
    refused ended, and stays so.
    """
    return tune.Tuner.restore(
        str(folder.path),
        trainable=trainable_of(plan, options.cpus_per_trial, gpus),
        resume_unfinished=True,
        resume_errored=True,
    )


def _trial_name(trial: Any) -> str:
    return f"trial_{trial.trial_id}"
