"""The figures of DimeRec's parts: hits counted by hand, cosines, and a run's folder as its own evaluation has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from dimerec_parts import Hits, item_cosine, main, parts, table

from recbole_diffusion import run
from recbole_diffusion.config import RunConfig
from recbole_diffusion.models.dimerec import DimeRec
from tests.models.tiny import Items, interaction

ROWS, TARGETS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8]], [5, 6, 7]
TINY = {"hidden_size": 16, "MAX_ITEM_LIST_LENGTH": 8, "item_init_std": 0.3, "use_gpu": False}


def tiny(**keys: Any) -> DimeRec:
    torch.manual_seed(0)
    return DimeRec(RunConfig("DimeRec", "tiny", (), {**TINY, **keys}), Items(30)).eval()


def loader(rows: list[list[int]] = ROWS) -> list[tuple[Any, None, torch.Tensor, torch.Tensor]]:
    targets = torch.tensor(TARGETS[: len(rows)])
    return [(interaction(rows, targets.tolist()), None, torch.arange(len(rows)), targets)]


def test_hits_by_hand() -> None:
    """Users that are items rank these first; a row of several targets counts its best one."""
    model, hits = tiny(score="cosine"), Hits((1, 3))
    users = model.item_vectors()[[5, 6, 9]][:, None]
    hits.add(users, (interaction(ROWS, TARGETS), None, torch.tensor([0, 1, 1, 2]), torch.tensor([5, 29, 6, 1])), model)
    means = hits.means()
    assert means["hit@1"] == means["ndcg@1"] == pytest.approx(2 / 3)
    assert means["hit@3"] >= 2 / 3


def test_mean_cosine_of_items() -> None:
    table_ = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    assert item_cosine(table_) == pytest.approx(-1 / 3)  # 0, 0 and -1
    assert item_cosine(torch.ones(5, 3)) == pytest.approx(1.0)


def test_the_figures_of_a_model() -> None:
    model = tiny(walk_scale="ddpm_project", reverse_noise="sqrt_posterior", num_steps=5)
    found = parts(model, loader(), [1, 2, 3], (5, 10), (1, 5))
    assert found["rows"] == 3 and -1 <= found["seed_cosine"] < 0.9999
    assert found["steps"][5] == parts(model, loader(), [1], (5, 10))["chain"]
    quiet = tiny(reverse_noise="none", num_steps=1)
    with torch.no_grad():
        quiet.denoiser.of_x.weight.zero_()
    alone = parts(quiet, loader(), [1, 2], (5,))
    assert alone["seed_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert alone["chain_deviation"] == {"hit@5": 0.0, "ndcg@5": 0.0}
    assert model.options.eval_seed == 2023
    text = table({"one": found})
    assert text.count("\n") == 5 and "| one | chain |" in text and "| | guidance |" in text


def test_a_run_from_its_folder(small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = {"epochs": 1, "hidden_size": 16, "topk": [10], "num_threads": 1, "use_gpu": False}
    result = run("DimeRec", "small", keys, data_path=small_data, output=tmp_path, show_progress=False)
    assert main([str(result.folder), "--seeds=1", "--topk=10", f"--json={tmp_path / 'parts.json'}"]) == 0
    out = capsys.readouterr().out
    assert f"{result.test_result['hit@10']:.4f} ± 0.0000 | {result.test_result['ndcg@10']:.4f}" in out
    assert (tmp_path / "parts.json").is_file()
