"""A sweep from begin to end: what trials report, what is written, and that it repeats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from recbole_diffusion.errors import UserError
from recbole_diffusion.quick_start import run
from recbole_diffusion.tuning import search_space
from recbole_diffusion.tuning.repeat import repeat
from recbole_diffusion.tuning.sweep import tune
from recbole_diffusion.tuning.testing import weights_digest
from tests.tuning.conftest import SPACE, TINY


def facts_of(result: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((result.folder / "tune_result.json").read_text())
    return content


def reports_of(folder: Path, trial: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"trial_{trial}" / "result.json").read_text().splitlines()]


def test_trials_are_ranked_by_their_best_validation(undisturbed: Any) -> None:
    rows = undisturbed.trials
    assert len(rows) == 4
    assert [row.rank for row in rows] == [1, 2, 3, 4]
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert {row.state for row in rows} == {"finished"}
    for row in rows:
        reports = reports_of(undisturbed.folder, row.trial)
        assert [report["epoch"] for report in reports] == [1, 2, 3, 4]
        assert max(report["valid_ndcg@10"] for report in reports) == row.score
        assert reports[row.best_epoch - 1]["valid_ndcg@10"] == row.score
        assert 1e-3 <= row.values["learning_rate"] <= 1e-1 and row.values["hidden_dropout_prob"] in (0.0, 0.2)


def test_a_trial_never_ranks_the_test_rows(undisturbed: Any) -> None:
    """The test is in the best run alone, once."""
    for path in undisturbed.folder.glob("trial_*/**/*"):
        if path.suffix in (".json", ".csv", ".log", ".yaml"):
            text = path.read_text()
            assert "test_result" not in text and "evaluate test" not in text, path
    assert not list(undisturbed.folder.glob("trial_*/checkpoint_*/result.json"))
    facts = facts_of(undisturbed)
    assert facts["test_evaluations"] == 1
    assert (
        facts["best"]["test_result"]
        == json.loads((undisturbed.folder / "best_run/result.json").read_text())["test_result"]
    )


def test_the_data_are_read_once(undisturbed: Any) -> None:
    """The driver filled an empty cache; every trial mapped its entry, and none read the table."""
    logs = [log.read_text() for log in undisturbed.folder.glob("trial_*/checkpoint_000003/run.log")]
    assert len(logs) == 4
    entries = [re.findall(r"prepared data from the cache, (\S+)", log) for log in logs]
    assert entries == [entries[0]] * 4
    assert len(entries[0]) == 1
    assert Path(entries[0][0]).parent == undisturbed.folder.parent / "cache"


def test_tables_plots_and_configurations(undisturbed: Any) -> None:
    pandas = pytest.importorskip("pandas")
    table, same = (
        pandas.read_csv(undisturbed.folder / "trials.csv"),
        pandas.read_parquet(undisturbed.folder / "trials.parquet"),
    )
    assert list(table.trial) == list(same.trial) == [row.trial for row in undisturbed.trials]
    assert list(table["config/learning_rate"]) == pytest.approx(
        [row.values["learning_rate"] for row in undisturbed.trials]
    )
    for name in ("parameters.png", "learning_curves.png"):
        assert (undisturbed.folder / "plots" / name).read_bytes().startswith(b"\x89PNG")
    for row in undisturbed.trials:
        config = yaml.safe_load((undisturbed.folder / row.checkpoint / "config.yaml").read_text())
        assert {key: config[key] for key in row.values} == row.values
    assert undisturbed.trials[0].trial in undisturbed.table()


def test_the_best_configuration_repeats_bit_for_bit(undisturbed: Any, small_data: Path, tmp_path: Path) -> None:
    best = facts_of(undisturbed)["best"]
    result = run(config_files=[undisturbed.folder / "best.yaml"], output=tmp_path, show_progress=False)
    assert result.test_result == best["test_result"] == undisturbed.test_result
    assert result.valid_result == best["valid_result"]
    assert weights_digest(result.folder / "best" / "model.safetensors") == best["weights_sha256"]


def test_trials_of_reused_workers_are_usual_runs(undisturbed: Any, tmp_path: Path) -> None:
    """Four trials in at most two workers; each has the weights of a run of its config.yaml."""
    workers = {reports_of(undisturbed.folder, row.trial)[0]["pid"] for row in undisturbed.trials}
    assert len(workers) < 4
    for row in undisturbed.trials[1:]:
        folder = undisturbed.folder / row.checkpoint
        result = run(config_files=[folder / "config.yaml"], output=tmp_path)
        assert result.best_valid_score == row.score
        weights = [place / "best" / "model.safetensors" for place in (result.folder, folder)]
        assert weights_digest(weights[0]) == weights_digest(weights[1])


def test_tune_result_alone_repeats_the_best_run(undisturbed: Any, tmp_path: Path) -> None:
    alone = tmp_path / "alone.json"
    alone.write_bytes((undisturbed.folder / "tune_result.json").read_bytes())
    again = repeat(alone, output=tmp_path, show_progress=False)
    assert again.same and not again.versions
    assert "weights: the same" in again.text()


def test_a_finished_sweep_stays_as_it_is(undisturbed: Any, small_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.folder.rglob("*")}
    again = tune("SASRec", "small", SPACE, TINY, data_path=small_data, resume=undisturbed.folder, num_trials=4)
    assert again == undisturbed
    assert before == {path: path.stat().st_mtime_ns for path in undisturbed.folder.rglob("*")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "GRU4Rec"}, "is a sweep of model SASRec, not GRU4Rec"),
        ({"dataset": "other"}, "is a sweep of dataset small, not other"),
        (
            {"space": {"learning_rate": {"uniform": [0.1, 0.2]}}},
            "over another search space (hidden_dropout_prob is {'choice'",
        ),
        ({"num_trials": 5}, "with num_trials 4, not 5"),
        ({"config": {**TINY, "epochs": 9}}, "with epochs 4, not 9 (configuration dict)"),
    ],
)
def test_another_sweeps_folder_is_refused(undisturbed: Any, change: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"model": "SASRec", "dataset": "small", "space": SPACE, "num_trials": 4, **change}
    with pytest.raises(UserError) as caught:
        tune(resume=undisturbed.folder, **asked)
    assert message in str(caught.value)


def test_the_whole_command_again_resumes(undisturbed: Any, small_data: Path, tmp_path: Path) -> None:
    """What is compared is what the layers come to: files, what the space fixes, what is given over them."""
    lower = tmp_path / "lower.yaml"
    lower.write_text("epochs: 50\nstopping_step: 3\nuse_gpu: True\nnum_threads: ~\n", encoding="utf-8")
    upper = tmp_path / "upper.yaml"
    upper.write_text("epochs: 20\n", encoding="utf-8")
    space = {**SPACE, "stopping_step": 10}
    facts = json.loads((undisturbed.folder / "sweep.json").read_text())
    facts.update(space=space, space_digest=search_space.read(space).digest())
    folder = tmp_path / "sweep"
    folder.mkdir()
    for name in ("tune_result.json", "trials.csv", "trials.parquet"):
        (folder / name).write_bytes((undisturbed.folder / name).read_bytes())
    (folder / "sweep.json").write_text(json.dumps(facts))
    keys = {key: value for key, value in TINY.items() if key != "stopping_step"}

    def again(**given: Any) -> Any:
        return tune("SASRec", "small", space, {**keys, "gpu_id": 0, **given}, config_files=[lower, upper],
                    data_path=small_data, resume=folder, num_trials=4)  # fmt: skip

    assert again().test_result == undisturbed.test_result
    for given, message in (
        ({"epochs": 50}, r"with epochs 4, not 50 \(configuration dict\)"),
        ({"stopping_step": 3}, r"with stopping_step 10, not 3 \(configuration dict\)"),
        ({"learning_rate": 0.01}, r"draws learning_rate, which is given \(configuration dict\)"),
        ({"num_threads": 2}, r"with num_threads 1, not 2"),
    ):
        with pytest.raises(UserError, match=message):
            again(**given)
    facts["gpus"] = 1.0
    (folder / "sweep.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"with 1.0 GPUs a trial, not use_gpu False"):
        again(use_gpu=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"best": 3}, "its best is 3, not an object"),
        ({"best": None}, "its best is None, not an object"),
        ({"best": {"config": []}}, "it has no best.schedule"),
        ({}, "it has no best"),
    ],
)
def test_another_json_is_not_repeated(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(json.dumps({"model": "SASRec", "dataset": "small", "data": {}, "versions": {}, **content}))
    with pytest.raises(UserError, match=f"other.json is no tune_result.json: {message}"):
        repeat(file, output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_other_data_are_refused(undisturbed: Any, tmp_path: Path) -> None:
    from tests.conftest import write_interactions

    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / "sweep.json").write_bytes((undisturbed.folder / "sweep.json").read_bytes())
    with pytest.raises(UserError, match="is a sweep on other data: 60 users and 40 items, here 50 and"):
        tune(resume=folder, data_path=write_interactions(tmp_path, "small", users=50, seed=1))


@pytest.mark.parametrize(
    ("space", "config", "message"),
    [
        (
            {"lerning_rate": {"uniform": [0, 1]}},
            {},
            "unknown key 'lerning_rate' (search space); did you mean 'learning_rate'?",
        ),
        ({"eval_batch_size": {"quniform": [16, 64, 16]}}, {}, "eval_batch_size must be an integer"),
        ({"num_steps": {"choice": [4, 8]}}, {}, "key 'num_steps' (search space) is read by DMI, DiffuRec"),
        ({"learning_rate": {"uniform": [-1, 1]}}, {}, "learning_rate must be"),
        (
            {"attn_dropout_prob": {"choice": [0.1, "big"]}},
            {},
            "attn_dropout_prob must be a number, got 'big' (search space)",
        ),
        ({"learning_rate": {"uniform": [0.1, 1]}}, {"learning_rate": 0.5}, "leave one of them out"),
        ({"learning_rate": {"uniform": [0.1, 1]}}, {"eval_step": 0}, "a sweep compares validations"),
        ({"learning_rate": {"uniform": [0.1, 1]}}, {"num_threads": 3}, "num_threads is 3"),
    ],
)
def test_what_is_refused_before_anything_starts(
    space: Any, config: Any, message: str, small_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        tune("SASRec", "small", space, {**TINY, **config}, data_path=small_data, storage_path=tmp_path / "sweeps")
    assert message in str(caught.value)
    assert not (tmp_path / "sweeps").exists()


def test_a_seed_that_would_shuffle_other_rows_into_validation_is_not_drawn(small_data: Path, tmp_path: Path) -> None:
    """Where it does not, the sweep goes on to what is refused next: no cluster at the address."""
    config: dict[str, Any] = {"topk": [5], "valid_metric": "NDCG@5", "use_gpu": False, "eval_args": {"order": "RO"}}
    places: dict[str, Any] = {"data_path": small_data, "storage_path": tmp_path / "sweeps", "ray_address": "none"}
    with pytest.raises(UserError, match=r"search space: seed cannot be drawn with eval_args\.order RO, whose rows"):
        tune("BPR", "small", {"seed": {"grid": [1, 2]}}, config, **places)
    config["eval_args"] = {"order": "TO"}
    with pytest.raises(UserError, match=r"ray_address (none is no address|is none, but this process belongs)"):
        tune("BPR", "small", {"seed": {"grid": [1, 2]}}, config, **places)
    assert not (tmp_path / "sweeps").exists()


def test_what_is_given_wins_over_what_the_file_fixes(small_data: Path, tmp_path: Path) -> None:
    """Seen by what is refused: not the file's eval_step of 0, where another is given."""
    space = {"learning_rate": {"uniform": [0.1, 1]}, "eval_step": 0, "epochs": 3}
    with pytest.raises(UserError, match="num_workers is 2: a trial trains on one worker"):
        tune("SASRec", "small", space, {**TINY, "num_workers": 2}, data_path=small_data, storage_path=tmp_path)
    with pytest.raises(UserError, match="eval_step is 0"):
        tune("SASRec", "small", space, {key: TINY[key] for key in ("topk",)}, data_path=small_data)


