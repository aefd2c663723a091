"""Runs on two workers of Ray Train: an ordinary run's folder, and what happens when workers end before it does."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import recbole_diffusion
from recbole_diffusion.errors import UserError
from recbole_diffusion.training.losses import TrainingDiverged

from .conftest import TINY


def run(small_data: Path, output: Path, model: str = "DiffuRec", **keys: Any) -> recbole_diffusion.RunResult:
    values = {**TINY, **keys}
    return recbole_diffusion.run(model, "small", values, data_path=small_data, output=output)


def weights(folder: Path) -> dict[str, Any]:
    """All tensors of last/ and best/ that training makes; generators of processes are their own."""
    found = {}
    for file in (folder / "last" / "checkpoint.state", folder / "best" / "model.safetensors"):
        tensors = load_file(file)
        found.update({f"{file.name} {name}": value for name, value in tensors.items() if "generator" not in name})
    return found


def epochs(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def files(folder: Path) -> set[str]:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not name.startswith("tensorboard") and name != "loggers.json"}


@pytest.fixture(scope="module")
def alone(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> recbole_diffusion.RunResult:
    return run(small_data, tmp_path_factory.mktemp("alone"), save_per_user="parquet")


@pytest.fixture(scope="module")
def together(ray_here: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> recbole_diffusion.RunResult:
    keys = {"num_workers": 2, "save_per_user": "parquet", "loggers": ["tensorboard"]}
    return run(small_data, tmp_path_factory.mktemp("together"), **keys)


def test_the_losses_and_metrics_are_those_of_one_worker(
    alone: recbole_diffusion.RunResult, together: recbole_diffusion.RunResult
) -> None:
    assert together.test_result == pytest.approx(alone.test_result, abs=1e-6)
    assert together.valid_result == pytest.approx(alone.valid_result, abs=1e-6)
    assert together.best_epoch == alone.best_epoch and together.epochs == alone.epochs == 3
    for one, two in zip(epochs(alone.folder), epochs(together.folder), strict=True):
        assert float(two["train_loss"]) == pytest.approx(float(one["train_loss"]), abs=1e-4)
        assert list(one) == list(two)


def test_the_folder_and_the_log_are_those_of_a_usual_run(
    alone: recbole_diffusion.RunResult, together: recbole_diffusion.RunResult
) -> None:
    assert files(together.folder) == files(alone.folder)
    assert not (together.folder / "workers").exists()
    assert len(list((together.folder / "tensorboard").iterdir())) == 1  # the first worker's
    assert not (alone.folder / "tensorboard").exists()
    one, two = (
        [" ".join(line.split()[2:5]) for line in (result.folder / "run.log").read_text().splitlines()]
        for result in (alone, together)
    )
    said = [line for line in one if "/" not in line.replace("1/3", "").replace("2/3", "").replace("3/3", "")]
    assert [line for line in two if line in said] == said and "INFO epoch 3/3" in said
    assert "Reporting" not in (together.folder / "run.log").read_text(), "Ray's own messages"
    first, second = (json.loads((result.folder / "result.json").read_text()) for result in (alone, together))
    assert set(first) == set(second) and first["data"] == second["data"]
    assert first["versions"] == second["versions"] and first["command"] == second["command"]
    assert "num_workers: 2" in (together.folder / "config.yaml").read_text()


def test_a_checkpoint_of_two_workers_is_evaluated_by_one_process(together: recbole_diffusion.RunResult) -> None:
    again = recbole_diffusion.evaluate(
        together.folder, output=together.folder.parent / "evaluated", show_progress=False, config={"num_threads": 1}
    )
    assert again.test_result == pytest.approx(together.test_result, abs=1e-6)


@pytest.mark.parametrize(
    "batch",  # before the first checkpoint, and in the second epoch of eight batches
    [pytest.param(2, marks=pytest.mark.slow), 12],
)
def test_a_killed_worker_is_started_again_and_the_run_ends_as_if_it_had_not_been(
    together: recbole_diffusion.RunResult, small_data: Path, tmp_path: Path, deaths: Path, batch: int
) -> None:
    (deaths / "order").write_text(json.dumps({"rank": 1, "batch": batch, "once": True}))
    result = run(small_data, tmp_path, "tests.workers.own_models:Mortal", num_workers=2)
    assert not (deaths / "order").exists(), "nobody was killed"
    log = (result.folder / "run.log").read_text()
    assert "a worker was lost; all 2 start again" in log
    assert ("resumed from" in log) == (batch == 12)
    assert result.test_result == together.test_result
    undisturbed, disturbed = weights(together.folder), weights(result.folder)
    assert set(undisturbed) == set(disturbed)
    assert all((undisturbed[name] == disturbed[name]).all() for name in undisturbed)


@pytest.mark.slow
def test_workers_lost_too_often_end_the_run_in_one_line_and_it_can_be_resumed(
    ray_here: None, together: recbole_diffusion.RunResult, small_data: Path, tmp_path: Path, deaths: Path
) -> None:
    (deaths / "order").write_text(json.dumps({"rank": 0, "batch": 12, "once": False}))
    with pytest.raises(UserError, match=r"workers were lost 1 times \(worker_restarts: 0\).*--resume=") as refused:
        run(small_data, tmp_path, "tests.workers.own_models:Mortal", num_workers=2, worker_restarts=0)
    assert "\n" not in str(refused.value)
    (deaths / "order").unlink()
    (folder,) = tmp_path.iterdir()
    assert len(epochs(folder)) == 1 and not (folder / "workers").exists()
    result = recbole_diffusion.run(resume=folder)
    assert result.folder == folder and result.test_result == together.test_result
    undisturbed, resumed = weights(together.folder), weights(folder)
    assert all((undisturbed[name] == resumed[name]).all() for name in undisturbed)


def test_a_users_mistake_found_by_the_workers_is_one_line_and_leaves_nothing(
    ray_here: None, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="topk asks for 1000 items, the data have 40; lower topk"):
        run(small_data, tmp_path / "runs", num_workers=2, topk=[1000], valid_metric="NDCG@1000")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_not_tried_again(ray_here: None, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="lower learning_rate"):
        run(small_data, tmp_path, num_workers=2, learning_rate=1e30)
    (folder,) = tmp_path.iterdir()
    assert "start again" not in (folder / "run.log").read_text()


@pytest.mark.slow
def test_a_bug_keeps_its_traceback_and_is_not_tried_again(ray_here: None, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)own_models.*ZeroDivisionError: a bug of mine"):
        run(small_data, tmp_path, "tests.workers.own_models:Broken", num_workers=2)
    (folder,) = tmp_path.iterdir()
    assert "start again" not in (folder / "run.log").read_text()


@pytest.mark.slow
def test_workers_choose_reverse_steps_together(ray_here: None, small_data: Path, tmp_path: Path) -> None:
    keys = {"reverse_steps": "auto", "reverse_steps_tolerance": 0.0, "lambda_mean": 0.5, "lambda_std": 0.0}
    alone = run(small_data, tmp_path / "alone", **keys).reverse_steps_choice
    result = run(small_data, tmp_path / "together", num_workers=2, **keys)
    together = result.reverse_steps_choice
    assert alone is not None and together is not None and together["chosen"] == alone["chosen"]
    assert together["measured"] == pytest.approx(alone["measured"], abs=1e-5)
    stored = json.loads((result.folder / "best" / "model.json").read_text())
    assert stored["config"]["reverse_steps_chosen"] == together["chosen"]
    tested = recbole_diffusion.evaluate(result.folder, {"num_workers": 1}, output=tmp_path / "again").test_result
    assert tested == pytest.approx(result.test_result, abs=1e-5)
