"""Every model that ranks: one loss key, and nothing of the size of the table but what a step must hold."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from recbole.config import Config as RecBoleConfig
from torch import Tensor

from recbole_diffusion.config import RunConfig
from recbole_diffusion.losses import linear_cross_entropy
from recbole_diffusion.models import loss_options
from recbole_diffusion.models.item_table import ItemTable
from recbole_diffusion.registry import resolve_model
from recbole_diffusion.training.optimizer import fused_adam
from tests.losses.allocations import large_tensors

from .tiny import Items, interaction

ITEMS, SIZE = 1501, 16
SMALL = {
    "hidden_size": SIZE, "n_layers": 1, "n_heads": 2, "num_steps": 4, "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False,
    "n_negatives": 6, "dropout_prob": 0.0, "embedding_dropout_prob": 0.0, "denoiser_hidden_sizes": [16],
    "lambda_std": 0.0,
}  # fmt: skip
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("DiffuRec", {}),
    ("DiffuRec", {"mask_mode": "key", "ce_include_padding": False}),
    ("DiffuRecSys", {}),
    ("SASRecCE", {}),
    ("SASRecCE", {"ce_include_padding": False, "train_positions": "last"}),
    ("SASRecSampled", {}),
    ("gSASRec", {}),
    ("YouTubeDNN", {"pad_leak": True}),
    ("ComiRecSA", {}),
    ("ComiRecDR", {}),
    ("MIND", {"routing_init": "fixed"}),
    ("REMI", {}),
    ("DMI", {}),
    ("DimeRec", {}),
]
IDS = [f"{name} {' '.join(f'{key}={value}' for key, value in keys.items())}".strip() for name, keys in SETTINGS]
BATCH = interaction([[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 20, 24, 25]], [5, 6, 7, 8, 9])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_cross_entropy, "CPU_BLOCK_BYTES", 1)
    monkeypatch.setattr(linear_cross_entropy, "CPU_ROW_BYTES", 0)


def model_of(name: str, keys: dict[str, Any]) -> Any:
    entry = resolve_model(name)
    config = RunConfig(name, "tiny", (), {})
    known = {key: value for key, value in {**SMALL, **keys}.items() if key in config}
    if name == "YouTubeDNN":
        known.pop("n_layers", None)
    torch.manual_seed(3)
    return entry.model_class(RunConfig(name, "tiny", (), known), Items(ITEMS)).train()


def step(model: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Loss terms and gradients of one batch, the table's as a dense tensor."""
    torch.manual_seed(11)
    terms = model.losses(BATCH)
    torch.stack(list(terms.values())).sum().backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {name: float(term.detach()) for name, term in terms.items()}, {
        name: gradient.to_dense() if gradient.is_sparse else gradient for name, gradient in gradients.items()
    }


def assert_same(one: tuple[dict[str, float], dict[str, Tensor]], other: tuple[Any, Any]) -> None:
    assert one[0] == pytest.approx(other[0], abs=1e-5, rel=1e-5)
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        torch.testing.assert_close(gradient, other[1][name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "keys"), SETTINGS, ids=IDS)
def test_chunked_equals_full_and_makes_one_gradient(name: str, keys: dict[str, Any]) -> None:
    model = model_of(name, {**keys, "loss": "chunked"})
    with large_tensors(ITEMS * SIZE) as made:
        found = step(model)
    assert len(made) == 1, made
    assert not model.item_embedding.weight.grad.is_sparse
    assert_same(found, step(model_of(name, {**keys, "loss": "full"})))


@pytest.mark.parametrize(("name", "keys"), SETTINGS, ids=IDS)
def test_chunked_by_rows_equals_full(name: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_cross_entropy, "CPU_ROW_BYTES", 3 * 4 * ITEMS)
    monkeypatch.setattr(linear_cross_entropy, "LEAST_ROWS", 3)
    assert_same(step(model_of(name, {**keys, "loss": "chunked"})), step(model_of(name, {**keys, "loss": "full"})))


@pytest.mark.parametrize("loss", ["sampled", "gbce"])
@pytest.mark.parametrize(("name", "keys"), SETTINGS, ids=IDS)
def test_rows_of_a_sampled_loss(name: str, keys: dict[str, Any], loss: str) -> None:
    model = model_of(name, {**keys, "loss": loss, "item_optimizer": "row_wise"})
    optimizer = fused_adam("adam", list(model.parameters()), 1e-3, 0.0, row_wise=True)
    assert optimizer is not None
    with large_tensors(ITEMS * SIZE) as made:
        optimizer.zero_grad()
        torch.manual_seed(11)
        torch.stack(list(model.losses(BATCH).values())).sum().backward()
    assert made == []
    assert model.item_embedding.weight.grad.is_sparse
    before = model.item_embedding.weight.detach().clone()
    optimizer.step()
    with large_tensors(ITEMS * SIZE) as made:  # the moments are there since the first step
        optimizer.step()
    assert made == []
    changed = (model.item_embedding.weight != before).any(1)
    assert 0 < int(changed.sum()) < 200
    sparse = step(model_of(name, {**keys, "loss": loss, "item_optimizer": "row_wise"}))
    assert_same(sparse, step(model_of(name, {**keys, "loss": loss, "item_optimizer": "dense"})))


