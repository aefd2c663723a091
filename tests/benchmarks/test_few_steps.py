"""The benchmarks of few-step inference on a tiny run: figures that evaluations have, the yardstick with its weights."""

from __future__ import annotations

import json
from pathlib import Path

import few_steps
import inference_speed
import numpy as np
import pytest
import torch
from contestants import Ours, copy_weights, load_into_yardstick
from few_steps_table import render_few_steps, smallest_within
from inference_speed_table import render_inference_speed
from reference_diffurec import ReferenceDiffuRec, ReferenceSizes
from render import rendered_texts

from recbole_diffusion.quick_start import RunResult, evaluate, run

KEYS = {"hidden_size": 16, "n_layers": 2, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 8, "use_gpu": False, "num_threads": 1}
DIFFUREC = {**KEYS, "num_steps": 6, "epochs": 2, "eval_step": 1, "lambda_mean": 0.3, "train_batch_size": 64}


@pytest.fixture(scope="module")
def runs(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunResult]:
    output = tmp_path_factory.mktemp("few_steps")
    keys = {**DIFFUREC, "reverse_steps": "auto", "mask_mode": "key", "show_progress": False}
    sphere = {"MAX_ITEM_LIST_LENGTH": 8, "hidden_size": 16, "num_steps": 4, "epochs": 1, "use_gpu": False}
    return {
        "DiffuRec": run("DiffuRec", "small", keys, data_path=small_data, output=output),
        "DimeRec": run("DimeRec", "small", {**sphere, "show_progress": False}, data_path=small_data, output=output),
    }


def test_every_figure_is_an_evaluations(runs: dict[str, RunResult], tmp_path: Path) -> None:
    output = tmp_path / "few_steps.json"
    words = [f"--runs=one={runs['DiffuRec'].folder} two={runs['DimeRec'].folder}", f"--output={output}"]
    assert few_steps.main(words) == 0
    raw = json.loads(output.read_text())
    one, two = raw["runs"]["one"], raw["runs"]["two"]
    assert {"1", "2", "4", "6"} <= set(one["samplers"]["own"]) and one["rows"] == 60
    for sampler, keys in (("own", {}), ("ddim", {"reverse_sampler": "ddim"})):
        found = evaluate(
            runs["DiffuRec"].folder, {"reverse_steps": 2, **keys}, output=tmp_path / "evaluations"
        ).test_result
        assert one["samplers"][sampler]["2"] == {name: found[name] for name in few_steps.METRICS}
    assert "walk on the sphere" in two["samplers"]["dpm_solver_pp"]["refused"]
    assert set(two["samplers"]["own"]) >= {"1", "2", "4"}
    # given again, nothing is measured: the evaluation would be another one
    altered = json.loads(output.read_text())
    altered["runs"]["one"]["samplers"]["own"]["1"]["ndcg@10"] = 0.5
    output.write_text(json.dumps(altered))
    assert few_steps.main(words) == 0
    assert json.loads(output.read_text())["runs"]["one"]["samplers"]["own"]["1"]["ndcg@10"] == 0.5
    text = render_few_steps(raw, "few_steps")
    full = 100 * one["samplers"]["own"]["6"]["ndcg@10"]
    assert f"{full:.2f} (6)" in text and "two, DPM-Solver++ (2M): reverse_sampler is dpm_solver_pp" in text
    assert rendered_texts(tmp_path)[0][tmp_path / "few_steps.md"].startswith("# Quality against the number")


def test_the_smallest_number_within_the_tolerance_by_hand() -> None:
    own = {"1": 0.40, "2": 0.496, "4": 0.49, "8": 0.5}
    values = {"own": own, "ddim": {"1": 0.6, "8": 0.3}, "x": {"refused": "no"}}
    samplers = {
        name: {steps: {"ndcg@10": value} if steps != "refused" else value for steps, value in found.items()}
        for name, found in values.items()
    }
    entry = {"num_steps": 8, "samplers": samplers}
    assert smallest_within(entry, "own", 0.01) == 2
    assert smallest_within(entry, "own", 0.0) == 8
    assert smallest_within(entry, "ddim", 0.01) == 1
    assert smallest_within({**entry, "samplers": {**samplers, "ddim": {"8": {"ndcg@10": 0.3}}}}, "ddim", 0.01) is None
    assert smallest_within(entry, "x", 0.01) is None


@pytest.mark.parametrize("mask_keys", [False, True])
def test_the_yardstick_takes_our_weights(tmp_path: Path, mask_keys: bool) -> None:
    sizes = ReferenceSizes(31, hidden_size=16, n_layers=2, n_heads=2, max_length=7, num_steps=5, mask_keys=mask_keys)
    torch.manual_seed(3)
    given, found = ReferenceDiffuRec(sizes), ReferenceDiffuRec(sizes)
    keys = {"mask_mode": "key" if mask_keys else "query"}
    ours = Ours(sizes, torch.device("cpu"), data_path=str(tmp_path), dataset="small", overrides=keys)
    copy_weights(given, ours.model)
    load_into_yardstick(ours.model, found)
    for name, weight in given.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def test_speed_on_a_tiny_run(runs: dict[str, RunResult], small_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "inference_speed.json"
    words = [f"--run={runs['DiffuRec'].folder}", f"--output={output}", "--try_out", f"--data_path={small_data}"]
    assert inference_speed.main([*words, "--quality_users=0"]) == 0
    raw = json.loads(output.read_text())
    assert raw["parity"]["worst"] <= 1e-5
    assert {"plain", "sasrec", "full", "one"} <= set(raw["throughput"]["sides"])
    ratio = raw["throughput"]["ratios"]["one"]["sasrec"]["median"]
    rates = [one["one"] / one["sasrec"] for one in raw["throughput"]["rounds"]]
    assert ratio == pytest.approx(float(np.median(rates)), abs=1e-3)
    expected = evaluate(runs["DiffuRec"].folder, {"reverse_steps": 1}, output=tmp_path / "evaluations").test_result
    shown = {name: expected[name] for name in few_steps.METRICS}
    assert raw["quality"]["all"]["one"] == pytest.approx(shown, abs=1e-5)
    assert raw["latency"]["sides"]["sasrec"]["wall"]["p50"] > 0
    text = render_inference_speed(raw, "inference_speed")
    assert "| plain implementation, 6 steps |" in text and "p99 under 3 times SASRec's" in text
    assert inference_speed.main([f"--run={runs['DimeRec'].folder}", *words[1:]]) == 1


def test_quality_by_hand() -> None:
    items = np.array([[5, 6, 7, *range(20, 37)], [1, 2, 3, *range(20, 37)], [*range(40, 50), 9, *range(50, 59)]])
    found = inference_speed.quality(items, np.array([6, 8, 9]))
    assert found == {"ndcg@10": pytest.approx(1 / np.log2(3) / 3), "hit@10": pytest.approx(1 / 3)}


def test_rows_for_both_sides() -> None:
    histories, lengths = torch.tensor([[4, 5, 0], [6, 0, 0], [1, 2, 3]]), torch.tensor([2, 1, 3])
    rows = inference_speed.TestRows(histories, lengths, torch.ones(3))
    assert rows.left_padded(np.array([0, 1, 2])).tolist() == [[0, 4, 5], [0, 0, 6], [1, 2, 3]]
    assert rows.batch(np.array([2, 0]), torch.device("cpu"))["item_length"].tolist() == [3, 2]
