"""Trained runs to recommend with, tiny ones on made data."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from recbole_diffusion.quick_start import RunResult, run
from recbole_diffusion.ray_session import ray_running

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


@pytest.fixture(scope="package")  # not the session: other packages start a Ray of their own in this process
def ray_here() -> Iterator[None]:
    """A Ray of this process with two cores, unless one runs already."""
    pytest.importorskip("ray.data")
    import ray

    if ray.is_initialized():
        yield
        return
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with ray_running(num_cpus=2, temp_dir=folder, object_store_memory=200 * 2**20):
        yield
    shutil.rmtree(folder, ignore_errors=True)


HISTORIES = 90


@pytest.fixture(scope="session")
def histories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 90 users with 0 to 11 items each, some of them unknown."""
    draw = random.Random(0)
    rows = [[f"i{draw.randrange(42)}" for _ in range(draw.randrange(12))] for _ in range(HISTORIES)]
    path = tmp_path_factory.mktemp("histories") / "in.parquet"
    users = [f"u{number}" for number in range(HISTORIES)]
    pyarrow.parquet.write_table(pyarrow.table({"user_id": users, "item_id": pyarrow.array(rows)}), path)
    return path
