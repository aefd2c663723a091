"""The yardstick against the released DiffuRec code's own numbers, and against identities of the diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference_diffurec import (
    ReferenceDiffuRec,
    ReferenceLayerNorm,
    ReferenceSizes,
    left_padded,
    truncated_linear_betas,
)

TOLERANCE = 1e-5
PUBLISHED_PREFIX = {
    "item_embeddings": "item_embedding",
    "LayerNorm": "embedding_norm",
    "diffu.xstart_model.time_embed.0": "step_first",
    "diffu.xstart_model.time_embed.2": "step_second",
    "diffu.xstart_model.norm_diffu_rep": "output_norm",
}
PUBLISHED_IN_BLOCK = {
    "attention.linear_layers.0": "attention.query",
    "attention.linear_layers.1": "attention.key",
    "attention.linear_layers.2": "attention.value",
    "attention.w_layer": "attention.output",
    "feed_forward.w_1": "feed_forward.first",
    "feed_forward.w_2": "feed_forward.second",
    "input_sublayer.norm": "attention_norm",
    "output_sublayer.norm": "feed_forward_norm",
}
BLOCKS = "diffu.xstart_model.att.transformer_blocks."
UNUSED = ("position_embeddings", "diffu.xstart_model.linear_", "diffu.xstart_model.fuse_linear")


def reference_name(published: str) -> str:
    """Our name of a parameter of the released code."""
    module, leaf = published.rsplit(".", 1)
    if module.startswith(BLOCKS):
        number, part = module[len(BLOCKS) :].split(".", 1)
        return f"blocks.{number}.{PUBLISHED_IN_BLOCK[part]}.{leaf}"
    return f"{PUBLISHED_PREFIX[module]}.{leaf}"


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, torch.Tensor]:
    with np.load(shared / "golden" / "tiny_diffurec.npz") as archive:
        return {name: torch.from_numpy(archive[name]) for name in archive.files}


@pytest.fixture(scope="module")
def model(shared: Path) -> ReferenceDiffuRec:
    with np.load(shared / "golden" / "tiny_state_dict.npz") as archive:
        weights = {
            reference_name(name): torch.from_numpy(archive[name])
            for name in archive.files
            if not name.startswith(UNUSED)
        }
    tiny = ReferenceDiffuRec(
        ReferenceSizes(n_items=51, hidden_size=16, n_layers=2, n_heads=4, max_length=8, num_steps=8)
    )
    tiny.load_state_dict(weights, strict=True)
    return tiny.eval()


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.detach(), expected, rtol=0, atol=TOLERANCE)


def test_step_vectors(model: ReferenceDiffuRec, golden: dict[str, torch.Tensor]) -> None:
    close(model.step_vector(torch.arange(8)), golden["time_embed_all"])


def test_history_and_noised_target(model: ReferenceDiffuRec, golden: dict[str, torch.Tensor]) -> None:
    close(model.history_vectors(golden["seq"]), golden["item_rep"])
    target = model.item_embedding(golden["target"][:, 0])
    close(target, golden["target_emb"])
    close(model.noised(target, golden["t"], golden["noise"]), golden["x_t"])


@pytest.mark.parametrize("mixing", [0.001, 0.5])
def test_denoiser_scores_and_loss(model: ReferenceDiffuRec, golden: dict[str, torch.Tensor], mixing: float) -> None:
    name = f"lam{mixing}_"
    fixed = torch.tensor(mixing)
    arguments: tuple[Any, ...] = (model.history_vectors(golden["seq"]), golden["mask_seq"], golden["x_t"], golden["t"])
    first, second, last = model.hidden_states(*arguments, fixed)
    close(first, golden[name + "block0_out"])
    close(second, golden[name + "block1_out"])
    close(last, golden[name + "rep_diffu"])
    x_0 = model.denoised(*arguments, fixed)
    close(x_0, golden[name + "x0"])
    close(model.scores(x_0), golden[name + "scores"])
    loss = model.loss(golden["seq"], golden["target"][:, 0], t=golden["t"], noise=golden["noise"], mixing=fixed)
    close(loss, golden[name + "loss_ce"])
    everything = torch.ones_like(golden["mask_seq"])
    close(
        model.denoised(arguments[0], everything, golden["x_t"], golden["t"], fixed), golden[name + "x0_mask_all_ones"]
    )


def test_item_embedding_gradient(model: ReferenceDiffuRec, golden: dict[str, torch.Tensor]) -> None:
    loss = model.loss(
        golden["seq"], golden["target"][:, 0], t=golden["t"], noise=golden["noise"], mixing=torch.tensor(0.5)
    )
    (gradient,) = torch.autograd.grad(loss, [model.item_embedding.weight])
    close(gradient, golden["lam0.5_grad_item_embeddings"])


@pytest.mark.parametrize("mixing", [0.001, 0.5])
def test_reverse_chain(model: ReferenceDiffuRec, golden: dict[str, torch.Tensor], mixing: float) -> None:
    name = f"lam{mixing}_"
    fixed = torch.tensor(mixing)
    silent = torch.zeros_like(golden["step_noise"])
    with torch.no_grad():
        chain = model.reverse_trajectory(golden["seq"], x_start=golden["x_T"], step_noise=silent, mixing=fixed)
    close(torch.stack(chain), golden[name + "reverse_traj"])
    close(chain[-1], golden[name + "reverse_p_sample"])
    scores = model.recommend(golden["seq"], x_start=golden["x_T"], step_noise=golden["step_noise"], mixing=fixed)
    close(scores, model.scores(golden[name + "reverse_with_step_noise"]).detach())


@pytest.mark.parametrize("num_steps", [2, 4, 8, 16, 32, 64, 128, 256, 512])
def test_schedule(shared: Path, num_steps: int) -> None:
    with np.load(shared / "golden" / "schedules.npz") as archive:
        expected = archive[f"trunc_lin_T{num_steps}_betas"]
    np.testing.assert_allclose(truncated_linear_betas(num_steps).numpy(), expected, rtol=0, atol=1e-12)


def test_coefficients_by_hand() -> None:
    betas = truncated_linear_betas(32)
    assert betas[0].item() == pytest.approx(0.013125, abs=1e-12)
    assert betas[-1].item() == pytest.approx(0.635, abs=1e-12)
    tables = ReferenceDiffuRec(ReferenceSizes(n_items=3, hidden_size=8, n_layers=1, n_heads=2))
    assert tables.posterior_mean_coef1[0].item() == pytest.approx(1, abs=1e-6)
    assert tables.posterior_mean_coef2[0].item() == 0
    assert tables.posterior_mean_coef1[1].item() == pytest.approx(0.71862756, abs=1e-6)
    assert tables.posterior_mean_coef2[31].item() == pytest.approx(0.60415126, abs=1e-6)


def test_layer_norm_is_the_usual_one() -> None:
    torch.manual_seed(0)
    norm = ReferenceLayerNorm(16)
    x = torch.randn(5, 16)
    close(norm(x), torch.nn.functional.layer_norm(x, (16,), eps=1e-12))


def test_dropout_and_lambda_are_drawn_in_training() -> None:
    torch.manual_seed(0)
    model = ReferenceDiffuRec(ReferenceSizes(n_items=12, hidden_size=8, n_layers=2, n_heads=2, max_length=5))
    history = left_padded([[1, 2, 3], [4, 5, 6, 7, 8, 9]], 5)
    target = torch.tensor([10, 11])
    fixed = {"t": torch.tensor([3, 9]), "noise": torch.zeros(2, 8), "mixing": torch.tensor(0.001)}
    model.train()
    assert model.loss(history, target, **fixed).item() != model.loss(history, target, **fixed).item()
    model.eval()
    assert model.loss(history, target, **fixed).item() == model.loss(history, target, **fixed).item()
    del fixed["mixing"]
    assert model.loss(history, target, **fixed).item() != model.loss(history, target, **fixed).item()


def test_left_padded_keeps_the_newest() -> None:
    assert left_padded([[1, 2], [3, 4, 5, 6]], 3).tolist() == [[0, 1, 2], [4, 5, 6]]
