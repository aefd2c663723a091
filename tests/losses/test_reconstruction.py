"""Distances of a reconstruction: by hand, homogeneous, finite where they have a corner."""

from __future__ import annotations

import pytest
import torch

from recbole_diffusion.losses.reconstruction import reconstruction_distance


def test_by_hand() -> None:
    x, y = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    assert reconstruction_distance(x, y).tolist() == [5.0, 1.0]
    assert reconstruction_distance(x, y, "mse").tolist() == [12.5, 0.5]


def test_euclidean_scales_linearly_and_mse_as_the_square() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(7, 5), torch.randn(7, 5)
    for scale in (0.0, 1e-4, 3.0, 1e4):
        torch.testing.assert_close(
            reconstruction_distance(scale * x, scale * y), scale * reconstruction_distance(x, y), rtol=1e-5, atol=0
        )
        torch.testing.assert_close(
            reconstruction_distance(scale * x, scale * y, "mse"),
            scale**2 * reconstruction_distance(x, y, "mse"),
            rtol=1e-5,
            atol=0,
        )


def test_gradient_has_length_one_and_is_zero_at_the_corner() -> None:
    y = torch.zeros(3, 4)
    x = torch.stack([torch.zeros(4), torch.full((4,), 1e-20), torch.ones(4)]).requires_grad_()
    reconstruction_distance(x, y).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert x.grad[0].tolist() == [0.0] * 4
    torch.testing.assert_close(x.grad[2], torch.full((4,), 0.5))


def test_half_precision_is_summed_in_float32() -> None:
    x = torch.full((1, 4096), 1.0, dtype=torch.bfloat16)
    assert reconstruction_distance(x, torch.zeros_like(x)).item() == 64.0


def test_another_name() -> None:
    with pytest.raises(ValueError, match="use euclidean or mse"):
        reconstruction_distance(torch.zeros(1, 2), torch.zeros(1, 2), "l1")  # type: ignore[arg-type]
