"""The benchmark of full ranking: its sides report the same, and what is not the same ends it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import full_ranking
import pytest
import torch
from full_ranking import SIDES, check_metrics, make_task, measure_side, summary
from full_ranking_table import render_full_ranking


def small(side: str) -> argparse.Namespace:
    options = full_ranking.arguments(["--users=150", "--items=1500", "--batch_size=64", f"--side={side}"])
    options.rank_memory = 1
    return options


def test_every_side_reports_the_same_metrics() -> None:
    results = {side: [measure_side(small(side))] for side in SIDES}
    assert check_metrics(results) == 0.0
    assert 0.1 < results["recbole"][0]["metrics"]["hit@10"] <= 1
    # the kernel's peak may fall between two looks by the pages that its counters of single threads lag behind
    assert all(run["seconds"] >= 0 and run["peak_mib"] + 4 >= run["baseline_mib"] > 0 for (run,) in results.values())


def test_products_are_exact_in_any_order() -> None:
    task = make_task(40, 300, 64, seed=5)
    exact = task.users.double() @ task.items.double().t()
    assert exact.abs().max() < 2**24
    assert torch.equal((task.users @ task.items.t()).double(), exact)
    assert torch.equal(task.users, task.users.round())


def test_other_metrics_and_a_task_without_hits_are_errors() -> None:
    run = {"metrics": {"hit@10": 0.5}}
    assert check_metrics({"recbole": [run], "scores": [run]}) == 0.0
    with pytest.raises(ArithmeticError, match=r"differ by 1\.0e-05"):
        check_metrics({"recbole": [run], "scores": [{"metrics": {"hit@10": 0.50001}}]})
    with pytest.raises(ArithmeticError, match="nothing was found"):
        check_metrics({"recbole": [{"metrics": {"hit@10": 0.0}}]})


def measured(seconds: float, peak: float) -> dict[str, Any]:
    return {"seconds": seconds, "peak_mib": peak, "baseline_mib": 400.0, "metrics": {"hit@10": 0.5}}


def test_ratios_are_within_a_repeat_and_peaks_are_the_largest() -> None:
    results = {
        "recbole": [measured(40.0, 4000.0), measured(60.0, 4100.0), measured(50.0, 4000.0)],
        "scores": [measured(10.0, 700.0), measured(10.0, 900.0), measured(20.0, 800.0)],
    }
    sides = summary(results)
    assert sides["scores"]["times_faster"] == {"median": 4.0, "min": 2.5, "max": 6.0}
    assert sides["scores"]["peak_mib"] == 900.0
    assert sides["scores"]["growth_mib"] == 500.0
    assert full_ranking.meets_aims(sides["scores"]) == {"peak_mib": True, "times_faster": True}
    assert full_ranking.meets_aims(sides["recbole"]) == {"peak_mib": False, "times_faster": False}
    assert full_ranking.meets_aims(summary({"scores": results["scores"]})["scores"]) == {"peak_mib": True}


@pytest.mark.slow
def test_the_command_writes_what_the_table_is_made_of(tmp_path: Path) -> None:
    output = tmp_path / "full_ranking.json"
    command = [sys.executable, full_ranking.__file__, "--try_out", f"--output={output}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    raw = json.loads(output.read_text(encoding="utf-8"))
    assert set(raw["sides"]) == set(SIDES)
    text = render_full_ranking(raw, "full_ranking")
    assert "the numbers mean nothing" in text
    assert f"| {raw['sides']['scores']['times_faster']['median']:.2f} |" in text


def test_a_side_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_ranking, "__file__", "/nonexistent/benchmark.py")
    with pytest.raises(RuntimeError, match=r"^scores: .*benchmark\.py"):
        full_ranking.run_side("scores", [])
