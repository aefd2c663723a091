"""DiffuRecSys's speed benchmark compares two things that compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison import Comparison
from contestants import TOLERANCE, Ours, Yardstick, copy_weights, largest_differences, worst
from leave_one_out import LeaveOneOut
from reference_diffurecsys import DiffuRecSysSizes, ReferenceDiffuRecSys
from speed_diffurec import main
from speed_diffurecsys import DIFFURECSYS

from recbole_diffusion.denoisers.efficient_attention import PaddedCondition
from recbole_diffusion.diffusion.noise import GlobalNoise

N_ITEMS = 30


def sides_of(stack: str, folder: Path) -> tuple[Yardstick, Ours]:
    sizes = DiffuRecSysSizes(N_ITEMS + 1, hidden_size=16, n_layers=3, n_heads=4, max_length=7, num_steps=5, stack=stack)
    torch.manual_seed(1)
    device = torch.device("cpu")
    yardstick = Yardstick(sizes, device, ReferenceDiffuRecSys)
    with torch.no_grad():  # norms and biases away from where they start, so that a swapped pair shows
        for name, parameter in yardstick.model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    ours = Ours(
        sizes,
        device,
        data_path=str(folder),
        dataset="small",
        overrides={"stack": stack},
        model="DiffuRecSys",
        padding_token=False,
    )
    copy_weights(yardstick.model, ours.model, DIFFURECSYS.block_parts, DIFFURECSYS.block_joined)
    return yardstick, ours


@pytest.fixture(scope="module")
def data() -> LeaveOneOut:
    generator = np.random.default_rng(0)
    lengths = [3, 4, 5, 6, 8, 9, 10, 12, 15]
    return LeaveOneOut([(1 + generator.permutation(N_ITEMS)[:length]).tolist() for length in lengths], N_ITEMS)


@pytest.mark.parametrize("stack", ["last_only", "sequential"])
def test_ours_computes_what_the_yardstick_computes(stack: str, tmp_path: Path, data: LeaveOneOut) -> None:
    yardstick, ours = sides_of(stack, tmp_path)
    rows = data.random_prefixes(24, np.random.default_rng(3), 7)
    lengths = {len(history) for history in rows.histories}
    assert (min(lengths), max(lengths)) == (1, 7)  # a row without padding is among them
    assert worst(largest_differences(yardstick, ours, rows, seed=5)) <= TOLERANCE


def test_training_draws_from_the_yardsticks_distribution(tmp_path: Path) -> None:
    """With dropout on: mean and deviation of x_0_hat over many draws; one dropout for all padding would show."""
    sizes = DiffuRecSysSizes(N_ITEMS + 1, hidden_size=16, n_layers=1, n_heads=4, max_length=20, num_steps=5)
    torch.manual_seed(0)
    yardstick = Yardstick(sizes, torch.device("cpu"), ReferenceDiffuRecSys)
    ours = Ours(
        sizes,
        yardstick.device,
        data_path=str(tmp_path),
        dataset="small",
        overrides={},
        model="DiffuRecSys",
        padding_token=False,
    )
    copy_weights(yardstick.model, ours.model, DIFFURECSYS.block_parts, DIFFURECSYS.block_joined)
    yardstick.model.train()
    ours.model.train()
    draws, items = 500, torch.tensor([[3, 7, 4, 9, 11, 2, 15, 8]])
    history = torch.nn.functional.pad(items, (12, 0)).repeat(draws, 1)
    x_t, t = torch.zeros(draws, 16), torch.zeros(draws, dtype=torch.long)

    def one_draw(share_dropout: bool) -> torch.Tensor:
        condition = ours.model.condition(items, torch.tensor([8]))
        if share_dropout:
            counts = condition.counts.sum(1, keepdim=True)
            condition = PaddedCondition(condition.tokens, condition.layout, condition.padding[:1], counts)
        return ours.model.denoiser(x_t[:1], t[:1], condition, noise=GlobalNoise())

    with torch.no_grad():
        vectors = yardstick.model.history_vectors(history)
        expected = yardstick.model.denoised(vectors, (history > 0).float(), x_t, t)
        got, shared = (torch.cat([one_draw(kind) for _ in range(draws)]) for kind in (False, True))

    def off(drawn: torch.Tensor) -> tuple[float, float]:
        """Difference of means in units of what sampling explains, and ratio of deviations."""
        explained = (drawn.var(0) + expected.var(0)).mean().div(draws).sqrt()
        means = (drawn.mean(0) - expected.mean(0)).square().mean().sqrt()
        return float(means / explained), float(drawn.std(0).mean() / expected.std(0).mean())

    assert off(got)[0] < 1.5
    assert off(got)[1] == pytest.approx(1.0, abs=0.05)
    assert off(shared)[0] > 1.5
    assert off(shared)[1] > 1.1


@pytest.mark.parametrize(
    "changed", ["denoiser.blocks.2.cross_attention.key_value", "denoiser.blocks.2.self_attention.projection"]
)
def test_a_difference_is_seen(changed: str, tmp_path: Path, data: LeaveOneOut) -> None:
    yardstick, ours = sides_of("last_only", tmp_path)
    with torch.no_grad():
        for name, parameter in ours.model.named_parameters():
            if name.startswith(changed):
                parameter.add_(1e-2 * torch.randn_like(parameter))
    rows = data.random_prefixes(8, np.random.default_rng(3), 7)
    assert worst(largest_differences(yardstick, ours, rows, seed=5)) > TOLERANCE


@pytest.mark.parametrize("more", [[], ["--every_block"], ["--stack=sequential"]])
def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "small").mkdir()
    generator = np.random.default_rng(2)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(12):
        lines += [f"u{user}\ti{item}\t{time}" for time, item in enumerate(generator.permutation(20)[:9])]
    (tmp_path / "small" / "small.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["speed_diffurecsys.py", f"--data_path={tmp_path}", "--dataset=small", "--try_out"]
    output = tmp_path / "speed.json"
    monkeypatch.setattr("sys.argv", [*words, "--sections=training,inference", f"--output={output}", *more])
    assert main(DIFFURECSYS) == 0
    written = json.loads(output.read_text(encoding="utf-8"))
    assert written["benchmark"] == "speed_diffurecsys"
    assert written["settings"]["model"] == "DiffuRecSys"
    assert written["settings"]["every_block"] is ("--every_block" in more)
    assert written["parity"]["worst"] <= TOLERANCE
    assert written["training"]["yardstick_floor"] is None


def test_the_script_is_where_memory_is_measured() -> None:
    assert isinstance(DIFFURECSYS, Comparison)
    assert DIFFURECSYS.script.is_file()
