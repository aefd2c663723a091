"""The trainer: what a run leaves, how it stops, and evaluation that does not depend on the batch."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from recbole_diffusion.errors import UserError
from recbole_diffusion.models.diffurec import DiffuRec
from recbole_diffusion.quick_start import RunResult, evaluate, run
from recbole_diffusion.training.checkpoint import BEST_FILE, Checkpoint, read_checkpoint, write_checkpoint
from recbole_diffusion.training.trainer import TrainingDiverged
from tests.losses.allocations import large_tensors

from .test_resume import KEYS

NOISY = {**KEYS, "lambda_mean": 0.3, "lambda_std": 0.3, "item_init_std": 0.1}  # evaluation noise reaches the scores


@pytest.fixture(scope="module")
def noisy(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run("DiffuRec", "small", NOISY, data_path=small_data, output=tmp_path_factory.mktemp("noisy"))


def test_the_folder_explains_itself(noisy: RunResult) -> None:
    folder = noisy.folder
    result = json.loads((folder / "result.json").read_text())
    assert result["model"] == "DiffuRec"
    assert set(result["test_result"]) == {f"{metric}@{k}" for metric in ("hit", "ndcg") for k in (5, 10, 20)}
    assert result["data"]["users"] == 60
    assert set(result["data"]["files"]) == {"small.inter"}
    assert len(result["data"]["files"]["small.inter"]) == 64
    assert result["versions"]["recbole"] == "1.2.1"
    assert result["device"].startswith("cpu")
    assert result["wall_seconds"] > 0
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-4]
    )  # scheduler_step_size 2
    best = max(rows, key=lambda row: float(row["valid_ndcg@10"]))
    assert int(best["epoch"]) == result["best_epoch"]
    assert float(best["valid_ndcg@10"]) == result["best_valid_score"]
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"] == "DiffuRec"
    assert config["lambda_mean"] == 0.3
    assert config["noise_schedule"] == "trunc_lin"
    assert "epoch 4/4" in (folder / "run.log").read_text()


def test_a_checkpoint_is_written_without_a_copy_unless_memory_is_shared(tmp_path: Path) -> None:
    shared = torch.arange(16.0).view(4, 4)
    tensors = {"a": shared, "b": shared, "c": shared[1:], "d": shared.t(), "e": torch.zeros(0), "f": torch.zeros(0)}
    path = tmp_path / "model.state"
    write_checkpoint(path, Checkpoint(tensors, {"epoch": 1}))
    stored = read_checkpoint(path)
    assert stored.facts == {"epoch": 1}
    assert all(torch.equal(stored.tensors[name], tensor) for name, tensor in tensors.items())
    large = {"weights": torch.ones(1000)}
    with large_tensors(1000) as made:
        write_checkpoint(path, Checkpoint(large))
    assert made == []


def test_checkpoints_hold_weights_and_json_only(noisy: RunResult) -> None:
    weights = load_file(noisy.folder / "best" / BEST_FILE)
    assert weights["model.item_embedding.weight"].shape == (41, 16)
    assert not any("betas" in name or "alpha" in name for name in weights)
    facts = json.loads((noisy.folder / "best" / "model.json").read_text())
    assert facts == read_checkpoint(noisy.folder / "best" / BEST_FILE).facts
    assert facts["epoch"] + 1 == noisy.best_epoch
    assert facts["config"]["num_steps"] == 4
    last = list((noisy.folder / "last").iterdir())
    assert last
    assert not any(path.suffix == ".safetensors" for path in last)
    assert not list(noisy.folder.rglob("*.tmp"))


@pytest.mark.parametrize("batch_size", [1, 7, 60])
def test_metrics_do_not_depend_on_the_batch_size(noisy: RunResult, tmp_path: Path, batch_size: int) -> None:
    again = evaluate(noisy.folder, {"eval_batch_size": batch_size}, output=tmp_path)
    assert again.test_result == pytest.approx(noisy.test_result, abs=1e-5)
    assert again.valid_result == pytest.approx(noisy.valid_result, abs=1e-5)


def test_the_evaluation_seed_matters_and_repeats(noisy: RunResult, tmp_path: Path) -> None:
    seeds = [evaluate(noisy.folder, {"eval_seed": seed}, output=tmp_path).test_result for seed in (1, 1, 2, 3)]
    assert seeds[0] == seeds[1]
    assert not seeds[0] == seeds[2] == seeds[3]


def test_evaluate_takes_a_file_and_other_keys(noisy: RunResult, tmp_path: Path) -> None:
    result = evaluate(
        noisy.folder / "best" / BEST_FILE, {"reverse_steps": 1, "topk": [3], "valid_metric": "NDCG@3"}, output=tmp_path
    )
    assert set(result.test_result) == {"hit@3", "ndcg@3"}
    assert json.loads((result.folder / "result.json").read_text())["test_result"] == result.test_result


def test_a_checkpoint_of_another_shape_is_refused(noisy: RunResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"item_embedding.weight is \[41, 16\], the model has \[41, 8\]"):
        evaluate(noisy.folder, {"hidden_size": 8}, output=tmp_path)


def test_damaged_and_foreign_checkpoints_are_one_line(noisy: RunResult, tmp_path: Path) -> None:
    whole = (noisy.folder / "best" / BEST_FILE).read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        evaluate(cut)
    pickled = tmp_path / "model.pth"
    torch.save({"state_dict": {}}, pickled)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        evaluate(pickled)
    with pytest.raises(UserError, match="no checkpoint at"):
        evaluate(tmp_path / "absent.safetensors")


def test_a_loss_that_is_not_finite_names_the_batch(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DiffuRec.calculate_loss
    calls = {"count": 0}

    def spoiled(self: Any, interaction: Any) -> torch.Tensor:
        calls["count"] += 1
        return original(self, interaction) * (float("nan") if calls["count"] == 15 else 1.0)

    monkeypatch.setattr(DiffuRec, "calculate_loss", spoiled)
    with pytest.raises(TrainingDiverged, match=r"training loss is nan in epoch 2, batch \d+ \(32 rows.*learning_rate"):
        run("DiffuRec", "small", KEYS, data_path=small_data, output=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert read_checkpoint(folder / "last" / "checkpoint.state").facts["epoch"] == 0


def test_early_stopping_keeps_the_best_epoch(small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, "epochs": 40, "stopping_step": 1, "learning_rate": 1e-6}
    result = run("DiffuRec", "small", keys, data_path=small_data, output=tmp_path)
    assert result.epochs < 40
    facts = read_checkpoint(result.folder / "best" / BEST_FILE).facts
    assert facts["epoch"] + 1 == result.best_epoch <= result.epochs - 2


def test_clipping_and_bf16_train(small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, "epochs": 2, "clip_grad_norm": {"max_norm": 0.1}, "precision": "bf16"}
    result = run("DiffuRec", "small", keys, data_path=small_data, output=tmp_path)
    assert result.best_valid_score is not None


def test_two_runs_in_one_process_log_into_their_own_files(noisy: RunResult, small_data: Path, tmp_path: Path) -> None:
    before = (noisy.folder / "run.log").read_text()
    other = run("DiffuRec", "small", {**KEYS, "epochs": 1}, data_path=small_data, output=tmp_path)
    logging.getLogger("recbole_diffusion").warning("after both")
    assert (noisy.folder / "run.log").read_text() == before
    assert "after both" not in (other.folder / "run.log").read_text()


@pytest.mark.parametrize("model", ["NCL", "S3Rec", "RecVAE"])
def test_trainers_of_their_own_kind_are_refused(model: str, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run this model with RecBole's own run_recbole"):
        run(model, "small", {"epochs": 1}, data_path=small_data, output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_run_leaves_nothing_outside_its_folder(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("DiffuRec", "small", {**KEYS, "epochs": 1}, data_path=small_data, output="here")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_run_that_cannot_start_leaves_no_folder(small_data: Path, tmp_path: Path) -> None:
    for wrong in ({"n_heads": 3}, {"reverse_steps": 99}):
        with pytest.raises(UserError):
            run("DiffuRec", "small", {**KEYS, **wrong}, data_path=small_data, output=tmp_path / "runs")
        assert not (tmp_path / "runs").exists()


def reversed_data(small_data: Path, folder: Path) -> Path:
    """The same interactions in another order of lines: the same data, other internal ids."""
    lines = (small_data / "small" / "small.inter").read_text().splitlines()
    (folder / "small").mkdir(parents=True)
    (folder / "small" / "small.inter").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    return folder


def test_a_checkpoint_meets_other_data(noisy: RunResult, small_data: Path, tmp_path: Path) -> None:
    other = reversed_data(small_data, tmp_path / "data")
    with pytest.raises(UserError, match="was trained on other data"):
        evaluate(noisy.folder, data_path=other, output=tmp_path / "runs")
    short = run("DiffuRec", "small", {**KEYS, "epochs": 1}, data_path=small_data, output=tmp_path / "runs").folder
    before = (short / "config.yaml").read_text()
    with pytest.raises(UserError, match="was trained on other data"):
        run(resume=short, config={"epochs": 3}, data_path=other)
    assert (short / "config.yaml").read_text() == before


def test_an_evaluation_cannot_be_resumed(noisy: RunResult, tmp_path: Path) -> None:
    folder = evaluate(noisy.folder, output=tmp_path).folder
    with pytest.raises(UserError, match="folder of an evaluation"):
        run(resume=folder)
    with pytest.raises(UserError, match="is of dataset small, not other"):
        evaluate(noisy.folder, {"dataset": "other"}, output=tmp_path)


def test_weights_that_are_not_finite_are_not_kept(small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, "learning_rate": 1e38, "train_batch_size": 1000}
    with pytest.raises(TrainingDiverged, match="weights are not finite after epoch 1"):
        run("DiffuRec", "small", keys, data_path=small_data, output=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_more_places_than_items_is_one_line(small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, "topk": [5, 41], "valid_metric": "NDCG@5"}
    with pytest.raises(UserError, match="topk asks for 41 items, the data have 40"):
        run("DiffuRec", "small", keys, data_path=small_data, output=tmp_path)


def test_killed_between_the_two_checkpoints(small_data: Path, tmp_path: Path) -> None:
    """last/ says that its epoch is the best; best/ was not written yet."""
    result = run("DiffuRec", "small", {**NOISY, "epochs": 1}, data_path=small_data, output=tmp_path)
    best = result.folder / "best" / BEST_FILE
    whole = load_file(best)
    best.unlink()
    (result.folder / "last" / ".checkpoint.state.1.tmp").write_bytes(b"half")
    run(resume=result.folder)
    again = load_file(best)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not list(result.folder.rglob("*.tmp"))


def test_sampled_candidates_share_their_rows_chain(noisy: RunResult, tmp_path: Path) -> None:
    sampled = {"eval_args": {"mode": "uni20"}}
    results = [
        evaluate(noisy.folder, {**sampled, "eval_batch_size": size}, output=tmp_path).test_result for size in (30, 5000)
    ]
    assert results[0] == pytest.approx(results[1], abs=1e-5)


def test_reduced_precision_does_not_reach_the_ranking(noisy: RunResult, tmp_path: Path) -> None:
    assert evaluate(noisy.folder, {"precision": "bf16"}, output=tmp_path).test_result == noisy.test_result


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dropout_prob": 1.5}, "dropout_prob is 1.5"),
        ({"embedding_dropout_prob": 1.0}, "embedding_dropout_prob is 1.0"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"n_heads": 0}, "n_heads is 0"),
        ({"item_init_std": -1.0}, "item_init_std is -1.0"),
        ({"n_eval_samples": 0}, "n_eval_samples is 0"),
        ({"valid_reverse_steps": 0}, "valid_reverse_steps is 0"),
    ],
)
def test_values_out_of_range_are_one_line(keys: dict[str, Any], message: str, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run("DiffuRec", "small", {**KEYS, **keys}, data_path=small_data, output=tmp_path)


def test_the_last_epoch_is_validated(small_data: Path, tmp_path: Path) -> None:
    result = run("DiffuRec", "small", {**KEYS, "epochs": 3, "eval_step": 2}, data_path=small_data, output=tmp_path)
    with (result.folder / "metrics.csv").open() as stream:
        validated = [row["epoch"] for row in csv.DictReader(stream) if row["valid_ndcg@10"]]
    assert validated == ["2", "3"]
