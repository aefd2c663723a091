"""Noise schedules: betas, and everything a Gaussian diffusion derives from them.

    alpha_t = 1 - beta_t,  alpha_bar_t = alpha_1 ... alpha_t,  alpha_bar_0 = 1
    q(x_t | x_0)          = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)
    q(x_{t-1} | x_t, x_0) = N(c1_t x_0 + c2_t x_t, beta~_t I)
    c1_t = sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t)
    c2_t = sqrt(alpha_t) (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t)
    beta~_t = beta_t (1 - alpha_bar_{t-1}) / (1 - alpha_bar_t)

Source: Ho et al. 2020 (DDPM), equations 4, 6, 7. DiffuRec's equation 5 prints sqrt(alpha_bar_t) in c2_t: a misprint,
see docs/decisions/011-posterior-coefficient.md. Step t of the equations is slot t - 1 of every array here (T slots).
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ScheduleFunction = Callable[..., Any]
"""``f(num_steps, **parameters) -> betas (T,)``; its keyword-only parameters are the configuration keys it takes."""

DIVISOR = 1000.0
"""DDPM's number of steps: rescaled schedules multiply its per-step constants by 1000 / T."""


class NoiseSchedule(nn.Module):
    """The tables of one schedule: float64 numpy arrays in ``tables``, float32 buffers of the same names.

    The buffers follow ``.to(device)`` and stay out of the ``state_dict``, for they follow from the configuration.

    Args:
        betas: (T,) variances of the T noising steps, each strictly between 0 and 1.

    Raises:
        ValueError: not one-dimensional, empty, a beta outside (0, 1), or alpha_bar not strictly decreasing above 0.
    """

    betas: Tensor
    alpha_bar: Tensor
    alpha_bar_prev: Tensor
    sqrt_alpha_bar: Tensor
    sqrt_one_minus_alpha_bar: Tensor
    posterior_mean_coef1: Tensor
    """(T,) weight of x_0 in the posterior mean."""
    posterior_mean_coef2: Tensor
    """(T,) weight of x_t in the posterior mean."""
    posterior_variance: Tensor

    def __init__(self, betas: np.ndarray | Sequence[float] | Tensor) -> None:
        super().__init__()
        beta = _checked_betas(betas)
        alpha = 1.0 - beta
        alpha_bar = np.cumprod(alpha)
        alpha_bar_prev = np.append(1.0, alpha_bar[:-1])
        stuck = np.flatnonzero((alpha_bar >= alpha_bar_prev) | (alpha_bar <= 0))
        if len(stuck):
            slot = int(stuck[0])
            raise ValueError(
                f"alpha_bar goes from {alpha_bar_prev[slot]:g} to {alpha_bar[slot]:g} in slot {slot}; "
                "it must decrease in every slot and stay above 0"
            )
        self.tables: dict[str, np.ndarray] = {
            "betas": beta,
            "alpha_bar": alpha_bar,
            "alpha_bar_prev": alpha_bar_prev,
            "sqrt_alpha_bar": np.sqrt(alpha_bar),
            "sqrt_one_minus_alpha_bar": np.sqrt(1.0 - alpha_bar),
            "posterior_mean_coef1": beta * np.sqrt(alpha_bar_prev) / (1.0 - alpha_bar),
            "posterior_mean_coef2": np.sqrt(alpha) * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar),
            "posterior_variance": beta * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar),
        }
        for name, table in self.tables.items():
            self.register_buffer(name, torch.tensor(table, dtype=torch.float32), persistent=False)

    @property
    def num_steps(self) -> int:
        """T, the number of noising steps."""
        return len(self.tables["betas"])

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        beta, last = self.tables["betas"], self.tables["alpha_bar"][-1]
        return f"num_steps={self.num_steps}, beta={beta[0]:.6g}..{beta[-1]:.6g}, alpha_bar_T={last:.6g}"


