"""The word ``tune`` of the command line (and ``--tune=FILE`` without a word): its keys, and what it prints."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_diffusion.config_files import Overrides, parse_value
from recbole_diffusion.errors import UserError

OPTIONS: dict[str, str] = {
    "tune": "FILE of the search space: YAML as in hyper/, or a .test file of RecBole's",
    "model": "NAME of --list_models, or a class of yours as package.module:Class",
    "dataset": "NAME of the folder in data_path with NAME.inter; ml-100k comes with RecBole",
    "config_files": '"a.yaml b.yaml": configuration files for every trial, later ones win',
    "preset": "paper: the settings of the model's paper for this dataset, where the search space has no key",
    "data_path": "FOLDER that holds the datasets' folders (default: dataset)",
    "num_trials": "NUMBER of configurations to draw, each with every combination of grid keys (default: 10)",
    "scheduler": "none (default) | asha successive halving | median stopping | pbt population based training",
    "search": "random (default) | grid, every combination of listed values | optuna",
    "search_seed": "NUMBER: seed of the draws (default: 0)",
    "cpus_per_trial": "NUMBER of CPU cores, and threads, of a trial (default: 1)",
    "gpus_per_trial": "NUMBER of GPUs of a trial, 0.5 for two trials on one (default: 1 where there is one)",
    "max_concurrent": "NUMBER of trials at a time (default: as many as there is room for)",
    "time_budget": "SECONDS, or 90s, 30m, 2h, 1d, after which the sweep ends with what it has",
    "max_failures": "NUMBER of times that a lost, killed or raising trial starts again (default: 2)",
    "grace_period": "EPOCHS that asha and median leave every trial",
    "reduction_factor": "asha: one in NUMBER trials goes on at each rung (default: 3); median: of its grace_period",
    "perturbation_interval": "pbt: EPOCHS between two exchanges (default: those between validations)",
    "ray_address": "ADDRESS of a Ray cluster (default: Ray is started on this machine)",
    "storage_path": "FOLDER in which the sweep makes its own; on a cluster one that all machines see (default: sweeps)",
    "resume": "SWEEP_FOLDER of a sweep that was cut; without a value the newest one in storage_path",
    "repeat": "FILE tune_result.json: train the best configuration again and compare it, bit for bit",
    "output": "FOLDER in which --repeat makes its run (default: runs)",
    "show_progress": "False: no lines while it runs",
}
FLAGS: dict[str, str] = {"ray_logs": "show Ray's own logs"}
BARE = ("resume",)  # options that may stand without a value, for True
USAGE = "--model=NAME --dataset=NAME --tune=FILE"
WRITES = "makes a folder with the ranked trials, the best configuration and its test"
EXAMPLES = """\
examples:
  recbole-diff tune --model=DiffuRec --dataset=amazon-beauty --tune=hyper/DiffuRec.yaml --num_trials=20 --scheduler=asha
  recbole-diff --model=SASRec --dataset=ml-100k --tune=hyper/SASRec.yaml --search=optuna --time_budget=8h
  recbole-diff tune --resume=sweeps/DiffuRec-amazon-beauty-20250101-120000
  recbole-diff tune --repeat=sweeps/DiffuRec-amazon-beauty-20250101-120000/tune_result.json
Every other --key=value is a key of every trial's configuration, such as --epochs=50.
"""
_NUMBERS = (
    "num_trials",
    "search_seed",
    "cpus_per_trial",
    "gpus_per_trial",
    "max_concurrent",
    "max_failures",
    "grace_period",
    "reduction_factor",
    "perturbation_interval",
)
_TEXTS = ("scheduler", "search", "time_budget")


def run(options: Mapping[str, str], flags: set[str], config: Overrides) -> str:
    """Run, resume or repeat a sweep, and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: those of :data:`FLAGS` that are given.
        config: keys of every trial.

    Raises:
        UserError: a key is missing or of no use, or what `tune` refuses.
    """
    if "repeat" in options:
        others = [key for key in options if key not in ("repeat", "output", "data_path")]
        if others or config:
            raise UserError(f"--repeat goes with --output and --data_path alone, not with --{[*others, *config][0]}")
        from recbole_diffusion.tuning.repeat import repeat

        return repeat(
            options["repeat"], output=options.get("output", "runs"), data_path=options.get("data_path")
        ).text()
    resumed = "resume" in options
    if "output" in options:
        raise UserError("--output goes with --repeat; a sweep's place is --storage_path")
    for key in () if resumed else ("tune",):
        if key not in options:
            raise UserError(f"tune needs --{key}={OPTIONS[key].split()[0]}, such as --tune=hyper/DiffuRec.yaml")
    if "tune" in options and not Path(options["tune"]).is_file():
        raise UserError(f"no search space file {options['tune']}")
    from recbole_diffusion.tuning.options import check_packages

    check_packages(options.get("search", "random"))
    from recbole_diffusion.tuning.sweep import tune

    given: dict[str, Any] = {key: parse_value(options[key]) for key in _NUMBERS if key in options}
    given.update({key: options[key] for key in _TEXTS if key in options})
    if options.get("show_progress", "True").lower() not in ("true", "false"):
        raise UserError(f"--show_progress must be True or False, got {options['show_progress']!r}")
    result = tune(
        options.get("model"),
        options.get("dataset"),
        options.get("tune"),
        config,
        config_files=shlex.split(options.get("config_files", "")),
        preset=options.get("preset"),
        data_path=options.get("data_path"),
        storage_path=options.get("storage_path", "sweeps"),
        resume=(options["resume"] if options["resume"] != "True" else True) if resumed else False,
        ray_address=options.get("ray_address"),
        show_progress=options.get("show_progress", "True").lower() == "true",
        ray_logs="ray_logs" in flags,
        **given,
    )
    return result.table()
