"""`beta_start` and `beta_end` of DimeRec and DreamRec: filled for `linear` alone, handed on or refused elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from recbole_diffusion.diffusion.schedules import SCHEDULES, build_schedule

from . import test_dimerec, test_dreamrec

MODELS: dict[str, Callable[..., Any]] = {"DimeRec": test_dimerec.tiny, "DreamRec": test_dreamrec.tiny}
OWN = "tests.models.own_parts:geometric_schedule"


def betas(model: str, **keys: Any) -> np.ndarray:
    """The betas of a tiny model with these keys, T = 30."""
    table: np.ndarray = MODELS[model](num_steps=30, **keys).process.schedule.tables["betas"]
    return table


@pytest.mark.parametrize("model", MODELS)
def test_linear_is_ddpms_unless_told(model: str) -> None:
    np.testing.assert_array_equal(betas(model, noise_schedule="linear"), np.linspace(0.0001, 0.02, 30))
    steeper = betas(model, noise_schedule="linear", beta_end=0.1)
    np.testing.assert_array_equal(steeper, np.linspace(0.0001, 0.1, 30))


@pytest.mark.parametrize("model", MODELS)
def test_what_a_schedule_does_not_take_is_refused(model: str) -> None:
    np.testing.assert_array_equal(betas(model, noise_schedule="exp"), build_schedule("exp", 30).tables["betas"])
    with pytest.raises(ValueError, match=r"'exp' does not take 'beta_end'.*remove beta_end"):
        betas(model, noise_schedule="exp", beta_end=0.1)


@pytest.mark.parametrize("model", MODELS)
def test_a_users_own_function_gets_what_is_given(model: str) -> None:
    found = betas(model, noise_schedule=OWN, beta_start=0.001, beta_end=0.5)
    np.testing.assert_allclose(found, np.geomspace(0.001, 0.5, 30))
    np.testing.assert_allclose(betas(model, noise_schedule=OWN, beta_start=0.001), np.geomspace(0.001, 0.2, 30))
    with pytest.raises(ValueError, match=r"geometric_schedule needs 'beta_start'.*set the key beta_start"):
        betas(model, noise_schedule=OWN)


@pytest.mark.parametrize("model", MODELS)
def test_schedules_that_need_other_keys_are_not_offered(model: str) -> None:
    offered = ", ".join(name for name in SCHEDULES if name not in ("linear_var", "eq14"))
    for name, needs in {"linear_var": "variance_min, variance_max", "eq14": "eq14_a, eq14_b"}.items():
        with pytest.raises(ValueError, match=f"'{name}' needs {needs}, for which this model has no key") as caught:
            betas(model, noise_schedule=name)
        assert f"(allowed: {offered}, or a function of num_steps, beta_start, beta_end)" in str(caught.value)
    with pytest.raises(ValueError, match=r"unknown noise_schedule 'linear-var'") as caught:
        betas(model, noise_schedule="linear-var")
    assert f"(allowed: {offered})" in str(caught.value)
