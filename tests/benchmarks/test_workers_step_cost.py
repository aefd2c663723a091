"""What a step costs each of several workers: ratios within repeats, the table, a small run from command to table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import render
import workers_step_cost

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "workers_step_cost.py"


def repeat(one: float, share: float, computing: float, gloo: float) -> dict[str, dict[str, float]]:
    return {
        "one": {"gloo": 0.0, "computing": one},
        "share": {"gloo": 0.0, "computing": share},
        "several": {"gloo": gloo, "computing": computing},
    }


def result(**settings: Any) -> dict[str, Any]:
    """A result: three repeats of one case."""
    repeats = [repeat(100.0, 50.0, 60.0, 20.0), repeat(120.0, 60.0, 70.0, 10.0), repeat(90.0, 60.0, 50.0, 10.0)]
    return {
        "benchmark": "workers_step_cost",
        "command": "python benchmarks/workers_step_cost.py",
        "measured": "2026-01-01T00:00:00+00:00",
        "code_version": "abc",
        "machine": {
            "processor": "P", "cores": 2, "python": "3.11", "torch": "2.13",
            "load": {"average_before": [0.1, 0.2, 0.3], "cores_busy_with_others": 1.25},
        },
        "settings": {"dataset": "amazon-beauty", "workers": 2, "steps": 30, "repeats": 3, "try_out": False, **settings},
        "cases": [workers_step_cost.summary("REMI", 128, repeats)],
    }  # fmt: skip


def test_ratios_are_taken_within_repeats() -> None:
    (case,) = result()["cases"]
    assert case["gain_at_most"] == {"median": 1.5, "min": 1.25, "max": 1.5}
    assert case["gain_without_exchange"] == {"median": 2.0, "min": 1.5, "max": 2.0}
    assert case["milliseconds"]["several"]["computing"] == {"median": 60.0, "min": 50.0, "max": 70.0}
    assert case["milliseconds"]["one"]["computing"]["median"] == 100.0


def test_the_table_says_what_was_measured() -> None:
    text = render.RENDERERS["workers_step_cost"](result(), "workers_step_cost")
    assert "| REMI, 128 | 100.0 | 60.0 | 60.0 | 10.0 | 1.50 | 1.25 to 1.50 | 2.00 |" in text
    assert "| 1 worker, 1/2 of the rows |" in text and "1.25" in text and "mean nothing" not in text
    assert "mean nothing" in render.RENDERERS["workers_step_cost"](result(try_out=True), "workers_step_cost")


def test_the_check_knows_a_result_with_and_without_its_table(tmp_path: Path) -> None:
    assert render.differences(tmp_path) == []
    raw = tmp_path / "workers_step_cost.json"
    raw.write_text(json.dumps(result()), encoding="utf-8")
    assert render.differences(tmp_path) == ["workers_step_cost.md is missing"]
    assert [path.name for path in render.write(tmp_path)] == ["workers_step_cost.md"]
    assert render.differences(tmp_path) == []
    raw.unlink()
    assert render.differences(tmp_path) == ["workers_step_cost.md has no raw file"]


@pytest.mark.parametrize("case", ["REMI", "REMI:", ":128", "REMI:x", "REMI:1"])
def test_a_case_is_a_model_and_its_rows(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        workers_step_cost.arguments(["--data_path=data", f"--cases={case}"])
    assert f"{case!r} is no MODEL:ROWS with a row for each worker" in capsys.readouterr().err


def run(data: Path, output: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), f"--data_path={data}", "--dataset=small", f"--output={output}", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of threads from /proc")
def test_a_small_run(small_data: Path, tmp_path: Path) -> None:
    done = run(small_data, tmp_path / "cost.json", "--cases=REMI:40", "--try_out")
    assert done.returncode == 0, done.stderr
    raw = json.loads((tmp_path / "cost.json").read_text(encoding="utf-8"))
    (case,) = raw["cases"]
    (repeated,) = case["repeats"]
    assert repeated["one"]["computing"] > 0 and repeated["share"]["computing"] > 0 and repeated["several"]["gloo"] > 0
    assert repeated["one"]["gloo"] == repeated["share"]["gloo"] == 0
    render.write(tmp_path)
    assert "| REMI, 40 |" in (tmp_path / "cost.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time of threads from /proc")
def test_more_steps_than_an_epoch_has_are_refused(small_data: Path, tmp_path: Path) -> None:
    done = run(small_data, tmp_path / "cost.json", "--cases=REMI:300", "--steps=9", "--repeats=1")
    assert done.returncode != 0 and "batches; lower --steps, which is 9" in done.stderr
    assert not (tmp_path / "cost.json").exists()