def _checked_betas(betas: np.ndarray | Sequence[float] | Tensor) -> np.ndarray:
    """A float64 copy (T,), or ValueError."""
    if isinstance(betas, Tensor):
        betas = betas.detach().cpu().numpy()
    beta = np.array(betas, dtype=np.float64)
    if beta.ndim != 1 or not len(beta):
        raise ValueError(f"betas have shape {beta.shape}; they must be (T,) with T >= 1, one beta per step")
    outside = np.flatnonzero(~((beta > 0) & (beta < 1)))  # the negation also catches nan
    if len(outside):
        slot = int(outside[0])
        raise ValueError(f"beta is {beta[slot]:g} in slot {slot}; every beta must lie strictly between 0 and 1")
    return beta


# --- straight lines ---------------------------------------------------------------------------------------------------


def linear(num_steps: int, *, beta_start: float, beta_end: float) -> np.ndarray:
    """A straight line from ``beta_start`` to ``beta_end``, not rescaled with T (Ho et al. 2020: 0.0001 to 0.02)."""
    return np.linspace(beta_start, beta_end, num_steps)


def linear_scaled(num_steps: int) -> np.ndarray:
    """A straight line from 0.1/T to 20/T: DDPM's 0.0001 to 0.02 times 1000/T (Nichol and Dhariwal 2021, released code).

    The last beta is 20/T, so T <= 20 is refused. DiffuRec's ablation "w L" is this one.
    """
    _refuse_up_to_20("linear_scaled", num_steps)
    return np.linspace(1e-4 * DIVISOR / num_steps, 2e-2 * DIVISOR / num_steps, num_steps)


def trunc_lin(num_steps: int) -> np.ndarray:
    """DiffuRec's published "truncated linear": a straight line from 0.1/T + 0.01 to 20/T + 0.01.

    Where that end exceeds 1 (T <= 20) the end is 1/T + 0.01 instead; alpha_bar_T then stays near a half and x_T is far
    from pure noise. Differs from the paper: its equation 14 is ``eq14`` here (docs/decisions/014-noise-schedules.md).
    """
    scale = DIVISOR / num_steps
    start, end = 1e-4 * scale + 0.01, 2e-2 * scale + 0.01
    if end > 1:
        end = 1e-3 * scale + 0.01
    return np.linspace(start, end, num_steps)


def pw_lin(num_steps: int) -> np.ndarray:
    """Two straight lines (Diffusion-LM, Li et al. 2022, released code): 10 steps 0.1/T + 0.01 -> 0.1/T, then -> 20/T.

    The last beta is 20/T, so T <= 20 is refused.
    """
    _refuse_up_to_20("pw_lin", num_steps)
    scale = DIVISOR / num_steps
    falling = np.linspace(1e-4 * scale + 0.01, 1e-4 * scale, 10)
    return np.concatenate([falling, np.linspace(1e-4 * scale, 2e-2 * scale, num_steps - 10)])


def eq14(num_steps: int, *, eq14_a: float, eq14_b: float) -> np.ndarray:
    """DiffuRec's equation 14 as printed: beta_s = a s / T + b / s for s = 1..T, times 0.1 wherever it exceeds tau = 1.

    The paper never gives a and b.
    """
    step = np.arange(1, num_steps + 1)
    beta = eq14_a * step / num_steps + eq14_b / step
    return np.where(beta > 1, 0.1 * beta, beta)


# --- curves of alpha_bar ----------------------------------------------------------------------------------------------


def cosine(num_steps: int) -> np.ndarray:
    """alpha_bar(u) = cos^2((u + 0.008) / 1.008 pi/2) (Nichol and Dhariwal 2021, equation 17), beta at most 0.999."""
    return _betas_of_curve(lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2, num_steps)


