"""One Ray for all sweeps of these tests, and a sweep that nothing disturbed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.ray_session import ray_running
from tests.smallest_run import SMALLEST

pytest.importorskip("ray")
ROOT = Path(__file__).resolve().parents[2]

TINY: dict[str, Any] = {**SMALLEST, "epochs": 4}
SPACE: dict[str, Any] = {"learning_rate": {"loguniform": [1e-3, 1e-1]}, "hidden_dropout_prob": {"choice": [0.0, 0.2]}}


@pytest.fixture(scope="package")  # not the session: other packages start a Ray of their own in this process
def ray_cluster() -> Iterator[str]:
    """A Ray of this test session's own; its address."""
    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    with ray_running(num_cpus=2, temp_dir=place, object_store_memory=200 * 2**20) as ray:
        yield ray.get_runtime_context().gcs_address
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="package")
def undisturbed(ray_cluster: str, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished sweep of four trials of SASRec."""
    from recbole_diffusion.tuning.sweep import tune

    place = tmp_path_factory.mktemp("sweeps")
    config = {**TINY, "cache_dir": str(place / "cache")}
    return tune("SASRec", "small", SPACE, config, data_path=small_data, storage_path=place, num_trials=4)


def driver_environment() -> dict[str, str]:
    """The environment of a driver in a process of its own that uses this session's Ray."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
