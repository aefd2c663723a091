"""Dropout from 16 random bits: probabilities, expectation, gradients."""

from __future__ import annotations

import pytest
import torch

from recbole_diffusion.denoisers.dropout import dropout, keep_scale, residual_dropout


@pytest.mark.parametrize("probability", [0.1, 0.3, 0.5, 0.9])
def test_share_and_expectation(probability: float) -> None:
    torch.manual_seed(0)
    kept = keep_scale(torch.Size((1000, 1001)), probability, torch.float32)
    share = float((kept == 0).float().mean())
    deviation = (probability * (1 - probability) / kept.numel()) ** 0.5
    assert abs(share - probability) < 5 * deviation + 2**-16
    values = kept.unique()
    assert values.tolist() == pytest.approx([0.0, 1 / (1 - probability)], rel=1e-3)
    assert float(kept.mean()) == pytest.approx(1.0, abs=6 * deviation / (1 - probability))


def test_neighbours_are_independent() -> None:
    torch.manual_seed(0)
    kept = (keep_scale(torch.Size((400_000,)), 0.5, torch.float32) > 0).float()
    for distance in (1, 2, 3, 4, 5, 8):
        together = float((kept[:-distance] * kept[distance:]).mean())
        assert together == pytest.approx(0.25, abs=0.005)


def test_off_outside_training_and_at_zero() -> None:
    x = torch.randn(5, 3)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x
    torch.testing.assert_close(residual_dropout(x, x, 0.5, False), 2 * x)


def test_gradient_is_the_mask() -> None:
    torch.manual_seed(3)
    x = torch.ones(50, 40, requires_grad=True)
    residual = torch.zeros(50, 40, requires_grad=True)
    y = residual_dropout(residual, x, 0.3, True)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    torch.testing.assert_close(residual.grad, torch.ones(50, 40))


def test_repeats_with_the_global_seed() -> None:
    x = torch.randn(30, 7)
    torch.manual_seed(1)
    first = dropout(x, 0.4, True)
    torch.manual_seed(1)
    assert torch.equal(first, dropout(x, 0.4, True))
