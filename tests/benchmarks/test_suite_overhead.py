"""What a suite adds to its runs: the commands by hand, the shares, the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import suite_overhead
from suite_overhead_table import render_suite_overhead


def test_the_bare_side_makes_the_same_runs_and_evaluations(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    runs = [
        {"place": "runs/small/A/seed-1-x", "evaluations": {"without seen": {"filter_seen": True}}},
        {"place": "runs/small/B/seed-1-y", "evaluations": {}},
    ]
    (suite / "suite.json").write_text(json.dumps({"runs": runs}), encoding="utf-8")
    commands = suite_overhead.bare_commands(suite, tmp_path / "bare")
    assert [words[0] for words in commands] == ["run", "evaluate", "run"]
    assert f"--config_files='{suite}/runs/small/B/seed-1-y/asked.yaml'" in commands[2]
    made = tmp_path / "bare" / "0" / "A-small-1"
    made.mkdir(parents=True)
    (made / "config.yaml").write_text("", encoding="utf-8")
    (evaluation,) = suite_overhead.with_checkpoints([commands[1]])
    assert f"--checkpoint={made}" in evaluation and "--filter_seen=True" in evaluation


def test_shares_and_table() -> None:
    pairs = [
        {"bare": {"wall": 100.0, "processor": 90.0}, "suite": {"wall": 102.0, "processor": 91.8}, "commands": 3},
        {"bare": {"wall": 100.0, "processor": 90.0}, "suite": {"wall": 103.0, "processor": 90.9}, "commands": 3},
        {"bare": {"wall": 100.0, "processor": 90.0}, "suite": {"wall": 101.0, "processor": 90.0}, "commands": 3},
    ]
    found = suite_overhead.summary(pairs)
    assert found["wall"]["median"] == pytest.approx(0.02) and found["processor"]["median"] == pytest.approx(0.01)
    assert found["met"]
    raw = {
        "suite": "quick",
        "pairs": pairs,
        "summary": found,
        "machine": {"processor": "a processor", "cores": 2, "python": "3.11", "torch": "2.13"},
        "load": {"cores_busy_with_others": None},
        "code": "abc",
        "time": "now",
        "command": "python benchmarks/x.py",
    }
    text = render_suite_overhead(raw, "suite_overhead")
    assert "adds 2.0 % (1.0 to 3.0) of wall-clock time (aim: under 3 %; met)" in text


def test_a_command_that_fails_is_no_measurement() -> None:
    with pytest.raises(RuntimeError, match=r"evaluate failed:\n.*needs --checkpoint"):
        suite_overhead.timed([["evaluate"]])
