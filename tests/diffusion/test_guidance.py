"""Classifier-free guidance: its formula, its special cases, and that dropping the condition is what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.guidance import ClassifierFreeGuidance, drop_condition, with_and_without
from recbole_diffusion.diffusion.noise import ZeroNoise


class Recorded:
    """x_0_hat = 2 x_t + condition + t; notes how many rows it was asked for."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor, condition: Tensor, *, noise: object) -> Tensor:
        self.rows.append(len(x_t))
        return 2 * x_t + condition + t[:, None]


def test_the_formula_in_one_call() -> None:
    denoiser, h, none = Recorded(), torch.randn(3, 4), torch.randn(4)
    x_t, t = torch.randn(3, 4), torch.tensor([2, 2, 2])
    guided = ClassifierFreeGuidance(denoiser, 1.5)(x_t, t, with_and_without(h, none, 1.5), noise=ZeroNoise())
    expected = 2.5 * (2 * x_t + h + 2) - 1.5 * (2 * x_t + none + 2)
    torch.testing.assert_close(guided, expected)
    assert denoiser.rows == [6]


def test_without_strength_the_unconditional_answer_is_not_asked_for() -> None:
    denoiser, h, none = Recorded(), torch.randn(3, 4), torch.full((4,), float("nan"))
    x_t, t = torch.randn(3, 4), torch.tensor([0, 1, 2])
    condition = with_and_without(h, none, 0.0)
    assert condition is h
    result = ClassifierFreeGuidance(denoiser, 0.0)(x_t, t, condition, noise=ZeroNoise())
    torch.testing.assert_close(result, 2 * x_t + h + t[:, None])
    assert denoiser.rows == [3]


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(ValueError, match="guidance_scale is -1"):
        ClassifierFreeGuidance(Recorded(), -1.0)


def test_dropping_the_condition() -> None:
    h, none = torch.randn(2000, 3, requires_grad=True), torch.randn(3, requires_grad=True)
    assert drop_condition(h, none, 0.0) is h
    torch.manual_seed(0)
    kept = drop_condition(h, none, 0.25)
    dropped = (kept == none).all(1)
    assert int(dropped.sum()) == pytest.approx(500, abs=80)
    torch.testing.assert_close(kept[~dropped], h[~dropped])
    all_dropped = drop_condition(h, none, 1.0)
    torch.testing.assert_close(all_dropped, none.expand_as(h))
    all_dropped.sum().backward()
    assert h.grad is not None and none.grad is not None
    assert not h.grad.any() and none.grad.tolist() == [2000.0] * 3
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 1"):
        drop_condition(h, none, 1.1)
