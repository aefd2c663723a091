"""The noise schedule of models that have two keys for it, `beta_start` and `beta_end` (DimeRec, DreamRec).

    noise_schedule: linear    beta_t from 0.0001 to 0.02 where they are not given (Ho et al. 2020), whatever T is
    any other                 gets those that are given, and refuses what it does not take

Shapes: T steps.
"""

from __future__ import annotations

from recbole_diffusion.diffusion.schedules import NoiseSchedule, build_schedule
from recbole_diffusion.models.base import named_part

LINEAR = {"beta_start": 0.0001, "beta_end": 0.02}


def beta_schedule(
    noise_schedule: str, num_steps: int, beta_start: float | None, beta_end: float | None
) -> NoiseSchedule:
    """The schedule of these keys.

    Args:
        noise_schedule: a name, or a user's own function as ``package.module:function``.
        num_steps: T.
        beta_start, beta_end: None for what the schedule takes by default.

    Raises:
        ValueError: as `build_schedule`; of the named schedules those that these keys suffice for are offered.
    """
    betas = {"beta_start": beta_start, "beta_end": beta_end}
    if noise_schedule == "linear":
        betas = {key: LINEAR[key] if value is None else value for key, value in betas.items()}
    return build_schedule(named_part(noise_schedule), num_steps, keys=tuple(betas), **betas)