@pytest.mark.parametrize(
    "keys", [{"normalise_items": True, "temperature": 0.1}, {"guidance_weight": 0.0, "ranking_weight": 0.0}]
)
def test_a_table_that_is_read_otherwise_keeps_dense_look_ups(keys: dict[str, Any]) -> None:
    model = model_of("DimeRec", {**keys, "loss": "chunked"})
    assert model.item_embedding.gradient == "dense"
    assert_same(step(model), step(model_of("DimeRec", {**keys, "loss": "full"})))


def test_gradients_of_two_batches_add_up() -> None:
    found, expected = (model_of("SASRecCE", {"loss": loss}) for loss in ("chunked", "full"))
    for _ in range(2):
        step(found)
        step(expected)
    gradients = [model.item_embedding.weight.grad for model in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_auto_by_the_number_of_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_options, "ROW_WISE_ITEMS", 1000)
    sampled = model_of("SASRecSampled", {})
    assert sampled.item_embedding.gradient == "rows"
    assert "item_optimizer: row_wise (auto" in sampled.loss_choice.why
    for keys in ({"weight_decay": 0.1}, {"learner": "sgd"}, {"item_optimizer": "dense"}):
        assert model_of("SASRecSampled", keys).item_embedding.gradient == "dense"
    assert model_of("DimeRec", {"normalise_items": True, "temperature": 0.1}).item_embedding.gradient == "dense"
    assert (
        model_of("SASRecCE", {}).loss_choice.why == "loss: full (auto, 1,500 items; full up to 100,000, chunked above)"
    )


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("DiffuRec", {}, "item_optimizer is row_wise, but loss: full changes every item"),
        ("SASRecCE", {"loss": "chunked"}, "item_optimizer is row_wise, but loss: chunked changes every item"),
        ("SASRecSampled", {"learner": "sgd"}, "item_optimizer is row_wise, but learner is sgd; set learner: adam"),
        ("DimeRec", {"normalise_items": True}, "item_optimizer is row_wise, but normalise_items: True"),
    ],
)
def test_rows_that_cannot_be_updated_alone_are_refused(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(name, {**keys, "item_optimizer": "row_wise"})


def test_workers_on_gpus_do_not_exchange_rows() -> None:
    options = model_of("SASRecSampled", {"item_optimizer": "row_wise"}).options
    config = {"learner": "adam", "weight_decay": 0.0, "num_workers": 2, "device": torch.device("cpu")}
    assert options.choose(config, ITEMS).gradient == "rows"
    with pytest.raises(ValueError, match="num_workers 2, but GPUs"):
        options.choose({**config, "device": torch.device("cuda")}, ITEMS)
    auto = dataclasses.replace(options, item_optimizer="auto")
    assert auto.choose({**config, "device": torch.device("cuda")}, 10**6).gradient == "dense"
    assert auto.choose(config, 10**6).gradient == "rows"


def test_recboles_own_trainer_gets_dense_gradients() -> None:
    options = model_of("SASRecSampled", {"item_optimizer": "row_wise"}).options
    config = RecBoleConfig.__new__(RecBoleConfig)
    config.final_config_dict = {"learner": "adam", "weight_decay": 0.0, "device": torch.device("cpu")}
    with pytest.raises(ValueError, match="which RecBole's own trainer cannot do"):
        options.choose(config, ITEMS)
    assert dataclasses.replace(options, item_optimizer="auto").choose(config, 10**6).gradient == "dense"


def test_a_table_reads_and_starts_as_torchs_does() -> None:
    ids = torch.tensor([[1, 2], [2, 0]])
    tables = []
    for gradient in ("dense", "joined", "rows"):
        torch.manual_seed(0)
        table = ItemTable(5, 3, gradient)
        table(ids).square().sum().backward()
        assert table.weight.grad is not None and table.weight.grad.is_sparse == (gradient != "dense")
        tables.append(table)
        torch.testing.assert_close(table.weight.grad.to_dense(), tables[0].weight.grad)
    torch.manual_seed(0)
    assert torch.equal(tables[2].weight, torch.nn.Embedding(5, 3).weight)
