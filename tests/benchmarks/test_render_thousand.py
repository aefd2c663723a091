"""Rendering a thousand runs: a small measurement from command to table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import render
import render_thousand

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "render_thousand.py"


def test_a_small_measurement(tmp_path: Path) -> None:
    path = tmp_path / "render_thousand.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), f"--output={path}", "--try_out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    raw = json.loads(path.read_text(encoding="utf-8"))
    assert raw["settings"]["runs"] == 12
    phases = [raw["seconds"][name]["median"] for name in render_thousand.PHASES]
    assert 0 < sum(phases) < raw["seconds"]["process"]["median"]
    assert render.differences(tmp_path) == ["render_thousand.md is missing"]
    render.write(tmp_path)
    text = (tmp_path / "render_thousand.md").read_text(encoding="utf-8")
    assert "mean nothing" in text and f"| whole process | {raw['seconds']['process']['median']:.2f} |" in text


@pytest.mark.parametrize("word", ["--models=0", "--repeats=-1"])
def test_numbers_from_one(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        render_thousand.arguments([word])
    assert "allowed: 1 or more" in capsys.readouterr().err
