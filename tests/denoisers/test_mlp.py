"""The perceptron denoiser equals the plain one on concatenated inputs, whatever is computed ahead of the steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.denoisers.mlp import MLPDenoiser, SineStepEmbedding
from recbole_diffusion.diffusion.noise import ZeroNoise
from recbole_diffusion.diffusion.process import CLEAN

DIM, STEPS, K, ROWS = 6, 5, 3, 4


def plain(model: MLPDenoiser, x_t: Tensor, t: Tensor, guidance: Tensor) -> Tensor:
    """The denoiser as the equations have it, nothing ahead."""
    step = model.step_embedding(t)
    if model.fusion == "flatten":
        fused = guidance.reshape(len(guidance), -1)
    elif model.fusion == "mean":
        fused = guidance.mean(1)
    else:
        scores = torch.einsum("bkd,bd->bk", guidance, x_t + step) / math.sqrt(DIM)
        fused = torch.einsum("bk,bkd->bd", scores.softmax(1), guidance)
    weight = torch.cat([model.of_x.weight, model.of_guidance.weight, model.of_step.weight], dim=1)
    x = functional.linear(torch.cat([x_t, fused, step], dim=1), weight, model.of_step.bias)
    for layer in model.rest:
        x = layer(functional.gelu(x))
    return x / x.norm(dim=1, keepdim=True) if model.unit_output else x


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("unit_output", [True, False])
@pytest.mark.parametrize("sizes", [[], [10], [10, 7]])
@pytest.mark.parametrize("fusion", ["flatten", "mean", "attention"])
@pytest.mark.parametrize("rows", [ROWS, 9])
def test_equal_to_the_plain_perceptron(
    rows: int, fusion: str, sizes: list[int], unit_output: bool, training: bool
) -> None:
    torch.manual_seed(0)
    model = MLPDenoiser(DIM, STEPS, n_guidance=K, hidden_sizes=sizes, fusion=fusion, unit_output=unit_output)
    model.train(training)
    x_t, guidance = torch.randn(rows, DIM, requires_grad=True), torch.randn(rows, K, DIM, requires_grad=True)
    t = torch.randint(CLEAN, STEPS, (rows,))
    condition = model.condition(guidance)
    assert (condition.steps is None) == (training and rows <= STEPS)
    ours, theirs = model(x_t, t, condition, noise=ZeroNoise()), plain(model, x_t, t, guidance)
    torch.testing.assert_close(ours, theirs)
    parameters = (x_t, guidance, *model.parameters())
    weight = torch.randn_like(ours)
    for one, other in zip(
        torch.autograd.grad((ours * weight).sum(), parameters),
        torch.autograd.grad((theirs * weight).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_step_embedding_by_hand() -> None:
    """Sines first; frequencies 10000^(-j / (D/2 - 1)), so the last one is 1/10000."""
    waves = SineStepEmbedding(6, 4).waves
    assert waves.shape == (5, 6)
    frequency = torch.tensor([1.0, 0.01, 0.0001])
    for slot in range(CLEAN, 4):
        expected = torch.cat([(slot * frequency).sin(), (slot * frequency).cos()])
        torch.testing.assert_close(waves[slot - CLEAN], expected)
    assert SineStepEmbedding(2, 3).waves.isfinite().all()
    assert SineStepEmbedding(5, 3).waves[:, -1].tolist() == [0.0] * 4


def test_slots_are_told_apart() -> None:
    torch.manual_seed(0)
    model = MLPDenoiser(DIM, STEPS, hidden_sizes=[8]).eval()
    x_t, condition = torch.randn(1, DIM), model.condition(torch.randn(1, 1, DIM))
    outputs = [model(x_t, torch.tensor([slot]), condition, noise=ZeroNoise()) for slot in range(CLEAN, STEPS)]
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(outputs) for b in outputs[:i])


def test_attention_sees_the_noised_target() -> None:
    torch.manual_seed(0)
    model = MLPDenoiser(DIM, STEPS, n_guidance=K, fusion="attention").eval()
    vectors = torch.eye(DIM)[:K][None]
    steps = model.step_embedding()[3]
    attended = model._attend(50 * vectors[:, 1] - steps, vectors)
    torch.testing.assert_close(attended, vectors[:, 1], atol=2e-1, rtol=0)


def test_it_starts_as_one_linear_layer() -> None:
    model = MLPDenoiser(32, STEPS, n_guidance=4, hidden_sizes=[500])
    bound = (6 * 32) ** -0.5
    for weight in (model.of_x.weight, model.of_guidance.weight, model.of_step.weight, model.of_step.bias):
        assert 0.95 * bound < float(weight.detach().abs().max()) <= bound


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="hidden_act is 'swish'"):
        MLPDenoiser(DIM, STEPS, activation="swish")
    with pytest.raises(ValueError, match="guidance_fusion is 'sum'"):
        MLPDenoiser(DIM, STEPS, fusion="sum")
    with pytest.raises(ValueError, match=r"denoiser_hidden_sizes is \[8, 0\]"):
        MLPDenoiser(DIM, STEPS, hidden_sizes=[8, 0])


def test_reduced_precision() -> None:
    model = MLPDenoiser(DIM, STEPS, n_guidance=K, hidden_sizes=[8], fusion="attention", unit_output=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = model(
            torch.randn(ROWS, DIM),
            torch.tensor([0, 1, 2, 3]),
            model.condition(torch.randn(ROWS, K, DIM)),
            noise=ZeroNoise(),
        )
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.norm(dim=1), torch.ones(ROWS))
    x.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
