"""Losses by term: what the log, metrics.csv and TensorBoard say, and what a loss that is not finite says."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from recbole_diffusion import run
from recbole_diffusion.models.diffurec import DiffuRec
from recbole_diffusion.training.losses import (
    EpochLosses,
    TrainingDiverged,
    in_words,
    numbered,
    stop_unless_finite,
    stop_unless_weights_finite,
    terms_of,
)

from .test_resume import KEYS


class TwoTerms(DiffuRec):
    """A model whose loss has two terms, of which the second is known."""

    def losses(self, interaction: Any) -> dict[str, Tensor]:
        return {**super().losses(interaction), "penalty": self.item_embedding.weight.sum() * 0 + 0.25}


class OneNumber(DiffuRec):
    """A model that gives its loss as one number."""

    def calculate_loss(self, interaction: Any) -> Tensor:
        return super().calculate_loss(interaction) + 1.0


def epochs_of(folder: Path) -> list[dict[str, float]]:
    with (folder / "metrics.csv").open() as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def test_terms_are_in_the_table_the_log_and_tensorboard(small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, "epochs": 2, "loggers": "tensorboard"}
    folder = run(TwoTerms, "small", keys, data_path=small_data, output=tmp_path).folder
    rows = epochs_of(folder)
    assert [list(row)[:4] for row in rows] == [["epoch", "train_loss", "train_cross_entropy", "train_penalty"]] * 2
    for row in rows:
        assert row["train_penalty"] == 0.25
        assert row["train_loss"] == pytest.approx(row["train_cross_entropy"] + 0.25, abs=1e-5)
    line = f"loss {rows[1]['train_loss']:.4f} (cross_entropy {rows[1]['train_cross_entropy']:.4f}, penalty 0.2500)"
    assert line in (folder / "run.log").read_text()
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("loss", "cross_entropy", "penalty"):
        logged = [event.value for event in events.Scalars(f"train/{name}")]
        assert logged == pytest.approx([row[f"train_{name}"] for row in rows], abs=1e-6)


@pytest.mark.parametrize("model", [OneNumber, "GRU4Rec"])
def test_a_loss_without_named_terms_is_one_column(model: Any, small_data: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = KEYS if model is OneNumber else {"embedding_size": 8, "hidden_size": 8, "loss_type": "CE"}
    folder = run(model, "small", {**keys, "epochs": 1, "use_gpu": False}, data_path=small_data, output=tmp_path).folder
    (row,) = epochs_of(folder)
    assert [key for key in row if key.startswith("train_")] == ["train_loss", "train_seconds"]


def test_a_resumed_run_has_the_same_terms(small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, "epochs": 2}
    whole = run(TwoTerms, "small", keys, data_path=small_data, output=tmp_path / "whole").folder
    cut = run(TwoTerms, "small", {**keys, "epochs": 1}, data_path=small_data, output=tmp_path / "cut").folder
    run(resume=cut, config={"epochs": 2}, data_path=small_data)
    assert [row["train_cross_entropy"] for row in epochs_of(cut)] == [
        row["train_cross_entropy"] for row in epochs_of(whole)
    ]


# ---- sums and names ----


def test_sums_over_batches_and_the_gradient_of_every_term() -> None:
    weight = torch.tensor([1.0, 2.0], requires_grad=True)
    losses = EpochLosses()
    for factor in (1.0, 3.0):
        loss, value = losses.add({"first": weight[0] * factor, "second": weight[1] * factor})
        assert value == float(loss.detach()) == 3.0 * factor
    assert (losses.total, losses.terms, losses.batches) == (12.0, {"first": 4.0, "second": 8.0}, 2)
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [3.0, 3.0]


def test_a_loss_of_one_number_has_no_terms() -> None:
    losses = EpochLosses()
    losses.add({"loss": torch.tensor(2.0)})
    assert (losses.total, losses.terms) == (2.0, {})


def test_names_of_a_tuple() -> None:
    assert numbered((1.0, 2.0)) == {"loss_1": 1.0, "loss_2": 2.0}
    assert numbered(1.0) == {}


def test_a_recbole_models_tuple_is_numbered_and_another_function_is_taken() -> None:
    pair = SimpleNamespace(calculate_loss=lambda batch: (torch.tensor(1.0), torch.tensor(2.0)))
    assert list(terms_of(pair, None)({})) == ["loss_1", "loss_2"]
    assert terms_of(pair, lambda batch: torch.tensor(5.0))({}) == {"loss": torch.tensor(5.0)}


def test_a_loss_in_words() -> None:
    assert in_words(1.5, {}) == "loss 1.5000"
    assert in_words(1.5, {"cross_entropy": 1.5}) == "loss 1.5000"
    assert in_words(3.0, {"a": 1.0, "b": 2.0}) == "loss 3.0000 (a 1.0000, b 2.0000)"


def test_the_term_that_is_not_finite_is_named(tmp_path: Path) -> None:
    batch = SimpleNamespace(interaction={})
    terms = {"cross_entropy": torch.tensor(1.0), "recon": torch.tensor(math.inf)}

    class Batch:
        interaction = batch.interaction

        def __len__(self) -> int:
            return 3

    with pytest.raises(TrainingDiverged, match=r"is inf in epoch 1, batch 2 \(3 rows, not finite: recon\)"):
        stop_unless_finite(math.inf, terms, Batch(), "user_id", epoch=0, batch=1, last=tmp_path / "x")  # type: ignore[arg-type]
    stop_unless_finite(1.0, terms, Batch(), "user_id", epoch=0, batch=1, last=tmp_path / "x")  # type: ignore[arg-type]


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    stop_unless_weights_finite(model, epoch=0, last=tmp_path / "x")
    with torch.no_grad():
        model.bias.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=r"weights are not finite after epoch 3 \(bias\)"):
        stop_unless_weights_finite(model, epoch=2, last=tmp_path / "x")
