"""RecBole's own models run through the same call and end in the same result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.quick_start import evaluate, run

SMALL: dict[str, dict[str, Any]] = {
    "SASRec": {"hidden_size": 16, "inner_size": 32},
    "GRU4Rec": {"embedding_size": 16, "hidden_size": 16},
    "BERT4Rec": {"hidden_size": 16, "inner_size": 32},
    "Caser": {"embedding_size": 16},
    "NARM": {"embedding_size": 16, "hidden_size": 16},
    "STAMP": {"embedding_size": 16},
    "Pop": {},
    "MultiVAE": {"mlp_hidden_size": [32], "latent_dimension": 8},
    "DiffRec": {"dims_dnn": [16], "steps": 3},
    "LDiffRec": {"dims_dnn": [16], "steps": 3, "in_dims": [16], "out_dims": []},
}


@pytest.mark.parametrize("model", SMALL)
def test_trains_tests_and_is_read_back(model: str, small_data: Path, tmp_path: Path) -> None:
    sequential = model in ("SASRec", "GRU4Rec", "BERT4Rec", "Caser", "NARM", "STAMP")
    keys: dict[str, Any] = {
        "epochs": 2,
        "train_batch_size": 128,
        "use_gpu": False,
        "show_progress": False,
        **SMALL[model],
    }
    if sequential:
        keys["MAX_ITEM_LIST_LENGTH"] = 10
    result = run(model, "small", keys, data_path=small_data, output=tmp_path / "runs")
    stored = json.loads((result.folder / "result.json").read_text())
    assert stored["test_result"] == result.test_result
    assert set(result.test_result) == {f"{metric}@{k}" for metric in ("hit", "ndcg") for k in (5, 10, 20)}
    assert all(0 <= value <= 1 for value in result.test_result.values())
    assert result.test_result["hit@20"] > 0
    if model in ("BERT4Rec", "DiffRec", "LDiffRec"):
        return  # their masks or noise are drawn anew at every evaluation
    again = evaluate(result.folder, output=tmp_path / "again", show_progress=False)
    assert again.test_result == pytest.approx(result.test_result, abs=1e-6)


def test_popularity_by_hand(tmp_path: Path) -> None:
    """Pop ranks by count of the training part (all but the last two of each user)."""
    rows = [("a", "x y z p q"), ("b", "x y z q p"), ("c", "x y w p x"), ("d", "y x w q y"), ("e", "x w v q x")]
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user, items in rows:
        lines += [f"{user}\t{item}\t{time}" for time, item in enumerate(items.split())]
    (tmp_path / "hand").mkdir()
    (tmp_path / "hand" / "hand.inter").write_text("\n".join(lines) + "\n")
    # batches of one row: RecBole's Pop counts an item once a batch however often it stands there
    keys = {"topk": [1], "valid_metric": "Hit@1", "show_progress": False, "train_batch_size": 1}
    result = run("Pop", "hand", keys, data_path=tmp_path, output=tmp_path / "runs")
    # counts x 5, y 4, w 3, z 2, v 1, so everybody is offered x (what was seen stays a candidate); the test items are q
    # p x y x
    assert result.test_result["hit@1"] == pytest.approx(0.4)
    assert result.valid_result["hit@1"] == 0.0


@pytest.mark.parametrize("model", ["ItemKNN", "EASE", "LightGCN"])
def test_what_a_model_keeps_beside_its_weights(model: str, small_data: Path, tmp_path: Path) -> None:
    """Sparse matrices, arrays, values that are None before the first validation."""
    keys = {"epochs": 2, "eval_step": 2, "train_batch_size": 128, "use_gpu": False, "show_progress": False}
    result = run(model, "small", keys, data_path=small_data, output=tmp_path / "runs")
    again = evaluate(result.folder, output=tmp_path / "again", show_progress=False)
    assert again.test_result == pytest.approx(result.test_result, abs=1e-6)
