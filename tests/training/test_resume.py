"""A run that was cut and resumed ends as one that was not, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_diffusion.command_line import main
from recbole_diffusion.errors import UserError
from recbole_diffusion.models.diffurec import DiffuRec
from recbole_diffusion.quick_start import run
from recbole_diffusion.training.checkpoint import read_checkpoint
from recbole_diffusion.training.run_folder import RunFolder

KEYS: dict[str, Any] = {
    "hidden_size": 16,
    "n_layers": 1,
    "n_heads": 2,
    "num_steps": 4,
    "train_batch_size": 32,
    "MAX_ITEM_LIST_LENGTH": 10,
    "eval_step": 1,
    "scheduler_step_size": 2,
    "use_gpu": False,
    "epochs": 4,
    "num_threads": 1,
    "show_progress": False,
}


def last_state(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(RunFolder.open(folder).last).tensors


def assert_same_end(one: Path, other: Path) -> None:
    first, second = last_state(one), last_state(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["test_result"] == results[1]["test_result"]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]


@pytest.fixture(scope="module")
def uncut(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("DiffuRec", "small", KEYS, data_path=small_data, output=tmp_path_factory.mktemp("uncut")).folder


def test_a_run_is_not_resumed_twice_at_once(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    monkeypatch.setattr("recbole_diffusion.training.run_folder._LOCK_PATIENCE", 0.2)
    done = run("DiffuRec", "small", {**KEYS, "epochs": 1}, data_path=small_data, output=tmp_path).folder
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    with RunFolder.open(done).held(), pytest.raises(UserError, match=r"another process trains in .*; wait until"):
        run(resume=done, config={"epochs": 2})
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before
    assert run(resume=done, config={"epochs": 2}).epochs == 2


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec"])
def test_interrupted_in_the_middle_of_an_epoch(
    model: str, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = dict(KEYS)
    if model == "SASRec":
        keys = {key: value for key, value in KEYS.items() if key not in ("num_steps",)}
        keys.update(scheduler="step", inner_size=32)
    whole = run(model, "small", keys, data_path=small_data, output=tmp_path / "whole").folder

    from recbole.model.sequential_recommender.sasrec import SASRec

    target = DiffuRec if model == "DiffuRec" else SASRec
    original = target.calculate_loss
    calls = {"left": 2 * 12 + 5}

    def interrupted(self: Any, interaction: Any) -> torch.Tensor:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise KeyboardInterrupt
        return original(self, interaction)

    monkeypatch.setattr(target, "calculate_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(model, "small", keys, data_path=small_data, output=tmp_path / "cut")
    (folder,) = (tmp_path / "cut").iterdir()
    done = read_checkpoint(folder / "last" / "checkpoint.state").facts["epoch"]
    assert 0 <= done < 3
    assert not (folder / "result.json").exists()
    run(resume=folder)
    assert_same_end(whole, folder)


def test_killed_in_the_middle_of_an_epoch(uncut: Path, small_data: Path, tmp_path: Path) -> None:
    program = (
        "import json, sys, time\n"
        "from recbole_diffusion.models.diffurec import DiffuRec\n"
        "from recbole_diffusion.quick_start import run\n"
        "losses = DiffuRec.losses\n"
        "def slow(self, interaction):\n"
        "    time.sleep(0.05)\n"
        "    return losses(self, interaction)\n"
        "DiffuRec.losses = slow\n"
        "run('DiffuRec', 'small', json.loads(sys.argv[1]), data_path=sys.argv[2], output=sys.argv[3])\n"
    )
    output = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", program, json.dumps(KEYS), str(small_data), str(output)], env=environment
    ) as process:
        for _ in range(1200):
            if list(output.glob("*/last/checkpoint.state")) or process.poll() is not None:
                break
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (folder,) = output.iterdir()
    assert not (folder / "result.json").exists()
    run(resume=folder)
    assert_same_end(uncut, folder)


def test_a_run_cut_before_its_first_epoch_starts_again(uncut: Path, small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "young"
    folder.mkdir()
    (folder / "config.yaml").write_bytes((uncut / "config.yaml").read_bytes())
    run(resume=folder)
    assert_same_end(uncut, folder)


@pytest.mark.parametrize("shuffle", [True, False])
def test_cuts_of_users_go_on_where_they_stopped(shuffle: bool, small_data: Path, tmp_path: Path) -> None:
    """One cut of each user is drawn anew in each epoch: a resumed run draws those that the whole run would have."""
    keys = {
        "hidden_size": 8, "n_negatives": 10, "train_batch_size": 16, "MAX_ITEM_LIST_LENGTH": 10, "eval_step": 1,
        "use_gpu": False, "num_threads": 1, "show_progress": False, "protocol": "user_split_multi", "min_history": 1,
        "one_cut_per_user": True, "shuffle": shuffle, "metrics": ["Recall"], "valid_metric": "Recall@10",
    }  # fmt: skip
    whole = run("ComiRecSA", "small", {**keys, "epochs": 4}, data_path=small_data, output=tmp_path / "whole").folder
    cut = run("ComiRecSA", "small", {**keys, "epochs": 2}, data_path=small_data, output=tmp_path / "cut").folder
    run(resume=cut, config={"epochs": 4})
    assert_same_end(whole, cut)


def test_config_yaml_repeats_the_run(uncut: Path, tmp_path: Path) -> None:
    again = run(config_files=[uncut / "config.yaml"], output=tmp_path).folder
    assert_same_end(uncut, again)


def test_more_epochs_may_follow_other_changes_may_not(
    uncut: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = run("DiffuRec", "small", {**KEYS, "epochs": 2}, data_path=small_data, output=tmp_path).folder
    with pytest.raises(UserError, match="'learning_rate' cannot change in a resumed run"):
        run(resume=short, config={"learning_rate": 0.5})
    with pytest.raises(UserError, match="is a run of model DiffuRec"):
        run(model="SASRec", resume=short)
    before = {path: path.read_bytes() for path in short.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"epochs must be 2 or more, which .* has trained already, got 1 \(config.*\)"):
        run(resume=short, config={"epochs": 1})
    elsewhere = tmp_path / "elsewhere"
    words = [f"--resume={short}", f"--output={elsewhere}", "--epochs=3"]
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"error: --output cannot be given with --resume: the run goes on in its own folder, {short}\n"
    )
    assert not elsewhere.exists()
    assert before == {path: path.read_bytes() for path in short.rglob("*") if path.is_file()}
    assert run(resume=short, config={"epochs": 2}).epochs == 2  # as many as it has
    run(resume=short, config={"epochs": 4})
    assert_same_end(uncut, short)


def test_resuming_a_finished_run_changes_nothing(uncut: Path) -> None:
    before = last_state(uncut)
    result = run(resume=uncut)
    after = last_state(uncut)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert result.epochs == 4


def test_no_such_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder at"):
        run(resume=tmp_path / "absent")
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        run(resume=tmp_path)
