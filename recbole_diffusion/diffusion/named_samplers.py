"""The reverse samplers by their names, the values of key ``reverse_sampler``.

grid            DDPM, DDIM and all between by reverse_eta, on any grid          sampler.py
ddpm            the same with eta = 1: ancestral sampling
ddim            the same with eta = 0: deterministic
dpm_solver_pp   DPM-Solver++(2M), of Gaussian processes                         dpm_solver.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recbole_diffusion.diffusion.dpm_solver import DPMSolverPlusPlus
from recbole_diffusion.diffusion.process import check_eta
from recbole_diffusion.diffusion.sampler import EarlyResult, ReverseSampler, Sampler

_ETA = {"ddpm": 1.0, "ddim": 0.0, "dpm_solver_pp": 0.0}
NAMES = ("grid", *_ETA)


def build_sampler(
    name_or_class: str | Callable[..., Sampler],
    process: Any,
    steps: int | Sequence[int] | None,
    eta: float,
    *,
    stop_after: int | None = None,
    early_result: EarlyResult | str = "state",
    steps_key: str = "reverse_steps",
) -> Sampler:
    """The reverse sampler by the value of key ``reverse_sampler``: a name of the module, or a user's own class.

    A class is built as ``Class(process, steps=steps, eta=eta)``, as :class:`ReverseSampler` is.

    Args:
        name_or_class: the name, or the class.
        process: the diffusion process, a :class:`~recbole_diffusion.diffusion.sampler.ReverseProcess`.
        steps: None for all T slots, a number of evenly spaced ones, or the slots.
        eta: key ``reverse_eta``, which ``grid`` and a user's own class read; the others take 1, its default, or their
            own value.
        stop_after, early_result: keys ``intermediate_steps`` and ``intermediate_result``.
        steps_key: the key that ``steps`` stands under, for messages.

    Raises:
        ValueError: an unknown name, an eta that the name excludes, a cut chain of a user's own class, or as the
            sampler.
    """
    if not isinstance(name_or_class, str):
        if stop_after is not None:
            raise ValueError(
                f"intermediate_steps is {stop_after}, which a reverse_sampler of one's own does not take; leave it out"
            )
        return name_or_class(process, steps=steps, eta=eta)
    if name_or_class not in NAMES:
        raise ValueError(
            f"reverse_sampler '{name_or_class}' does not exist; use {', '.join(NAMES)} or give a class as "
            "package.module:Class"
        )
    check_eta(eta)
    own = _ETA.get(name_or_class, eta)
    if eta not in (1.0, own):
        raise ValueError(
            f"reverse_eta is {eta:g}, but reverse_sampler: {name_or_class} has none of its own; use reverse_sampler: "
            "grid, or leave reverse_eta out"
        )
    cut: dict[str, Any] = {"stop_after": stop_after, "early_result": early_result, "steps_key": steps_key}
    if name_or_class == "dpm_solver_pp":
        return DPMSolverPlusPlus(process, steps, **cut)
    return ReverseSampler(process, steps, own, **cut)