def cosine_clipped(num_steps: int) -> np.ndarray:
    """As ``cosine``, with betas from 0.0001 to 0.9999 (DreamRec's released code, its ``cosine``)."""
    curve = np.cos((np.arange(num_steps + 1) / num_steps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.clip(1.0 - curve[1:] / curve[:-1], 1e-4, 0.9999)


def sqrt(num_steps: int) -> np.ndarray:
    """alpha_bar(u) = 1 - sqrt(u + 0.0001) (Diffusion-LM, Li et al. 2022, appendix A), beta at most 0.999."""
    return _betas_of_curve(lambda u: 1.0 - np.sqrt(u + 1e-4), num_steps)


def trunc_cos(num_steps: int) -> np.ndarray:
    """alpha_bar(u) = cos^2((u + 0.1) / 1.1 pi/2) (Diffusion-LM, released code), already noised at u = 0.

    beta_1 = 1 - alpha_bar(0); each later beta is the curve's drop over the interval *before* it, so the steep end of
    the curve is left out.
    """
    curve = np.cos((np.arange(num_steps) / num_steps + 0.1) / 1.1 * np.pi / 2) ** 2
    return np.minimum(1.0 - np.append(curve[:1], curve[1:] / curve[:-1]), 0.999)


def exp(num_steps: int) -> np.ndarray:
    """beta_i = 1 - exp(-0.1/T - x_i 4.95/T^2), x = linspace(1, 2T + 1, T).

    The variance-preserving SDE with beta(t) from 0.1 to 10 (Song et al. 2021; DreamRec's released code).
    """
    position = np.linspace(1, 2 * num_steps + 1, num_steps)
    return -np.expm1(-0.1 / num_steps - position * 0.5 * (10 - 0.1) / num_steps**2)


def linear_var(num_steps: int, *, variance_min: float, variance_max: float, variance_scale: float = 1.0) -> np.ndarray:
    """1 - alpha_bar_t = s (v_min + (t-1)/(T-1) (v_max - v_min)): the noise's variance grows in equal increments.

    DMI, equation 8 (after DiffRec, Wang et al. 2023). T = 1 takes the end of the line: 1 - alpha_bar_1 = s v_max.
    """
    line = np.linspace(variance_min, variance_max, num_steps) if num_steps > 1 else np.array([variance_max])
    variance = np.append(0.0, variance_scale * line)
    if not (np.all(np.diff(variance) > 0) and variance[-1] < 1):
        raise ValueError(
            f"the variance runs from {variance[1]:g} to {variance[-1]:g}; "
            "0 < variance_scale * variance_min < variance_scale * variance_max < 1 is needed"
        )
    # beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, written without the difference of two numbers close to 1.
    beta: np.ndarray = np.diff(variance) / (1.0 - variance[:-1])
    return beta


def _betas_of_curve(alpha_bar: Callable[[np.ndarray], np.ndarray], num_steps: int) -> np.ndarray:
    """beta_i = min(1 - alpha_bar((i+1)/T) / alpha_bar(i/T), 0.999)."""
    slot = np.arange(num_steps)
    beta: np.ndarray = np.minimum(1.0 - alpha_bar((slot + 1) / num_steps) / alpha_bar(slot / num_steps), 0.999)
    return beta


def _refuse_up_to_20(name: str, num_steps: int) -> None:
    if num_steps <= 20:
        raise ValueError(
            f"noise_schedule {name!r} ends with beta = 20/num_steps, which must be below 1: "
            f"num_steps is {num_steps}, allowed are 21 and more (change num_steps or noise_schedule)"
        )


SCHEDULES: dict[str, ScheduleFunction] = {
    "trunc_lin": trunc_lin,
    "linear": linear,
    "linear_scaled": linear_scaled,
    "cosine": cosine,
    "cosine_clipped": cosine_clipped,
    "sqrt": sqrt,
    "trunc_cos": trunc_cos,
    "pw_lin": pw_lin,
    "exp": exp,
    "linear_var": linear_var,
    "eq14": eq14,
}


def build_schedule(
    name_or_function: str | ScheduleFunction, num_steps: int, *, keys: Collection[str] | None = None, **parameters: Any
) -> NoiseSchedule:
    """The schedule of this name (key ``noise_schedule``), or of a user's own function.

    Args:
        name_or_function: a name in :data:`SCHEDULES`, or ``f(num_steps, **parameters) -> betas (T,)``.
        num_steps: T.
        keys: the schedules' keys that the model has; one that needs another is not offered. None for all of them.
        parameters: the schedule's own keys under their configuration names (``beta_start``, ``beta_end``, ``eq14_a``,
            ``eq14_b``, ``variance_scale``, ``variance_min``, ``variance_max``). None means "not given".

    Raises:
        ValueError: unknown name, a schedule that needs more than ``keys``, a parameter that is missing or that this
            schedule does not take, a wrong number of betas, or betas that are no schedule (see
            :class:`NoiseSchedule`). The message names the keys.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, (int, np.integer)) or num_steps < 1:
        raise ValueError(f"num_steps is {num_steps!r}; it must be a whole number of at least 1")
    function, name = _schedule_function(name_or_function, keys)
    given = {key: value for key, value in parameters.items() if value is not None}
    _check_parameters(function, name, given)
    betas = function(int(num_steps), **given)
    size = np.shape(betas.detach().cpu() if isinstance(betas, Tensor) else betas)
    if size != (num_steps,):
        raise ValueError(f"noise_schedule {name} returned betas of shape {size}; num_steps asks for ({num_steps},)")
    try:
        return NoiseSchedule(betas)
    except ValueError as error:
        settings = ", ".join(f"{key}={value}" for key, value in {"num_steps": num_steps, **given}.items())
        keys = " or ".join(["noise_schedule", "num_steps", *given])
        raise ValueError(f"noise_schedule {name} with {settings}: {error} (change {keys})") from None


def _schedule_function(
    name_or_function: str | ScheduleFunction, keys: Collection[str] | None
) -> tuple[ScheduleFunction, str]:
    """The function, which needs no key but these, and how messages call it."""

    def lacking(function: ScheduleFunction) -> list[str]:
        return [] if keys is None else [key for key in _needed(function) if key not in keys]

    possible = [name for name, function in SCHEDULES.items() if not lacking(function)]
    if not callable(name_or_function) and name_or_function not in SCHEDULES:
        near = difflib.get_close_matches(str(name_or_function).lower(), possible, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown noise_schedule {name_or_function!r}{hint} (allowed: {', '.join(possible)})")
    if callable(name_or_function):
        function, name = name_or_function, getattr(name_or_function, "__name__", repr(name_or_function))
    else:
        function, name = SCHEDULES[name_or_function], repr(name_or_function)
    if lacking(function):
        raise ValueError(
            f"noise_schedule {name} needs {', '.join(lacking(function))}, for which this model has no key "
            f"(allowed: {', '.join(possible)}, or a function of {', '.join(['num_steps', *(keys or ())])})"
        )
    return function, name


def _accepted(function: ScheduleFunction) -> list[inspect.Parameter] | None:
    """What it takes beside num_steps; None where a compiled function does not tell."""
    try:
        return list(inspect.signature(function).parameters.values())[1:]
    except ValueError:
        return None


def _needed(function: ScheduleFunction) -> list[str]:
    """The parameters that it cannot do without."""
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [
        parameter.name
        for parameter in _accepted(function) or ()
        if parameter.default is inspect.Parameter.empty and parameter.kind in named
    ]


def _check_parameters(function: ScheduleFunction, name: str, given: dict[str, Any]) -> None:
    """Every given parameter is taken, every required one is given."""
    accepted = _accepted(function)
    if accepted is None:
        return
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted):
        names = [parameter.name for parameter in accepted]
        for key in given:
            if key not in names:
                takes = f"it takes {', '.join(names)}" if names else "it takes no parameters"
                raise ValueError(
                    f"noise_schedule {name} does not take {key!r}: {takes} (remove {key} or change noise_schedule)"
                )
    for key in _needed(function):
        if key not in given:
            raise ValueError(f"noise_schedule {name} needs {key!r}, which is not given (set the key {key})")
