"""Items over repeated samplings: by hand, on models with and without noise, and what does not change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.utils import init_seed

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.repeated_sampling import different_items, items_over_samplings
from recbole_diffusion.models.base import evaluation_seed
from recbole_diffusion.quick_start import run
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.trainer import trainer_class

KEYS = {
    "use_gpu": False, "show_progress": False, "MAX_ITEM_LIST_LENGTH": 8, "eval_batch_size": 17, "topk": [5],
    "valid_metric": "NDCG@5", "metrics": ["NDCG"], "save_per_user": "parquet",
}  # fmt: skip
# What makes the noise large enough to change the order of items.
WITH_NOISE: dict[str, dict[str, Any]] = {
    "DiffuRec": {"hidden_size": 8, "n_layers": 1, "n_heads": 2, "num_steps": 4, "lambda_std": 2.0},
    "DreamRec": {"hidden_size": 8, "n_layers": 1, "n_heads": 1, "num_steps": 4},
    "DimeRec": {"hidden_size": 8},
    "DMI": {"hidden_size": 8, "n_heads": 2},
    "MIND": {"hidden_size": 8},
}


def prepared(model: str, data: Path, folder: Path, **keys: Any) -> tuple[Any, Any]:
    """A trainer whose model is as it starts but for large weights, and the test loader."""
    config = RunConfig(model, "small", (), {"data_path": str(data), **KEYS, **WITH_NOISE.get(model, {}), **keys})
    init_seed(3, True)
    train, _, test = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))
    built = config.entry.model_class(config, train._dataset)
    for parameter in built.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    trainer = trainer_class(config.entry.trainer_class)(config, built, RunFolder.create(folder, "x"), train)
    trainer.eval_collector.data_collect(train)
    return trainer, test


def test_by_hand() -> None:
    """Two batches, three samplings of two items; 0 is no item."""
    lists = {
        ("first", 7): [[1, 2], [5, 4]],
        ("first", 8): [[2, 1], [5, 6]],
        ("first", 9): [[1, 2], [6, 7]],
        ("second", 7): [[3, 0]],
        ("second", 8): [[4, 0]],
        ("second", 9): [[3, 0]],
    }
    found = items_over_samplings(["first", "second"], lambda batch, seed: np.array(lists[batch, seed]), [7, 8, 9])
    assert found.distinct.tolist() == [2, 4, 2]
    assert found.listed.tolist() == [2, 2, 1]
    assert (len(found), found.samplings) == (3, 3)
    assert different_items(np.array([[3, 0, 3, 9], [0, 0, 0, 0]])).tolist() == [2, 0]


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_seeds_differ(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="seeds must be one or more different numbers"):
        items_over_samplings([], lambda batch, seed: np.zeros((0, 1)), seeds)


@pytest.mark.parametrize("model", sorted(WITH_NOISE))
def test_noise_brings_other_items(model: str, small_data: Path, tmp_path: Path) -> None:
    trainer, test = prepared(model, small_data, tmp_path)
    found = trainer.sampled_items(test, k=5, samplings=6)
    assert len(found) == 60
    assert (found.listed == 5).all()
    assert (found.distinct >= 5).all()
    assert found.distinct.max() > 5
    once = trainer.sampled_items(test, k=5, samplings=1)
    assert (once.distinct == 5).all()


@pytest.mark.parametrize(
    ("model", "keys"),
    [("SASRec", {"hidden_size": 8, "inner_size": 16, "n_heads": 2}), ("BPR", {}), ("SASRecCE", {"hidden_size": 8}),
     ("DiffuRec", {"lambda_mean": 0.0, "lambda_std": 0.0})],
)  # fmt: skip
def test_without_noise_every_list_is_the_same(
    model: str, keys: dict[str, Any], small_data: Path, tmp_path: Path
) -> None:
    trainer, test = prepared(model, small_data, tmp_path, **keys)
    found = trainer.sampled_items(test, k=5, samplings=4)
    assert found.distinct.tolist() == found.listed.tolist() == [5] * 60


def test_the_union_of_evaluations_with_those_seeds(small_data: Path, tmp_path: Path) -> None:
    """Sampling s is the evaluation with eval_seed + s, whatever the batch size."""
    lists = []
    for seed in (2023, 2024, 2025):
        trainer, test = prepared("DiffuRec", small_data, tmp_path / str(seed), eval_seed=seed)
        trainer.evaluate(test, load_best_model=False)
        lists.append(trainer.evaluated_rows.ranking.items[:, :5])
    expected = [len(set(row)) for row in np.concatenate(lists, axis=1).tolist()]
    for size in (17, 60):
        trainer, test = prepared("DiffuRec", small_data, tmp_path / f"size{size}", eval_batch_size=size)
        assert trainer.sampled_items(test, k=5, samplings=3).distinct.tolist() == expected
        assert trainer.model.options.eval_seed == 2023
        assert trainer.sampled_items(test, k=5, samplings=2, first_seed=2024).distinct.tolist() == [
            len(set(row)) for row in np.concatenate(lists[1:], axis=1).tolist()
        ]
    assert max(expected) > 5


def test_the_page_opens_a_run(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines of docs/evaluation.md, on a run of few samplings."""
    monkeypatch.chdir(tmp_path)
    keys = {**KEYS, **WITH_NOISE["DiffuRec"], "epochs": 1, "topk": [20], "valid_metric": "NDCG@20"}
    folder = run("DiffuRec", "small", keys, data_path=small_data).folder
    page = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = page.split("## Items over repeated samplings")[1]
    code = section.split("```python\n")[1].split("```")[0]
    code = code.replace("runs/<run>", f"runs/{folder.name}").replace("samplings=100", "samplings=2")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102  # the page's own lines
    assert (names["found"].listed == 20).all()
    assert names["found"].distinct.max() > 20


def test_the_global_generator_is_left_as_it_was(small_data: Path, tmp_path: Path) -> None:
    trainer, _ = prepared("SASRec", small_data, tmp_path, hidden_size=8, inner_size=16, n_heads=2)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = []
    for seed in (1, 2, 1):
        with evaluation_seed(trainer.model, seed):
            drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[2] != drawn[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_mistakes_are_one_line(small_data: Path, tmp_path: Path) -> None:
    trainer, test = prepared("SASRec", small_data, tmp_path, hidden_size=8, inner_size=16, n_heads=2)
    with pytest.raises(UserError, match="k is 41; it must be from 1 to 40"):
        trainer.sampled_items(test, k=41)
    with pytest.raises(UserError, match="samplings is 0; it must be 1 or more"):
        trainer.sampled_items(test, samplings=0)
    keys = {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "eval_args": {"mode": "uni15"}}
    trainer, test = prepared("SASRec", small_data, tmp_path / "drawn", **keys)
    with pytest.raises(UserError, match=r"eval_args.mode is .*uni15.*; set mode: full"):
        trainer.sampled_items(test)
