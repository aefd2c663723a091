"""Noise schedules: the same model trained with every named one (DiffuRec, Table 3).

A schedule that does not fit the model or its number of steps, or needs parameters that it has no value for, is not
trained and named with the reason; give such a one with its parameters as
``--values=[trunc_lin,{noise_schedule: linear, beta_start: 0.0001, beta_end: 0.02}]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_diffusion.analyses.grid import given_values, variants_of
from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.sensitivity import vary
from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.diffusion.schedules import SCHEDULES
from recbole_diffusion.errors import UserError

KEY = "noise_schedule"
MODEL = "DiffuRec"


def analyse(request: Request) -> Findings:
    """Train a model with each noise schedule of the key `values`, or with all named ones.

    Raises:
        UserError: what `sensitivity` refuses, or no schedule fits.
    """
    text = request.options.get("values")
    values = list(SCHEDULES) if text is None else given_values(text)
    fitting, refused = fitting_schedules(request, values)
    if text is not None and refused:
        value, reason = next(iter(refused.items()))
        raise UserError(f"--values: {value}: {reason}")
    if not fitting:
        raise UserError("no named schedule fits; " + "; ".join(f"{name}: {why}" for name, why in refused.items()))
    return vary(request, "schedules", [KEY], fitting, model=MODEL, refused=refused)


def fitting_schedules(request: Request, values: Sequence[Any]) -> tuple[list[Any], dict[str, str]]:
    """Which schedules the model can be trained with here, and why not with the others.

    Raises:
        UserError: the configuration is refused whatever the schedule.
    """
    model, dataset = request.options.get("model", MODEL), request.options["dataset"]
    given = {key: value for key, value in request.config.items() if key != KEY}
    given |= {"preset": request.options["preset"]} if "preset" in request.options else {}
    RunConfig(model, dataset, (), Overrides(given, origin=request.config.origin))
    fitting, refused = [], {}
    for value, variant in zip(values, variants_of([KEY], values), strict=True):
        try:
            keys = Overrides({**given, **variant.settings}, origin="--values")
            RunConfig(model, dataset, (), keys)
        except UserError as error:
            refused[variant.value] = str(error)
        else:
            fitting.append(value)
    return fitting, refused
