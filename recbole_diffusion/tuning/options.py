"""How a sweep runs: trials, scheduler, search, resources; each value checked before anything starts."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from dataclasses import dataclass
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import import_ray, install
from recbole_diffusion.registry import nearest
from recbole_diffusion.tuning.schedule import CHANGEABLE
from recbole_diffusion.tuning.search_space import SearchSpace

SCHEDULERS = ("none", "asha", "median", "pbt")
SEARCHES = ("random", "grid", "optuna")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep runs.

    Attributes:
        num_trials: configurations to draw; each is tried with every combination of the keys listed as `grid`.
            None: 10, or with `search: grid` the whole grid, which takes no other number.
        scheduler: none | asha successive halving | median stopping | pbt population based training.
        search: random | grid | optuna (its tree-structured Parzen estimator).
        search_seed: of the draws.
        cpus_per_trial: CPU cores, and threads of torch, of a trial.
        gpus_per_trial: GPUs of a trial; a fraction shares one. None: 1 where a GPU is to be used and there is one.
        max_concurrent: trials at a time; None for as many as the resources allow.
        time_budget: seconds after which the sweep ends, with what it has.
        max_failures: how often a trial is started again after a lost worker, no memory or an exception.
        grace_period: epochs that asha and median leave every trial; None derives it from epochs and eval_step.
        reduction_factor: asha: one in so many trials goes on at each rung; median derives its grace_period from it.
        perturbation_interval: pbt: epochs between two exchanges; None for the epochs between validations.
    """

    num_trials: int | None = None
    scheduler: str = "none"
    search: str = "random"
    search_seed: int = 0
    cpus_per_trial: int = 1
    gpus_per_trial: float | None = None
    max_concurrent: int | None = None
    time_budget: float | None = None
    max_failures: int = 2
    grace_period: int | None = None
    reduction_factor: float = 3
    perturbation_interval: int | None = None

    def __post_init__(self) -> None:
        _one_of("scheduler", self.scheduler, SCHEDULERS)
        _one_of("search", self.search, SEARCHES)
        for name in ("num_trials", "max_concurrent", "grace_period", "perturbation_interval"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
        _whole("cpus_per_trial", self.cpus_per_trial, 1)
        _whole("max_failures", self.max_failures, 0)
        _whole("search_seed", self.search_seed, 0)
        gpus = self.gpus_per_trial
        if gpus is not None and (not _is_number(gpus) or gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise UserError(f"gpus_per_trial must be 0, a share of a GPU such as 0.5, or a whole number, got {gpus!r}")
        if self.time_budget is not None and (not _is_number(self.time_budget) or self.time_budget <= 0):
            raise UserError(f"time_budget must be seconds above 0, or 90s, 30m, 2h, 1d, got {self.time_budget!r}")
        if not _is_number(self.reduction_factor) or self.reduction_factor <= 1:
            raise UserError(f"reduction_factor must be a number above 1, got {self.reduction_factor!r}")
        if self.search == "grid" and self.num_trials is not None:
            raise UserError(
                "num_trials does not go with search: grid, which tries every combination once; leave it out"
            )
        readers = {
            "grace_period": ("asha", "median"),
            "reduction_factor": ("asha", "median"),
            "perturbation_interval": ("pbt",),
        }
        for name, schedulers in readers.items():
            if getattr(self, name) != getattr(SweepOptions, name) and self.scheduler not in schedulers:
                raise UserError(
                    f"{name} is read by scheduler {' and '.join(schedulers)}, not by {self.scheduler}; leave it out"
                )
        if self.scheduler == "median" and self.grace_period and self.reduction_factor != SweepOptions.reduction_factor:
            raise UserError(
                "reduction_factor is read by scheduler median where grace_period is not given; leave one of them out"
            )

    def plain(self) -> dict[str, Any]:
        """As JSON; `SweepOptions(**plain)` gives the same again."""
        return dataclasses.asdict(self)

    @property
    def samples(self) -> int:
        """What Ray Tune calls `num_samples`."""
        return 1 if self.search == "grid" else self.num_trials or 10

    def trials(self, space: SearchSpace) -> int:
        """How many trials the sweep has."""
        if self.search == "grid":
            return space.size() or 0
        return self.samples * space.grid_size()

    def check_space(self, space: SearchSpace) -> None:
        """Refuse a search space that the search or the scheduler cannot go through.

        Raises:
            UserError: names the key and its line.
        """
        for key, domain in space.domains.items():
            where = space.origins.get(key, space.source)
            if self.search == "grid" and not domain.finite:
                raise UserError(
                    f"{where}: search: grid needs every value listed, but {key} is {domain.kind}; "
                    f"write {key}: {{choice: [...]}} or take search: random"
                )
            if self.search == "optuna" and domain.kind == "grid":
                raise UserError(
                    f"{where}: search: optuna draws every key, but {key} is grid; write choice or take random"
                )
            if self.search == "optuna" and domain.kind in ("qloguniform", "qlograndint"):
                raise UserError(f"{where}: search: optuna has no {domain.kind} ({key}); leave the q out or take random")
            if self.scheduler == "pbt" and key not in CHANGEABLE:
                raise UserError(
                    f"{where}: scheduler: pbt changes keys of running models, and {key} cannot change in one; "
                    f"fix it or take another scheduler (it can change {', '.join(CHANGEABLE)})"
                )
            if self.scheduler == "pbt" and domain.kind == "grid":
                raise UserError(f"{where}: scheduler: pbt draws every key anew, but {key} is grid; write choice")
        if self.scheduler == "pbt" and self.search != "random":
            raise UserError(f"scheduler: pbt goes with search: random, got search: {self.search}")
        if self.scheduler == "pbt" and self.samples < 2:
            raise UserError("scheduler: pbt needs a population; set num_trials to 4 or more")


def check_packages(search: str) -> None:
    """Refuse a sweep without Ray, with too old a one, or `search: optuna` without optuna.

    Raises:
        UserError: what to install.
    """
    import_ray("a sweep", "ray.tune", extra="tune")
    if search == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UserError(f"search: optuna needs optuna, which is not installed; {install('tune')}")


def seconds(text: str | float) -> float:
    """A time budget: seconds, or a number with s, m, h or d.

    Raises:
        UserError: it is none.
    """
    if _is_number(text):
        return float(text)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", str(text))
    if match is None:
        raise UserError(f"time_budget must be seconds above 0, or 90s, 30m, 2h, 1d, got {text!r}")
    return float(match.group(1)) * _UNITS[match.group(2)]


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        hint = nearest(str(value), allowed)
        raise UserError(
            f"{name} must be one of {', '.join(allowed)}, got {value!r}" + (f"; did you mean '{hint}'?" if hint else "")
        )


def _whole(name: str, value: Any, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise UserError(f"{name} must be an integer of at least {minimum}, got {value!r}")
