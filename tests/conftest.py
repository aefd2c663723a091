"""Fixtures shared by all tests: where the reference material and datasets lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

# Tests are small: one thread is faster than two that wait for each other, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


ONE_PROCESS = ("tuning", "workers", "recommendation")  # folders whose tests share a Ray


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes (`-n`), the tests of a file, or of a folder that shares a Ray, run in one of them.

    `--dist loadgroup` takes marks for that, which pytest-xdist 3.8 loses with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        """Shares out files, and folders of ONE_PROCESS whole."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            (*_, folder, _) = ("", *file.split("/"))
            return folder if folder in ONE_PROCESS else file

    return ByPlace(config, log)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests leave the user's cache alone; they share one of their own."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def no_anomaly_detection() -> None:
    """Off, as in a run of ours: importing any sequential model of RecBole imports SINE, which turns it on."""
    torch.autograd.set_detect_anomaly(False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference numbers, paper tables and datasets; the test skips where it is absent."""
    given = os.environ.get("RECBOLE_DIFFUSION_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no reference data at {folder} (set RECBOLE_DIFFUSION_SHARED to the folder that holds data/)")
    return folder


def write_interactions(folder: Path, name: str, users: int = 60, items: int = 40, seed: int = 0) -> Path:
    """Write a small dataset ``folder/name/name.inter`` whose next item mostly follows the last one; return `folder`."""
    import random

    draw = random.Random(seed)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(users):
        item = draw.randrange(items)
        for step in range(draw.randrange(5, 14)):
            lines.append(f"u{user}\ti{item}\t{1_300_000_000 + user * 1000 + step}")
            item = (item + 1) % items if draw.random() < 0.8 else draw.randrange(items)
    (folder / name).mkdir(parents=True)
    (folder / name / f"{name}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data path with one dataset, `small`: 60 users, 40 items, 5 to 13 interactions each."""
    return write_interactions(tmp_path_factory.mktemp("data"), "small")
