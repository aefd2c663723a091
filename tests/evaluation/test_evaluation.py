"""The trainer's evaluation against RecBole's evaluator on the same model and rows, whatever the blocks; kept rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.utils import init_seed
from safetensors.torch import load_file

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.per_user import write_per_user
from recbole_diffusion.quick_start import evaluate, run
from recbole_diffusion.training.checkpoint import LAST_FILE
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.trainer import trainer_class

SMALL = {
    "use_gpu": False,
    "show_progress": False,
    "epochs": 1,
    "MAX_ITEM_LIST_LENGTH": 8,
    "train_batch_size": 64,
    "eval_batch_size": 17,
    "topk": [1, 5, 20],
    "metric_decimal_place": 8,
    "valid_metric": "NDCG@20",
    "metrics": ["Hit", "Recall", "Precision", "MRR", "MAP", "NDCG"],
}
MODELS: dict[str, dict[str, Any]] = {
    "DiffuRec": {"hidden_size": 8, "n_layers": 1, "n_heads": 2, "num_steps": 4, "item_init_std": 0.5},
    "SASRec": {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "n_layers": 1},
    "BPR": {"embedding_size": 8, "repeatable": False},
}


class StockCollector(Collector):
    """RecBole's collector; 1.2.1's asks numbers and counters for `.cpu()` at the end and fails on them."""

    def get_data_struct(self) -> Any:
        return self.data_struct


def prepared(model: str, data: Path, folder: Path, dataset_name: str = "small", **keys: Any) -> tuple[Any, Any, Any]:
    """A trainer whose model is as it starts, the validation and the test loader."""
    overrides = {"data_path": str(data), **SMALL, **MODELS.get(model, {}), **keys}
    config = RunConfig(model, dataset_name, (), overrides)
    init_seed(3, True)
    dataset = checked_dataset(config.entry.dataset_class)(config)
    train, valid, test = prepare_loaders(config, dataset)
    built = config.entry.model_class(config, train._dataset)
    for parameter in built.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    trainer = trainer_class(config.entry.trainer_class)(config, built, RunFolder.create(folder, "x"), train)
    trainer.eval_collector.data_collect(train)
    return trainer, valid, test


@torch.no_grad()
def by_recbole(trainer: Any, loader: Any) -> dict[str, float]:
    """Every score of every row at once, and RecBole's own collector and metrics."""
    collector = StockCollector(trainer.config)
    collector.data_collect(trainer.train_data)
    trainer.model.eval()
    for interaction, seen, row, item in trainer._numbered(loader, 0):
        scores = trainer.model.full_sort_predict(interaction).view(len(interaction), -1)
        scores[:, 0] = -torch.inf
        if seen is not None:
            scores[seen] = -torch.inf
        collector.eval_batch_collect(scores, interaction, row, item)
    return dict(Evaluator(trainer.config).evaluate(collector.get_data_struct()))


@pytest.mark.parametrize("rank_memory", [256, 0.0005])
@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("DiffuRec", {}),
        ("DiffuRec", {"protocol": "user_split_multi", "filter_seen": True, "score": "neg_sq_dist"}),
        ("SASRec", {}),
        ("SASRec", {"protocol": "user_split_multi"}),
        ("SASRec", {"filter_seen": True}),
        ("BPR", {}),
    ],
)
def test_equal_to_recboles_metrics(
    model: str, keys: dict[str, Any], rank_memory: float, small_data: Path, tmp_path: Path
) -> None:
    trainer, _, test = prepared(model, small_data, tmp_path, **keys)
    trainer.config["rank_memory"] = rank_memory
    expected = by_recbole(trainer, test)
    assert trainer.evaluate(test, load_best_model=False) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected["recall@20"] < 1


