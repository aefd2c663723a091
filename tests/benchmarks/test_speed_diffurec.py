"""The speed benchmark compares two things that compute the same, and says nothing when they do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import speed_diffurec
import torch
from contestants import TOLERANCE, Ours, Yardstick, copy_weights, lambda_per_position, largest_differences, worst
from leave_one_out import LeaveOneOut, Rows
from measuring import command_line, summarise
from reference_diffurec import ReferenceSizes

N_ITEMS = 30
SIZES = ReferenceSizes(N_ITEMS + 1, hidden_size=16, n_layers=3, n_heads=4, max_length=7, num_steps=5)


@pytest.fixture(scope="module")
def data() -> LeaveOneOut:
    generator = np.random.default_rng(0)
    lengths = [3, 4, 5, 6, 8, 9, 10, 12, 15]
    return LeaveOneOut([(1 + generator.permutation(N_ITEMS)[:length]).tolist() for length in lengths], N_ITEMS)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Yardstick, Ours]:
    torch.manual_seed(1)
    device = torch.device("cpu")
    yardstick = Yardstick(SIZES, device)
    with torch.no_grad():  # norms and biases away from where they start, so that a swapped pair shows
        for name, parameter in yardstick.model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    ours = Ours(SIZES, device, data_path=str(tmp_path), dataset="small", overrides={})
    copy_weights(yardstick.model, ours.model)
    return yardstick, ours


def rows_of(data: LeaveOneOut, count: int) -> Rows:
    return data.random_prefixes(count, np.random.default_rng(3), SIZES.max_length)


def test_ours_computes_what_the_yardstick_computes(sides: tuple[Yardstick, Ours], data: LeaveOneOut) -> None:
    rows = rows_of(data, 24)
    lengths = {len(history) for history in rows.histories}
    assert max(lengths) == SIZES.max_length  # a row without padding is among them
    assert min(lengths) == 1
    differences = largest_differences(*sides, rows, seed=5)
    assert set(differences) == {"lambda_at_its_mean", "lambda_drawn", "lambda_visible"}
    assert worst(differences) <= TOLERANCE


@pytest.mark.parametrize("changed", ["denoiser.blocks.1.feed_forward.expand.weight", "denoiser.mixing"])
def test_a_difference_is_seen(sides: tuple[Yardstick, Ours], data: LeaveOneOut, changed: str) -> None:
    yardstick, ours = sides
    with torch.no_grad():
        for name, parameter in ours.model.named_parameters():
            if name.startswith(changed):
                parameter.add_(1e-3)
    assert worst(largest_differences(yardstick, ours, rows_of(data, 8), seed=5)) > TOLERANCE


def test_the_other_mask_is_a_difference(tmp_path: Path, sides: tuple[Yardstick, Ours], data: LeaveOneOut) -> None:
    yardstick, _ = sides
    other = Ours(SIZES, yardstick.device, data_path=str(tmp_path), dataset="small", overrides={"mask_mode": "key"})
    copy_weights(yardstick.model, other.model)
    assert worst(largest_differences(yardstick, other, rows_of(data, 8), seed=5)) > 1e-3


def test_not_a_number_is_the_worst_difference() -> None:
    assert np.isnan(worst({"case": {"loss": float("nan"), "scores": 0.0}}))


def test_lambda_per_position_shares_one_draw_among_the_pads() -> None:
    tokens = torch.arange(2 * 3).float().reshape(2, 3, 1)
    rows = Rows([[7], [8, 9, 4]], torch.tensor([1, 2]))
    laid_out = lambda_per_position(tokens, rows, 3)[..., 0]
    assert laid_out.tolist() == [[0, 0, 1], [3, 4, 5]]


def test_both_sides_learn_from_their_steps(sides: tuple[Yardstick, Ours], data: LeaveOneOut) -> None:
    rows = rows_of(data, 24)
    for side in sides:
        before = side.model.item_embedding.weight.detach().clone()
        assert side.train_on([side.batch(rows)] * 2) == 48
        moved = (side.model.item_embedding.weight.detach() - before).abs()
        assert 1e-4 < moved.max().item() < 1e-2  # two steps of Adam at 0.001
        assert side.recommend_to(side.batch(rows)).shape == (24, N_ITEMS + 1)


def test_ratios_are_taken_pair_by_pair() -> None:
    pairs = [{"yardstick": 1.0, "ours": 10.0}, {"yardstick": 2.0, "ours": 8.0}, {"yardstick": 4.0, "ours": 20.0}]
    summary = summarise(pairs)
    assert summary["ratio"] == {"median": 5.0, "min": 4.0, "max": 10.0}
    assert summary["yardstick"] == {"median": 2.0, "min": 1.0, "max": 4.0}


def test_the_command_names_no_folder_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        "/somewhere/speed_diffurec.py",
        "--data_path=/private/place/data",
        "--output",
        "/private/x.json",
        "--steps=2",
    ]
    monkeypatch.setattr(sys, "argv", given)
    assert command_line() == "python benchmarks/speed_diffurec.py --data_path=data --output x.json --steps=2"
    monkeypatch.setattr("sys.argv", ["/somewhere/few_steps.py", "--runs=A=/private/one B=runs/two", "--steps=2"])
    assert command_line() == 'python benchmarks/few_steps.py --runs="A=one B=runs/two" --steps=2'


@pytest.fixture
def small_dataset(tmp_path: Path) -> Path:
    (tmp_path / "small").mkdir()
    generator = np.random.default_rng(2)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(12):
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(generator.permutation(20)[:9])]
    (tmp_path / "small" / "small.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def run_command(monkeypatch: pytest.MonkeyPatch, data_path: Path, *more: str) -> int:
    command = ["speed_diffurec.py", f"--data_path={data_path}", "--dataset=small", "--try_out", *more]
    monkeypatch.setattr(sys, "argv", [*command, f"--output={data_path / 'speed.json'}"])
    return speed_diffurec.main()


def test_the_command_writes_rates_ratios_and_evaluation(monkeypatch: pytest.MonkeyPatch, small_dataset: Path) -> None:
    assert run_command(monkeypatch, small_dataset, "--sections=training,inference,evaluation") == 0
    written = json.loads((small_dataset / "speed.json").read_text(encoding="utf-8"))
    assert written["parity"]["worst"] <= TOLERANCE
    for part in ("training", "inference"):
        assert len(written[part]["pairs"]) == 2
        pair = written[part]["pairs"][0]
        assert written[part]["ratio"]["min"] <= pair["ours"] / pair["yardstick"] + 0.0006  # rounded to 3 decimals
        assert written[part]["counts"] is False  # a try-out never counts
    evaluation = written["evaluation"]
    assert evaluation["users"] == 12
    spent = sum(evaluation[f"{part}_seconds"] for part in ("network", "score", "other"))
    assert spent == pytest.approx(evaluation["seconds"], abs=0.01)


@pytest.mark.slow
def test_memory_is_measured_in_processes_of_their_own(tmp_path: Path, small_dataset: Path) -> None:
    output = tmp_path / "speed.json"
    script = Path(speed_diffurec.__file__)
    options = [
        f"--data_path={small_dataset}",
        "--dataset=small",
        "--try_out",
        "--sections=memory",
        f"--output={output}",
    ]
    subprocess.run([sys.executable, str(script), *options], check=True, capture_output=True)
    memory = json.loads(output.read_text(encoding="utf-8"))["memory"]
    for side in ("yardstick", "ours"):  # each figure is rounded to a tenth
        assert memory[side]["growth_mib"] > 0
        assert memory[side]["peak_mib"] - memory[side]["baseline_mib"] == pytest.approx(
            memory[side]["growth_mib"], abs=0.2
        )
    grown = memory["ours"]["growth_mib"] / memory["yardstick"]["growth_mib"]
    assert memory["share"] == pytest.approx(grown, abs=1e-4)


def test_no_ratio_when_the_sides_differ(
    monkeypatch: pytest.MonkeyPatch, small_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, small_dataset, "--sections=training", "--set=mask_mode=key") == 1
    assert not (small_dataset / "speed.json").exists()
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: the two differ by")
    assert "no ratio is reported" in error
