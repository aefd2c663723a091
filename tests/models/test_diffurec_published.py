"""DiffuRec against numbers computed by the published code on a tiny model (float32, evaluation mode, lambda at its
mean)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import ZeroNoise
from recbole_diffusion.losses.ranking import full_softmax
from recbole_diffusion.models.diffurec import DiffuRec

from .tiny import interaction, load_published, tiny_model

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


class RecordedNoise:
    """Hands out recorded step noise in call order."""

    per_row = False

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = list(draws)

    def select(self, index: object) -> RecordedNoise:
        return self

    def normal(self, shape: Sequence[int], **_: object) -> Tensor:
        return self.draws.pop(0)


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, Tensor]:
    with np.load(shared / "golden" / "tiny_diffurec.npz") as file:
        return {name: torch.from_numpy(np.asarray(file[name])) for name in file.files}


def published_model(shared: Path, strength: float) -> DiffuRec:
    model = tiny_model(lambda_mean=strength, lambda_std=0.0)
    with np.load(shared / "golden" / "tiny_state_dict.npz") as file:
        load_published(model, dict(file))
    return model


def batch_of(golden: dict[str, Tensor]):
    rows = [[int(item) for item in row if item] for row in golden["seq"]]
    return interaction(rows, golden["target"][:, 0].tolist())


@pytest.mark.parametrize("strength", ["0.001", "0.5"])
def test_reconstruction_scores_loss(shared: Path, golden: dict[str, Tensor], strength: str) -> None:
    model = published_model(shared, float(strength))
    batch = batch_of(golden)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    noised = model.process.sample(model.item_embedding(batch["item_id"]), golden["t"].long(), noise=golden["noise"])
    torch.testing.assert_close(noised.x_t, golden["x_t"], **TOLERANCE)
    x_0 = model.denoiser(noised.x_t, golden["t"].long(), condition, noise=ZeroNoise())
    torch.testing.assert_close(x_0, golden[f"lam{strength}_x0"], **TOLERANCE)
    scores = x_0 @ model.item_vectors().T
    torch.testing.assert_close(scores, golden[f"lam{strength}_scores"], **TOLERANCE)
    loss = full_softmax(x_0, model.item_vectors(), batch["item_id"]).mean()
    torch.testing.assert_close(loss, golden[f"lam{strength}_loss_ce"], **TOLERANCE)


def test_gradient_of_item_embeddings(shared: Path, golden: dict[str, Tensor]) -> None:
    model = published_model(shared, 0.5)
    batch = batch_of(golden)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    noised = model.process.sample(model.item_embedding(batch["item_id"]), golden["t"].long(), noise=golden["noise"])
    x_0 = model.denoiser(noised.x_t, golden["t"].long(), condition, noise=ZeroNoise())
    full_softmax(x_0, model.item_vectors(), batch["item_id"]).mean().backward()
    gradient = model.item_embedding.weight.grad
    assert gradient is not None
    torch.testing.assert_close(gradient, golden["lam0.5_grad_item_embeddings"], **TOLERANCE)
    assert float(gradient[0].abs().sum()) > 0  # the padding row is trained, as published


@pytest.mark.parametrize("strength", ["0.001", "0.5"])
def test_reverse_trajectory_without_noise(shared: Path, golden: dict[str, Tensor], strength: str) -> None:
    model = published_model(shared, float(strength))
    batch = batch_of(golden)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    x = golden["x_T"]
    expected = golden[f"lam{strength}_reverse_traj"]
    with torch.no_grad():
        for place, t in enumerate(range(7, -1, -1)):
            x_0 = model.denoiser(x, torch.full((3,), t), condition, noise=ZeroNoise())
            torch.testing.assert_close(x_0, golden[f"lam{strength}_reverse_x0_preds"][place], **TOLERANCE)
            x = model.process.step(x_0, x, t, t - 1, noise=ZeroNoise())
            torch.testing.assert_close(x, expected[place + 1], **TOLERANCE)
        torch.testing.assert_close(x, golden[f"lam{strength}_reverse_p_sample"], **TOLERANCE)


@pytest.mark.parametrize("strength", ["0.001", "0.5"])
def test_sampler_with_recorded_noise(shared: Path, golden: dict[str, Tensor], strength: str) -> None:
    model = published_model(shared, float(strength))
    batch = batch_of(golden)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    with torch.no_grad():
        x = model.sampler(model.denoiser, golden["x_T"], condition, noise=RecordedNoise(list(golden["step_noise"])))
    torch.testing.assert_close(x, golden[f"lam{strength}_reverse_with_step_noise"], **TOLERANCE)


def test_all_ones_mask_is_the_mask_without_padded_queries(shared: Path, golden: dict[str, Tensor]) -> None:
    """With every query asking (no mask), padding tokens attend too; so their states, and the read-out, change."""
    model = published_model(shared, 0.5)
    batch = batch_of(golden)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    assert condition.layout.query_keep is not None
    condition.layout.query_keep.fill_(1.0)
    x_0 = model.denoiser(golden["x_t"], golden["t"].long(), condition, noise=ZeroNoise())
    torch.testing.assert_close(x_0, golden["lam0.5_x0_mask_all_ones"], **TOLERANCE)
