"""Adam of the rows that a batch reads: torch's own rules where they apply, clipping, resuming, what the log says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_

from recbole_diffusion.models.sasrec_sampled import SASRecSampled
from recbole_diffusion.quick_start import run
from recbole_diffusion.training.checkpoint import read_checkpoint
from recbole_diffusion.training.losses import TrainingDiverged, stop_unless_weights_finite
from recbole_diffusion.training.optimizer import fused_adam
from recbole_diffusion.training.row_wise_adam import RowWiseAdam, RowWiseAdamW, clip_gradients

from .test_resume import assert_same_end

V, D = 9, 4
STEPS = [[1, 2, 2], [3], [2, 5, 5, 5], [1, 2], [8, 3]]


def tables() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(V, D, generator=generator).requires_grad_(), torch.ones(D).requires_grad_()


def trained(optimizer_of: Any, steps: list[list[int]], *, sparse: bool) -> tuple[Tensor, Tensor]:
    """The table and a dense parameter after steps that each read some rows."""
    table, weight = tables()
    optimizers = optimizer_of(table, weight)
    for number, ids in enumerate(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        rows = functional.embedding(torch.tensor(ids), table, sparse=sparse)
        ((rows * weight).sin().sum() * (number + 1)).backward()
        for optimizer in optimizers:
            optimizer.step()
    return table.detach(), weight.detach()


@pytest.mark.parametrize("fused", [False, True])
def test_rows_move_as_by_torchs_sparse_adam(fused: bool) -> None:
    found = trained(lambda *both: [RowWiseAdam(both, lr=0.05, fused=fused)], STEPS, sparse=True)
    expected = trained(
        lambda table, weight: [torch.optim.SparseAdam([table], lr=0.05), torch.optim.Adam([weight], lr=0.05)],
        STEPS,
        sparse=True,
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    untouched = [row for row in range(V) if not any(row in ids for ids in STEPS)]
    assert torch.equal(found[0][untouched], tables()[0][untouched])


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(("ours", "torchs"), [(RowWiseAdam, torch.optim.Adam), (RowWiseAdamW, torch.optim.AdamW)])
def test_all_rows_read_is_adam(ours: Any, torchs: Any, decay: float) -> None:
    everything = [list(range(V))] * 4
    found, expected = (
        trained(lambda *both, kind=kind: [kind(both, lr=0.05, weight_decay=decay)], everything, sparse=sparse)
        for kind, sparse in ((ours, True), (torchs, False))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_row_that_is_not_read_does_not_decay() -> None:
    for kind in (RowWiseAdam, RowWiseAdamW):
        table, _ = trained(lambda *both, kind=kind: [kind(both, lr=0.05, weight_decay=0.5)], [[1]] * 3, sparse=True)
        start = tables()[0].detach()
        assert torch.equal(table[2:], start[2:])
        assert float((table[1] - start[1]).abs().min()) > 0.01


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
def test_clipping_counts_repeated_rows_as_one(max_norm: float, norm_type: float) -> None:
    results = []
    for sparse in (True, False):
        table, weight = tables()
        rows = functional.embedding(torch.tensor([1, 2, 2, 7]), table, sparse=sparse)
        (rows * weight).sin().sum().backward()
        clip = clip_gradients if sparse else clip_grad_norm_
        clip([table, weight], max_norm=max_norm, norm_type=norm_type)
        assert table.grad is not None and weight.grad is not None and table.grad.is_sparse == sparse
        results.append((table.grad.to_dense(), weight.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_step_with_an_overflow_is_skipped() -> None:
    table, weight = tables()
    before = table.detach().clone()
    optimizer = RowWiseAdam([table, weight], lr=0.1, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor, moves in ((float("inf"), False), (1.0, True)):
        optimizer.zero_grad()
        rows = functional.embedding(torch.tensor([1, 2]), table, sparse=True)
        scaler.scale((rows * weight).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(table, before) != moves


def test_the_learner_is_chosen_by_name() -> None:
    parameters = list(tables())
    assert isinstance(fused_adam("adamw", parameters, 1e-3, 0.1, row_wise=True), RowWiseAdamW)
    assert isinstance(fused_adam("Adam", parameters, 1e-3, 0.1, row_wise=True), RowWiseAdam)
    assert fused_adam("sgd", parameters, 1e-3, 0.1, row_wise=True) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_found(value: float, tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    stop_unless_weights_finite(model, epoch=0, last=tmp_path)
    with torch.no_grad():
        model.weight[1, 2] = value
    with pytest.raises(TrainingDiverged, match=r"weights are not finite after epoch 1 \(weight\)"):
        stop_unless_weights_finite(model, epoch=0, last=tmp_path)


KEYS: dict[str, Any] = {
    "hidden_size": 16, "n_layers": 1, "n_heads": 2, "train_batch_size": 16, "MAX_ITEM_LIST_LENGTH": 10, "eval_step": 1,
    "use_gpu": False, "epochs": 3, "num_threads": 1, "show_progress": False, "n_negatives": 5,
    "item_optimizer": "row_wise", "scheduler": "step", "scheduler_step_size": 1, "clip_grad_norm": {"max_norm": 0.5},
}  # fmt: skip


def test_a_run_that_was_cut_ends_as_one_that_was_not(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("SASRecSampled", "small", KEYS, data_path=small_data, output=tmp_path / "whole").folder
    assert "loss: sampled, item_optimizer: row_wise\n" in (whole / "run.log").read_text()
    moments = read_checkpoint(whole / "last" / "checkpoint.state").part("optimizer")
    assert any(tensor.shape == (41, 16) and bool(tensor.any()) for tensor in moments.values())
    original, calls = SASRecSampled.losses, {"left": 6}

    def interrupted(self: Any, interaction: Any) -> Any:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise KeyboardInterrupt
        return original(self, interaction)

    monkeypatch.setattr(SASRecSampled, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("SASRecSampled", "small", KEYS, data_path=small_data, output=tmp_path / "cut")
    (folder,) = (tmp_path / "cut").iterdir()
    assert read_checkpoint(folder / "last" / "checkpoint.state").facts["epoch"] == 0
    run(resume=folder)
    assert_same_end(whole, folder)
