"""The step embedding: the sinusoid, the rescaling, and the published code's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_diffusion.denoisers.step_embedding import StepEmbedding, sinusoid


def test_sinusoid_by_hand() -> None:
    """D = 4: frequencies 1 and 0.01; cosines first."""
    wave = sinusoid(torch.tensor([0.0, 2.0]), 4)
    expected = [[1, 1, 0, 0], [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02)]]
    np.testing.assert_allclose(wave.numpy(), expected, atol=1e-6)


def test_sinusoid_halves_are_on_the_unit_circle_and_shift_by_rotation() -> None:
    """cos(a + b) = cos a cos b - sin a sin b for every frequency: a shift in time is a fixed rotation."""
    dim, t = 12, torch.tensor([0.0, 1.5, 40.0])
    cos_t, sin_t = sinusoid(t, dim).chunk(2, dim=1)
    torch.testing.assert_close(cos_t**2 + sin_t**2, torch.ones(3, 6))
    cos_d, sin_d = sinusoid(torch.tensor([7.0]), dim).chunk(2, dim=1)
    shifted = torch.cat([cos_t * cos_d - sin_t * sin_d, sin_t * cos_d + cos_t * sin_d], dim=1)
    torch.testing.assert_close(sinusoid(t + 7, dim), shifted, atol=1e-5, rtol=0)


def test_sinusoid_is_as_exact_as_float32_angles_allow() -> None:
    time, half = np.arange(32) * 1000 / 32, 64
    angle = time[:, None] * 10000.0 ** (-np.arange(half) / half)
    exact = np.concatenate([np.cos(angle), np.sin(angle)], axis=1)
    error = np.abs(StepEmbedding(128, 32).waves.numpy() - exact)
    assert (error <= 1e-6 + 3 * 2**-24 * time[:, None]).all()


def test_sinusoid_of_an_odd_width_ends_in_zeros() -> None:
    t = torch.tensor([3, 5])
    wave = sinusoid(t, 7)
    assert wave.shape == (2, 7) and (wave[:, 6] == 0).all()
    assert torch.equal(wave[:, :6], sinusoid(t, 6))
    assert sinusoid(t, 1).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(("rescale", "factor"), [(True, 1000 / 32), (False, 1.0)])
def test_embedding_is_the_network_of_the_scaled_sinusoid(rescale: bool, factor: float) -> None:
    embedding = StepEmbedding(16, 32, rescale=rescale)
    t = torch.tensor([0, 31, 5, 5])
    wave = sinusoid(t * factor, 16)
    first, second = embedding.first, embedding.second
    hidden = wave @ first.weight.T + first.bias
    expected = (hidden * torch.sigmoid(hidden)) @ second.weight.T + second.bias
    result = embedding(t)
    torch.testing.assert_close(result, expected)
    assert result.shape == (4, 16) and torch.equal(result[2], result[3])
    assert not torch.allclose(result[0], result[1])


def test_only_the_two_layers_are_saved_and_trained() -> None:
    embedding = StepEmbedding(8, 10)
    assert set(embedding.state_dict()) == {"first.weight", "first.bias", "second.weight", "second.bias"}
    assert embedding.first.weight.shape == (32, 8) and embedding.second.weight.shape == (8, 32)
    embedding(torch.tensor([3])).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in embedding.parameters())
    assert embedding.to("meta").waves.device.type == "meta"


def test_sinusoids_equal_those_of_the_published_code(shared) -> None:
    golden = np.load(shared / "golden" / "tiny_diffurec.npz")
    schedules = np.load(shared / "golden" / "schedules.npz")
    times = torch.tensor(golden["t_scaled_all"])
    assert torch.equal(times, torch.arange(8) * (1000.0 / 8))
    np.testing.assert_allclose(sinusoid(times, 16).numpy(), golden["time_sinusoid_all"], atol=1e-6)
    np.testing.assert_allclose(StepEmbedding(16, 8).waves.numpy(), golden["time_sinusoid_all"], atol=1e-6)
    wide = golden["time_sinusoid_dim128_T32"]
    # one rounding of a float32 frequency moves an angle of 969 by 6e-5, and exp() rounds as the processor likes
    np.testing.assert_allclose(StepEmbedding(128, 32).waves.numpy(), wide, atol=1e-4)
    for key in [key for key in schedules.files if key.endswith("t_scaled")]:
        num_steps = len(schedules[key])
        expected = sinusoid(torch.tensor(schedules[key]), 32)
        torch.testing.assert_close(StepEmbedding(32, num_steps).waves, expected, atol=1e-6, rtol=0)


def test_embedding_equals_that_of_the_published_code(shared) -> None:
    golden = np.load(shared / "golden" / "tiny_diffurec.npz")
    weights = np.load(shared / "golden" / "tiny_state_dict.npz")
    embedding = StepEmbedding(16, 8)
    published = {"first": "diffu.xstart_model.time_embed.0", "second": "diffu.xstart_model.time_embed.2"}
    embedding.load_state_dict(
        {
            f"{ours}.{kind}": torch.tensor(weights[f"{theirs}.{kind}"])
            for ours, theirs in published.items()
            for kind in ("weight", "bias")
        }
    )
    with torch.no_grad():
        np.testing.assert_allclose(embedding(torch.arange(8)).numpy(), golden["time_embed_all"], atol=1e-6)
