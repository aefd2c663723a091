"""The code of docs/adding_a_model.md, run as it stands there: parts that join from outside the package."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from recbole_diffusion import UserError, run
from recbole_diffusion.diffusion.schedules import build_schedule

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding_a_model.md"
QUICK = {"epochs": 2, "MAX_ITEM_LIST_LENGTH": 8, "eval_step": 1, "use_gpu": False, "show_progress": False}


@pytest.fixture
def written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the page's files: each is the Python block after a line that names it."""
    files = re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert [name for name, _ in files] == ["mean_diffusion.py", "my_parts.py"]
    for name, code in files:
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name, _ in files:
        sys.modules.pop(Path(name).stem, None)


def test_the_model_trains_and_finds_the_next_item(written_out: Path, small_data: Path) -> None:
    config = {**QUICK, "epochs": 20, "hidden_size": 32, "num_steps": 8, "learning_rate": 0.01, "train_batch_size": 128}
    result = run("mean_diffusion:MeanDiffusion", "small", config, data_path=small_data, output=written_out / "runs")
    # four of five next items in this data follow from the last one; a list of 10 of 40 by chance has 0.25
    assert result.test_result["hit@10"] > 0.35
    assert result.model == "MeanDiffusion"


def test_a_class_gives_the_run_that_its_name_gives(written_out: Path, small_data: Path) -> None:
    named = run("mean_diffusion:MeanDiffusion", "small", QUICK, data_path=small_data, output=written_out / "named")
    model_class = importlib.import_module("mean_diffusion").MeanDiffusion
    given = run(model_class, "small", QUICK, data_path=small_data, output=written_out / "given")
    assert given.test_result == named.test_result


def test_its_keys_are_checked(written_out: Path, small_data: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'num_steps'"):
        run("mean_diffusion:MeanDiffusion", "small", {"num_step": 4}, data_path=small_data)
    with pytest.raises(UserError, match=r"num_steps.*'many'"):
        run("mean_diffusion:MeanDiffusion", "small", {"num_steps": "many"}, data_path=small_data)


def test_parts_join_our_model(written_out: Path, small_data: Path) -> None:
    config = {**QUICK, "hidden_size": 16, "n_layers": 1, "n_heads": 2, "num_steps": 4}
    parts = {
        "noise_schedule": "my_parts:halving",
        "step_sampler": "my_parts:CleanestHalf",
        "noise": "my_parts:SignNoise",
        "reverse_sampler": "my_parts:OneJump",
    }
    result = run("DiffuRec", "small", {**config, **parts}, data_path=small_data, output=written_out / "runs")
    assert result.epochs == 2
    schedule = build_schedule(importlib.import_module("my_parts").halving, 4)
    torch.testing.assert_close(schedule.alpha_bar, torch.tensor([0.5, 0.25, 0.125, 0.0625]))
