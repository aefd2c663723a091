"""The benchmark of diffusion over interests runs at tiny sizes and compares equals; its table shows the figures."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import speed_multi_interest as benchmark
import torch
from speed_multi_interest_table import render_speed_multi_interest

from recbole_diffusion.diffusion.noise import ZeroNoise


def test_rows_are_histories() -> None:
    history, lengths, targets = benchmark.rows(benchmark.Sizes(), 500, np.random.default_rng(0))
    assert history.shape == (500, 20)
    assert ((history > 0).sum(1) == lengths).all()
    assert lengths.min() == 4 and lengths.max() == 20
    assert targets.min() >= 1 and max(targets.max(), history.max()) <= 12101


def test_the_loops_compute_the_models_chain(tmp_path: Path) -> None:
    options = argparse.Namespace(device="cpu", seed=1)
    contestant = benchmark.Contestant("DMI", benchmark.TINY, options, str(tmp_path))
    model = contestant.model.eval()
    batch = contestant.batch(benchmark.TINY, 7, np.random.default_rng(0))
    with torch.no_grad():
        items, interests = model.interests(batch)
        last = torch.full((7,), 2)
        start = model.refinement.process.sample(interests.vectors, last, noise=ZeroNoise()).x_t
        expected = model.sample_user_vectors(batch, ZeroNoise())
        for way in (benchmark.chain_batched, benchmark.chain_loop, benchmark.chain_as_printed):
            result = way(model, items, interests, batch[model.ITEM_SEQ_LEN], start)
            torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def run_command(monkeypatch: pytest.MonkeyPatch, output: Path, *more: str) -> int:
    monkeypatch.setattr(sys, "argv", ["speed_multi_interest.py", "--try_out", f"--output={output}", *more])
    return benchmark.main()


def test_the_command_writes_costs_gains_and_a_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    output = tmp_path / "speed_multi_interest.json"
    assert run_command(monkeypatch, output) == 0
    raw = json.loads(output.read_text(encoding="utf-8"))
    assert raw["try_out"] is True
    for section in ("dmi", "dimerec"):
        part = raw[section]
        pair = part["pairs"][0]
        assert part["cost"]["min"] - 0.01 <= pair["base"] / pair["ours"] <= part["cost"]["max"] + 0.01
        assert part["met"] is (part["cost"]["median"] <= 2.0)
        assert part["keys"]["ours"]["hidden_size"] == part["keys"]["base"]["hidden_size"] == 8
        assert part["keys"]["ours"]["n_negatives"] == part["keys"]["base"]["n_negatives"] == 20
    assert set(raw["chains"]["users"]) == {"1", "3"}
    assert all(found["difference"] <= 1e-5 for found in raw["chains"]["users"].values())
    assert 0 < sum(found["share"] for found in raw["profile"]["operators"]) <= 1.001
    text = render_speed_multi_interest(raw, "speed_multi_interest")
    assert "mean nothing" in text
    assert "DMI beside REMI" in text and "DimeRec beside ComiRecSA" in text
    assert "Algorithm 2 as printed" in text and "operator" in text


def test_no_ratio_when_the_chains_differ(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "chain_as_printed", lambda *given: benchmark.chain_batched(*given) + 1e-4)
    assert run_command(monkeypatch, tmp_path / "none.json", "--sections=chains") == 1
    assert not (tmp_path / "none.json").exists()
    assert "no ratio is reported" in capsys.readouterr().err


def test_sections_that_do_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        run_command(monkeypatch, tmp_path / "none.json", "--sections=speed")
