"""The benchmark of workers: ratios within pairs, and the table of a result."""

from __future__ import annotations

from typing import Any

import pytest
import workers_speed
from render import RENDERERS


def run(rate: float) -> dict[str, Any]:
    return {"rows": 100, "seconds": [100 / rate], "losses": [1.0, 0.9], "rows_per_second": rate}


def test_the_gain_is_the_median_of_ratios_within_pairs() -> None:
    pairs = [{"one": run(100.0), "several": run(several)} for several in (120.0, 160.0, 190.0)]
    found = workers_speed.summary(pairs)
    assert found["gain"] == {"median": 1.6, "min": 1.2, "max": 1.9}
    assert found["met"] and found["rates"]["one"]["median"] == 100.0
    assert not workers_speed.summary(pairs[:1])["met"]


def test_one_epoch_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        workers_speed.arguments(["--data_path=data", "--epochs=1"])
    assert "the first is not counted" in capsys.readouterr().err


def test_the_table_says_what_was_measured() -> None:
    summary = workers_speed.summary([{"one": run(100.0), "several": run(180.0)}])
    raw = {
        "benchmark": "workers_speed",
        "command": "python benchmarks/workers_speed.py",
        "measured": "2026-01-01T00:00:00+00:00",
        "code_version": "abc",
        "machine": {
            "processor": "P", "cores": 2, "python": "3.11", "torch": "2.13",
            "load": {"average_before": [0.1, 0.2, 0.3], "cores_busy_with_others": 0.05},
        },
        "settings": {
            "dataset": "amazon-beauty", "workers": 2, "epochs": 3, "repeats": 1, "train_batch_size": None,
            "train_noise": "generator", "try_out": True,
        },
        "models": {"DiffuRec": summary},
    }  # fmt: skip
    text = RENDERERS["workers_speed"](raw, "workers_speed")
    assert "| DiffuRec | 100 | 180 | 1.80 | 1.80 to 1.80 | yes |" in text
    assert "the numbers mean nothing" in text and "0.05" in text
