"""The unit sphere: inverses, lengths, and finite gradients at zero, at the point itself and at the antipode."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.sphere import distance, exponential, logarithm, normalise, project


def points(rows: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit vectors and any vectors, float64."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=draw, dtype=torch.float64)
    return x / x.norm(dim=-1, keepdim=True), torch.randn(rows, dim, generator=draw, dtype=torch.float64)


def test_normalise_gives_unit_vectors_and_leaves_zero() -> None:
    _, v = points(5, 7)
    torch.testing.assert_close(normalise(v).norm(dim=-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(normalise(3.5 * v), normalise(v))
    zero = torch.zeros(2, 4, requires_grad=True)
    normalise(zero).sum().backward()
    assert zero.grad is not None and zero.grad.tolist() == [[0.0] * 4] * 2


def test_projection_is_tangent_and_repeats() -> None:
    x, v = points(6, 9)
    tangent = project(x, v)
    torch.testing.assert_close((tangent * x).sum(-1), torch.zeros(6, dtype=torch.float64), atol=1e-14, rtol=0)
    torch.testing.assert_close(project(x, tangent), tangent)
    torch.testing.assert_close(project(x, x), torch.zeros_like(x), atol=1e-14, rtol=0)


@pytest.mark.parametrize("length", [0.0, 1e-9, 1e-3, 9.9e-3, 1.01e-2, 0.5, math.pi / 2, 3.0])
def test_exponential_walks_its_length(length: float) -> None:
    x, v = points(4, 8)
    v = length * normalise(project(x, v))
    y = exponential(x, v)
    torch.testing.assert_close(y.norm(dim=-1), torch.ones(4, dtype=torch.float64), atol=1e-13, rtol=0)
    torch.testing.assert_close(distance(x, y), torch.full((4,), length, dtype=torch.float64), atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(logarithm(x, y), v, atol=1e-12, rtol=1e-9)


def test_exponential_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    v = torch.tensor([[0.0, math.pi / 2], [0.0, math.pi], [-math.pi / 6, 0.0]])
    expected = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [-0.5, math.sqrt(3) / 2]])
    torch.testing.assert_close(exponential(x, v), expected, atol=1e-6, rtol=0)


def test_a_vector_that_is_not_tangent_leaves_the_sphere_as_the_docstring_says() -> None:
    x, v = points(5, 6)
    length, along = v.norm(dim=-1), (v * x).sum(-1) / v.norm(dim=-1)
    torch.testing.assert_close(exponential(x, v).square().sum(-1), 1 + (2 * length).sin() * along)


def test_logarithm_of_the_antipode_is_zero() -> None:
    x, _ = points(3, 5)
    assert logarithm(x, -x).abs().max() < 1e-12
    assert logarithm(x, x).abs().max() < 1e-12
    torch.testing.assert_close(distance(x, -x), torch.full((3,), math.pi, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", ["same", "antipode", "beside", "zero"])
def test_values_and_gradients_are_finite(dtype: torch.dtype, place: str) -> None:
    x = points(3, 6)[0].to(dtype)
    y = {"same": x.clone(), "antipode": -x, "beside": x + 1e-7, "zero": torch.zeros_like(x)}[place]
    for operation in (
        lambda a, b: exponential(a, project(a, b)),
        lambda a, b: exponential(normalise(a), b),
        logarithm,
        distance,
        lambda a, b: normalise(a + b),
    ):
        first, second = x.clone().requires_grad_(), y.clone().requires_grad_()
        result = operation(first, second)
        assert bool(result.isfinite().all())
        gradients = torch.autograd.grad(result.sum(), (first, second), allow_unused=True)
        assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


@pytest.mark.parametrize("length", [0.0, 5e-3, 0.7, 2.0])
def test_gradients_agree_with_differences(length: float) -> None:
    x, v = points(2, 4)
    v = length * normalise(project(x, v))
    assert torch.autograd.gradcheck(exponential, (x.requires_grad_(), v.requires_grad_()))


def test_reduced_precision_is_computed_in_float32() -> None:
    x, v = (part.to(torch.bfloat16) for part in points(2, 8))
    for result in (normalise(x), project(x, v), exponential(x, v), logarithm(x, v), distance(x, v)):
        assert result.dtype == torch.float32
