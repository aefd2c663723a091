"""The benchmark of retrieval: what it draws and adds up, and that its JSON makes its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import retrieval_speed
import torch
from retrieval_speed import AIMS, drawn_items, latencies, met, ratios
from retrieval_speed_table import render_retrieval_speed


def test_items_are_drawn_like_a_table() -> None:
    draw = np.random.default_rng(0)
    table = (draw.standard_normal((4000, 6)) * np.arange(1, 7) + 3).astype(np.float32)
    items = drawn_items(table, 50_000, seed=1)
    assert items.shape == (50_001, 6) and items.dtype == torch.float32
    assert torch.equal(items, drawn_items(table, 50_000, seed=1))
    norms = np.linalg.norm(items.numpy(), axis=1)
    assert np.allclose(
        np.quantile(norms, [0.1, 0.5, 0.9]), np.quantile(np.linalg.norm(table, axis=1), [0.1, 0.5, 0.9]), rtol=0.03
    )
    directions, expected = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (items.numpy(), table))
    assert np.allclose(directions.mean(0), expected.mean(0), atol=0.03)
    assert np.allclose(np.cov(directions.T), np.cov(expected.T), atol=0.03)


def test_figures_by_hand() -> None:
    slow, fast = [[10.0, 30.0, 20.0], [40.0, 40.0, 40.0]], [[1.0, 2.0, 4.0], [2.0, 2.0, 2.0]]
    assert ratios(slow, fast) == [10.0, 20.0]
    assert latencies(slow)["median_ms"] == {"median": 30.0, "min": 20.0, "max": 40.0}
    assert met({"times_faster": {"median": 9.9}, "recall": AIMS["recall"]}) == {"times_faster": False, "recall": True}


@pytest.mark.parametrize("words", [[], ["--try_out", "--cases=other"], ["--try_out", "--queries=1"]])
def test_what_it_is_not_given(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        retrieval_speed.arguments(words)
    assert "--" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_what_the_table_is_made_of(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed (pip install 'recbole-diffusion[retrieval]')")
    output = tmp_path / "retrieval_speed.json"
    command = [sys.executable, retrieval_speed.__file__, "--try_out", "--threads=1", f"--output={output}"]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    raw = json.loads(output.read_text(encoding="utf-8"))
    assert set(raw["cases"]) == set(retrieval_speed.CASES) and raw["cases"]["trained"]["recall"] > 0.9
    text = render_retrieval_speed(raw, "retrieval_speed")
    assert "the numbers mean nothing" in text and "N(0, I), the hard case" in text
