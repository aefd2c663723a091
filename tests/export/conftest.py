"""Runs to export: tiny models trained on made data, once for all tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.quick_start import RunResult, run

TINY: dict[str, Any] = {
    "use_gpu": False, "show_progress": False, "epochs": 1, "MAX_ITEM_LIST_LENGTH": 6, "train_batch_size": 256,
    "topk": [5], "valid_metric": "NDCG@5", "hidden_size": 8,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "DiffuRec": {"n_layers": 1, "n_heads": 2, "num_steps": 2, "item_init_std": 0.5, "lambda_std": 0.3},
    "DreamRec": {"num_steps": 4},
    "MIND": {"n_interests": 2},
    "SASRecCE": {"n_layers": 1, "n_heads": 2},
    "SASRec": {"inner_size": 16, "n_heads": 2, "n_layers": 1},
}  # fmt: skip

Train = Callable[..., RunResult]


@pytest.fixture(scope="package")
def trained(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`trained(model, **keys)`: a run on the small data, made once."""
    made: dict[str, RunResult] = {}

    def train(model: str, **keys: Any) -> RunResult:
        name = f"{model} {sorted(keys.items())}"
        if name not in made:
            output = tmp_path_factory.mktemp("runs")
            made[name] = run(model, "small", {**TINY, **MODELS[model], **keys}, data_path=small_data, output=output)
        return made[name]

    return train
