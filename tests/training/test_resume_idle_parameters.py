"""Parameters without a gradient (DiffuRecSys's blocks without effect) stay where they started, and a run with them
resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_diffusion.models.diffurecsys import DiffuRecSys
from recbole_diffusion.quick_start import run

from .test_resume import KEYS, assert_same_end, last_state


def test_interrupted_with_idle_blocks(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {**KEYS, "n_layers": 2}
    whole = run("DiffuRecSys", "small", keys, data_path=small_data, output=tmp_path / "whole").folder
    original = DiffuRecSys.calculate_loss
    calls = {"left": 2 * 12 + 5}

    def interrupted(self: Any, interaction: Any) -> torch.Tensor:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise KeyboardInterrupt
        return original(self, interaction)

    with monkeypatch.context() as patched:
        patched.setattr(DiffuRecSys, "calculate_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run("DiffuRecSys", "small", keys, data_path=small_data, output=tmp_path / "cut")
    (folder,) = (tmp_path / "cut").iterdir()
    run(resume=folder)
    assert_same_end(whole, folder)

    state = last_state(folder)
    idle = {name: tensor for name, tensor in state.items() if "model" in name and "blocks.0.input_norm.weight" in name}
    assert idle, sorted(state)
    for tensor in idle.values():
        assert torch.equal(tensor, torch.ones_like(tensor))  # weight decay has not touched it either