def test_a_trial_that_no_machine_has_room_for_is_refused(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a trial asks for 64 CPU cores, but this machine has at most 2 CPU cores"):
        tune("SASRec", "small", SPACE, TINY, data_path=small_data, storage_path=tmp_path / "sweeps", cpus_per_trial=64)
    assert not (tmp_path / "sweeps").exists()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep to resume in"):
        tune(storage_path=tmp_path, resume=True)
    with pytest.raises(UserError, match="storage_path must be a folder"):
        tune("SASRec", "small", SPACE, storage_path="s3://bucket/sweeps")


@pytest.mark.slow
def test_population_based_training_repeats_too(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    space = {"learning_rate": {"loguniform": [1e-4, 1e-1]}, "hidden_dropout_prob": {"uniform": [0.0, 0.5]}}
    config = {**TINY, "epochs": 8}
    result = tune(
        "SASRec", "small", space, config, data_path=small_data, storage_path=tmp_path, num_trials=4, scheduler="pbt",
        perturbation_interval=2, max_concurrent=2,
    )  # fmt: skip
    schedules = [json.loads((result.folder / row.checkpoint / "schedule.json").read_text()) for row in result.trials]
    assert any(len(schedule) > 1 for schedule in schedules)  # one took another's weights and keys
    for schedule in schedules:
        assert all(1e-4 <= part["values"]["learning_rate"] <= 1e-1 for part in schedule)
    assert repeat(result.folder, output=tmp_path, show_progress=False).same


@pytest.mark.slow
def test_optuna_and_time_budget(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    result = tune(
        "SASRec", "small", SPACE, TINY, data_path=small_data, storage_path=tmp_path, num_trials=3, search="optuna",
        max_concurrent=1, time_budget="10m",
    )  # fmt: skip
    assert len(result.trials) == 3


@pytest.mark.slow
def test_the_best_trial_alone_chooses_its_reverse_steps(ray_cluster: str, small_data: Path, tmp_path: Path) -> None:
    keys = {
        "hidden_size": 16,
        "n_layers": 1,
        "n_heads": 2,
        "num_steps": 4,
        "lambda_mean": 0.5,
        "epochs": 1,
        "eval_step": 1,
        "reverse_steps": "auto",
        "use_gpu": False,
    }
    space = {"learning_rate": {"choice": [1e-3, 1e-2]}}
    result = tune("DiffuRec", "small", space, keys, data_path=small_data, storage_path=tmp_path, num_trials=2)
    facts = json.loads((result.folder / "best_run" / "result.json").read_text())
    choice = facts["reverse_steps_choice"]
    stored = json.loads((result.folder / "best_run" / "best" / "model.json").read_text())
    assert stored["config"]["reverse_steps_chosen"] == choice["chosen"] and set(choice["measured"]) >= {"1", "4"}
    assert not list(result.folder.glob("trial_*/**/reverse_steps.json"))
    again = repeat(result.folder, output=tmp_path / "again", show_progress=False)
    assert again.same_weights and again.same_valid and again.same_test
    assert again.result.reverse_steps_choice == choice
