"""Fixtures shared by all tests: where the reference material and datasets lie."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with the reference numbers, paper tables and datasets; the test skips where it is absent."""
    given = os.environ.get("RECBOLE_DIFFUSION_SHARED")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no reference data at {folder} (set RECBOLE_DIFFUSION_SHARED to the folder that holds data/)")
    return folder