@pytest.mark.parametrize(
    ("model", "dataset", "keys"),
    [
        ("BPR", "ml-100k", {"metrics": ["Recall", "NDCG", "GAUC"]}),
        ("SASRec", "ml-100k", {"protocol": "user_split_multi", "metrics": ["Recall", "NDCG", "GAUC", "MAP"]}),
        ("DiffuRec", "amazon-beauty", {"eval_batch_size": 4096}),
        ("DiffuRec", "gowalla", {"protocol": "user_split_multi", "filter_seen": True, "eval_batch_size": 512}),
    ],
)
def test_equal_on_real_data(model: str, dataset: str, keys: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    trainer, _, test = prepared(model, data, tmp_path, dataset, cache=False, rank_memory=8, topk=[10, 20, 50], **keys)
    expected = by_recbole(trainer, test)
    assert trainer.evaluate(test, load_best_model=False) == pytest.approx(expected, abs=1e-6)
    assert 0 < expected["recall@50"] < 1


@pytest.mark.parametrize("rank_memory", [256, 0.0005])
def test_metrics_of_lists_and_gauc_run_and_equal_recboles(small_data: Path, tmp_path: Path, rank_memory: float) -> None:
    names = ["ItemCoverage", "GiniIndex", "ShannonEntropy", "AveragePopularity", "TailPercentage", "GAUC", "NDCGHits"]
    trainer, _, test = prepared("DiffuRec", small_data, tmp_path, metrics=names, valid_metric="NDCGHits@20")
    trainer.config["rank_memory"] = rank_memory
    expected = by_recbole(trainer, test)
    assert set(expected) == {"gauc"} | {f"{name.lower()}@{k}" for name in names if name != "GAUC" for k in (1, 5, 20)}
    assert trainer.evaluate(test, load_best_model=False) == pytest.approx(expected, abs=1e-6)


def test_sets_are_ordered_by_popularity_in_all_data(small_data: Path, tmp_path: Path) -> None:
    trainer, _, test = prepared(
        "DiffuRec", small_data, tmp_path, metrics=["NDCGSetOrder"], valid_metric="NDCGSetOrder@20"
    )
    lines = (small_data / "small" / "small.inter").read_text().splitlines()[1:]
    counts = Counter(line.split("\t")[1] for line in lines)
    numbers, tokens = trainer.eval_collector.set_ids, test._dataset.field2id_token["item_id"]
    assert numbers[0] == 0
    assert sorted(numbers[1:].tolist()) == list(range(1, 41))
    by_number = [counts[tokens[item]] for item in np.argsort(numbers)[1:]]
    assert by_number == sorted(counts.values(), reverse=True)
    assert 0 < trainer.evaluate(test, load_best_model=False)["ndcgsetorder@20"] < 1


def test_a_score_of_the_users_own_is_used(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, _, test = prepared("DiffuRec", small_data, tmp_path)
    model = type(trainer.model)
    original: Callable[..., Any] = model.full_sort_predict
    assert trainer._scores_by_vectors()
    before = trainer.evaluate(test, load_best_model=False)
    monkeypatch.setattr(model, "full_sort_predict", lambda self, interaction: -original(self, interaction))
    assert not trainer._scores_by_vectors()
    expected = by_recbole(trainer, test)
    assert trainer.evaluate(test, load_best_model=False) == pytest.approx(expected, abs=1e-6) != before


def test_a_model_without_full_sort_predict_is_asked_pair_by_pair(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole.model.abstract_recommender import AbstractRecommender

    trainer, _, test = prepared("SASRec", small_data, tmp_path)
    expected = by_recbole(trainer, test)
    monkeypatch.setattr(type(trainer.model), "full_sort_predict", AbstractRecommender.full_sort_predict)
    trainer.config["rank_memory"] = 0.02
    asked = []
    predict = trainer.model.predict
    monkeypatch.setattr(trainer.model, "predict", lambda lines: asked.append(len(lines)) or predict(lines))
    assert trainer.evaluate(test, load_best_model=False) == pytest.approx(expected, abs=1e-6)
    assert sum(asked) == len(test._dataset) * 41


def test_sampled_candidates_are_ranked_among_themselves(small_data: Path, tmp_path: Path) -> None:
    mode = {"eval_args": {"mode": "uni15"}}
    trainer, _, test = prepared("SASRec", small_data, tmp_path, **mode)
    init_seed(1, True)
    collector = StockCollector(trainer.config)
    with torch.no_grad():
        trainer.model.eval()
        trainer.tot_item_num = test._dataset.item_num
        for batch in test:
            interaction, scores, row, item = trainer._neg_sample_batch_eval(batch)
            collector.eval_batch_collect(scores, interaction, row, item)
    expected = dict(Evaluator(trainer.config).evaluate(collector.get_data_struct()))
    init_seed(1, True)
    assert trainer.evaluate(test, load_best_model=False) == pytest.approx(expected, abs=1e-6)


SAMPLED = {"eval_args": {"mode": {"valid": "uni10", "test": "uni10"}}}


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_a_checkpoint_has_one_result_against_sampled_candidates(model: str, small_data: Path, tmp_path: Path) -> None:
    """Each candidate's rank would differ for others, so equal metrics of 8 places are equal candidates."""
    keys = {**SMALL, **MODELS[model], **SAMPLED, "epochs": 2}
    result = run(model, "small", keys, data_path=small_data, output=tmp_path)
    for other in ({}, {"eval_batch_size": 400}):
        again = evaluate(result.folder, other, output=tmp_path)
        assert (again.valid_result, again.test_result) == (result.valid_result, result.test_result)


@pytest.mark.parametrize("mode", ["uni10", "pop10"])
@pytest.mark.parametrize("model", ["BPR", "DiffuRec"])
def test_candidates_belong_to_seed_split_and_user(model: str, mode: str, small_data: Path, tmp_path: Path) -> None:
    def drawn(batches: Any) -> list[tuple[int, list[int]]]:
        found = []
        for batch in batches:
            for row in range(int(batch[1].max()) + 1):
                lines = batch[0][batch[1] == row]
                found.append((int(lines["user_id"][0]), lines["item_id"].tolist()))
        return found

    keys = {"eval_args": {"mode": {"valid": mode, "test": mode}}}
    _, valid, test = prepared(model, small_data, tmp_path, **keys)
    first = drawn(test)
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert drawn(test) == first
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    users = {user: items[-10:] for user, items in first}
    assert len({tuple(items) for items in users.values()}) > len(users) / 2
    assert any(items[-10:] != users[user] for user, items in drawn(valid) if user in users)
    _, _, bigger = prepared(model, small_data, tmp_path, eval_batch_size=400, **keys)
    assert drawn(bigger) == first
    _, _, other = prepared(model, small_data, tmp_path, eval_seed=7, **keys)
    assert drawn(other) != first
    _, _, fresh = prepared(model, small_data, tmp_path, eval_seed=None, **keys)
    assert drawn(fresh) != drawn(fresh)


def test_sampled_evaluation_leaves_training_alone(small_data: Path, tmp_path: Path) -> None:
    """BPR draws its negatives from NumPy's global state."""
    weights = []
    for mode in ({}, SAMPLED):
        keys = {**SMALL, **MODELS["BPR"], **mode, "epochs": 3}
        result = run("BPR", "small", keys, data_path=small_data, output=tmp_path)
        last = load_file(result.folder / "last" / LAST_FILE)
        weights.append({name: value for name, value in last.items() if name.startswith("model")})
    assert weights[0].keys() == weights[1].keys() and weights[0]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


# rows kept ----------------------------------------------------------------------------------------------------------

KEPT = {**SMALL, **MODELS["DiffuRec"], "epochs": 2, "save_per_user": "parquet"}


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("DiffuRec", {"protocol": "user_split_multi", "filter_seen": True, "metrics": ["Recall", "NDCGHits", "Hit"]}),
        ("SASRec", {}),
        ("BPR", {}),
        ("SASRec", {"eval_args": {"mode": "uni15"}}),
    ],
)
def test_kept_rows_are_those_behind_the_reported_means(
    model: str, keys: dict[str, Any], small_data: Path, tmp_path: Path
) -> None:
    overrides = {**SMALL, **MODELS[model], "epochs": 2, "save_per_user": "parquet", **keys}
    overrides["valid_metric"] = f"{overrides['metrics'][1]}@20"
    result = run(model, "small", overrides, data_path=small_data, output=tmp_path)
    lines = (small_data / "small" / "small.inter").read_text().splitlines()[1:]
    bought = {(user, item) for user, item, _ in (line.split("\t") for line in lines)}
    for split, reported in (("valid", result.valid_result), ("test", result.test_result)):
        table = pyarrow.parquet.read_table(result.folder / "per_user" / f"{split}.parquet")
        columns = table.to_pydict()
        for name, value in reported.items():
            assert np.mean(columns[name]) == pytest.approx(value, abs=1e-8)
        facts = json.loads(table.schema.metadata[b"recbole_diffusion"])
        assert facts["split"] == split
        assert facts["result"] == reported
        assert columns["row"] == list(range(table.num_rows))
        for user, targets, ranks, top in zip(
            columns["user"], columns["targets"], columns["target_ranks"], columns["top_items"]
        ):
            assert {(user, target) for target in targets} <= bought
            assert len(ranks) == len(targets) >= 1
            assert len(set(top)) == len(top) <= 20
            for target, rank in zip(targets, ranks):
                assert (target in top) == (rank is not None and rank <= 20)
                if target in top:
                    assert top[rank - 1] == target
    assert not list(result.folder.rglob("*.tmp"))


def test_kept_rows_of_an_evaluation_are_those_of_the_run(small_data: Path, tmp_path: Path) -> None:
    result = run("DiffuRec", "small", KEPT, data_path=small_data, output=tmp_path)
    again = evaluate(result.folder, {"save_per_user": "parquet"}, output=tmp_path)
    for split in ("valid", "test"):
        first, second = (
            pyarrow.parquet.read_table(folder / "per_user" / f"{split}.parquet")
            for folder in (result.folder, again.folder)
        )
        assert first.equals(second)


def test_an_evaluation_says_how_long_its_run_was_to_train(small_data: Path, tmp_path: Path) -> None:
    """The best epoch may be from before the run was resumed with another limit."""
    result = run("DiffuRec", "small", {**KEPT, "epochs": 1, "time_limit": 50}, data_path=small_data, output=tmp_path)
    folder = RunFolder.open(result.folder)
    folder.write_config({**folder.read_config(), "time_limit": 3600, "epochs": 7})
    again = evaluate(result.folder, output=tmp_path)
    config = RunFolder.open(again.folder).read_config()
    assert (config["time_limit"], config["epochs"]) == (3600, 7)
    alone = evaluate(folder.best, output=tmp_path)  # the checkpoint by itself knows of no resuming
    assert RunFolder.open(alone.folder).read_config()["time_limit"] == 50


def test_nothing_is_kept_unasked(small_data: Path, tmp_path: Path) -> None:
    trainer, _, test = prepared("SASRec", small_data, tmp_path)
    trainer.evaluate(test, load_best_model=False, split="test")
    assert trainer.evaluated_rows is None
    assert not (trainer.folder.path / "per_user").exists()


def test_a_file_that_cannot_be_written_is_one_line_and_leaves_the_old_one(small_data: Path, tmp_path: Path) -> None:
    trainer, _, test = prepared("SASRec", small_data, tmp_path, save_per_user="parquet")
    trainer.evaluate(test, load_best_model=False, split="test")
    path = trainer.folder.per_user("test")
    before = path.read_bytes()
    (path.parent / "blocked").write_text("a file where a folder would be")
    tokens = np.array(["[PAD]"] * 41)
    with pytest.raises(UserError, match=r"cannot write .*blocked.*; make room, or run without save_per_user"):
        write_per_user(path.parent / "blocked" / "test.parquet", trainer.evaluated_rows, tokens, None, {})
    with pytest.raises(IndexError):  # too few tokens: whatever goes wrong, no half file stays
        write_per_user(path, trainer.evaluated_rows, tokens[:2], None, {})
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["blocked", "test.parquet"]
