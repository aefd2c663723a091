"""Trained runs to recommend with, tiny ones on made data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.quick_start import RunResult, run

TINY: dict[str, Any] = {
    "use_gpu": False,
    "show_progress": False,
    "epochs": 1,
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_batch_size": 128,
    "eval_batch_size": 17,
    "topk": [5, 10],
    "save_per_user": "parquet",
}
MODELS: dict[str, dict[str, Any]] = {
    "DiffuRec": {"hidden_size": 8, "n_layers": 1, "n_heads": 2, "num_steps": 4, "item_init_std": 0.5},
    "DreamRec": {"hidden_size": 8, "num_steps": 4},
    "ComiRecSA": {"hidden_size": 8, "n_interests": 2},
    "Popularity": {},
    "SASRec": {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "n_layers": 1},
    "NPE": {"embedding_size": 8},
    "FEARec": {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "n_layers": 2},
}

Train = Callable[..., RunResult]


@pytest.fixture(scope="session")
def trained(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """`trained(model, **keys)`: a run of a tiny model on the small data, made once."""
    made: dict[str, RunResult] = {}

    def train(model: str, **keys: Any) -> RunResult:
        name = f"{model} {sorted(keys.items())}"
        if name not in made:
            output = tmp_path_factory.mktemp("runs")
            config = {**TINY, **MODELS.get(model, {}), **keys}
            made[name] = run(model, "small", config, data_path=small_data, output=output)
        return made[name]

    return train
