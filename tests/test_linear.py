"""oneDNN's float32 linear layer against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from recbole_diffusion.linear import FEW_ROWS, SMALL_WEIGHT, Linear, linear, linear_gelu


@pytest.mark.parametrize("shape", [(7, 16, 48), (33, 64, 16), (1, 8, 8), (300, 128, 512)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients(shape: tuple[int, int, int], with_bias: bool) -> None:
    rows, inputs, outputs = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator) / inputs**0.5
    bias = torch.randn(outputs, generator=generator) if with_bias else None
    upstream = torch.randn(rows, outputs, generator=generator)
    results = []
    for product in (linear, functional.linear):
        leaves = [tensor.clone().requires_grad_() if tensor is not None else None for tensor in (x, weight, bias)]
        y = product(*leaves)
        y.backward(upstream)
        results.append([y.detach(), *(leaf.grad for leaf in leaves if leaf is not None)])
        with torch.no_grad():
            torch.testing.assert_close(product(x, weight, bias), y.detach(), rtol=1e-5, atol=1e-5)
    for ours, torchs in zip(*results):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=2e-5)


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, weight = torch.randn(4, 8), torch.randn(3, 8, requires_grad=True)
    linear(x, weight).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(3, 8), rtol=1e-5, atol=1e-5)


def test_autocast_and_other_types_use_the_ordinary_layer() -> None:
    layer = Linear(8, 4)
    x = torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64
    assert Linear(8, 4)(torch.empty(0, 8)).shape == (0, 4)


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1, 300])
@pytest.mark.parametrize("outputs", [48, SMALL_WEIGHT + 8])
def test_gelu_in_the_product_and_few_rows(rows: int, outputs: int) -> None:
    """Whichever way is taken, in training or not, it is GELU's tanh form of the ordinary layer."""
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(rows, 16, generator=generator), torch.randn(outputs, 16, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    plain = functional.linear(x, weight, bias)
    expected = functional.gelu(plain, approximate="tanh")
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias), plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(linear_gelu(x, weight, bias), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear_gelu(x, weight, bias), expected, rtol=1e-5, atol=1e-5)
    leaf = x.clone().requires_grad_()
    linear_gelu(leaf, weight, bias).sum().backward()
    reference = x.clone().requires_grad_()
    functional.gelu(functional.linear(reference, weight, bias), approximate="tanh").sum().backward()
    torch.testing.assert_close(leaf.grad, reference.grad, rtol=1e-4, atol=1e-4)
