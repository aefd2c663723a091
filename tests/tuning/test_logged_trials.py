"""Loggers of trials: none unless asked for; then each trial has its own log, and the best one's has the test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_diffusion.tuning.sweep import tune

from .conftest import SPACE, TINY


def test_trials_are_logged_where_it_is_asked_for(
    ray_cluster: str, undisturbed: Any, small_data: Path, tmp_path: Path
) -> None:
    assert not list(undisturbed.folder.rglob("loggers.json")) and not list(undisturbed.folder.rglob("tensorboard"))
    config = {**TINY, "epochs": 2, "loggers": ["tensorboard"], "run_name": "spring"}
    result = tune("SASRec", "small", SPACE, config, data_path=small_data, storage_path=tmp_path, num_trials=1)
    folder = result.folder / "best_run"
    kept = json.loads((folder / "loggers.json").read_text())
    assert kept["run_name"].startswith("spring ") and len(kept["run_name"]) > len("spring ")
    assert kept["tensorboard"]["epoch"] == 2
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2]
    (test,) = events.Scalars("test/ndcg@10")
    assert test.value == pytest.approx(result.test_result["ndcg@10"], abs=1e-6)
