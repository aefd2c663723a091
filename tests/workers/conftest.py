"""A Ray for the tests of workers, and small runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.ray_session import ray_running
from recbole_diffusion.workers.ray_training import ENVIRONMENT

from .own_models import FOLDER

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "n_heads": 2,
    "n_layers": 1,
    "num_steps": 4,
    "dropout_prob": 0.0,
    "embedding_dropout_prob": 0.0,
    "item_init_std": 0.1,
    "train_batch_size": 50,
    "epochs": 3,
    "eval_step": 1,
    "use_gpu": False,
    "show_progress": False,
    "train_noise": "keyed",
}


@pytest.fixture(scope="session")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which workers look for an order to die."""
    folder = tmp_path_factory.mktemp("deaths")
    os.environ[FOLDER] = str(folder)
    return folder


@pytest.fixture(scope="package")  # not the session: other packages start a Ray of their own in this process
def ray_here(deaths: Path, own_cache: None) -> Iterator[None]:
    """A Ray of this process's own."""
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with ray_running(environment=ENVIRONMENT, num_cpus=2, temp_dir=folder, object_store_memory=200 * 2**20):
        yield
    shutil.rmtree(folder, ignore_errors=True)
