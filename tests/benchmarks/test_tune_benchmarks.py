"""What the benchmarks of sweeps make of their figures; the sweeps themselves are tested in tests/tuning."""

from __future__ import annotations

from typing import Any

import pytest
import tune_asha
import tune_concurrency
from tune_table import render_tune_asha, render_tune_concurrency

COMMON: dict[str, Any] = {
    "try_out": False,
    "dataset": "beauty-mini",
    "command": "python benchmarks/x.py",
    "time": "now",
    "code": "abc",
    "machine": {"processor": "a processor", "cores": 2, "python": "3.11", "torch": "2.13"},
    "load": {"cores_busy_with_others": 0.1},
}


def repeats() -> list[dict[str, Any]]:
    """Two repeats of three trials: 60 s each without Ray, 63 s after the first with it."""
    one = {"seconds": 200.0, "after_first": [62, 64], "from_cache": 3, "trials": 3}
    two = {"seconds": 110.0, "after_first": [2, 64], "from_cache": 3, "trials": 3}
    return [{"loop": [70.0, 60.0, 60.0], "one": one, "two": two}] * 2


def test_concurrency_summary_and_table() -> None:
    found = tune_concurrency.summary(repeats())
    assert found["sooner"] == pytest.approx(200 / 110, abs=1e-3)
    assert found["overhead"] == pytest.approx(0.05)
    raw = {**COMMON, "model": "DiffuRec", "epochs": 40, "trials": 3, "repeats": repeats(), "summary": found}
    text = render_tune_concurrency(raw, "tune_concurrency")
    assert "1.82 times sooner (aim: 1.6; met)" in text and "adds 5.0 %" in text and "12 of 12 trials" in text


def test_asha_summary_and_table() -> None:
    sweeps = [
        {"seed": 0, "scheduler": "none", "best": 0.05, "epochs": 324, "seconds": 100.0},
        {"seed": 0, "scheduler": "asha", "best": 0.0495, "epochs": 120, "seconds": 40.0},
    ]
    found = tune_asha.summary(sweeps)
    assert (found["score"], found["epochs"]) == (pytest.approx(0.99), pytest.approx(120 / 324, abs=1e-4))
    settings = {"trials": 12, "epochs": 27, "grace_period": 3, "reduction_factor": 3.0}
    raw = {**COMMON, "settings": settings, "sweeps": sweeps, "summary": found, "enough": tune_asha.ENOUGH}
    text = render_tune_asha(raw, "tune_asha")
    assert "0.990 of the full runs' (aim: 0.98; met) with 0.370 of their epochs (aim: under 0.5; met)" in text
