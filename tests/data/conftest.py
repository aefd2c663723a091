"""RecBole configurations and files for the tests of reading."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.compat import apply_patches


@pytest.fixture(autouse=True)
def recbole_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole's Config works on this numpy, and neither takes the test runner's arguments nor leaves traces."""
    apply_patches()
    monkeypatch.setattr(sys, "argv", ["test"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # Config writes it; this puts back what was there


@pytest.fixture
def configured() -> Callable[..., Any]:
    """``configured(folder, name, model=..., files=..., **settings)``: a RecBole Config for the dataset folder/name."""

    def build(folder: Path, name: str, model: str = "SASRec", files: Iterable[Path] = (), **settings: Any) -> Any:
        from recbole.config import Config

        values: dict[str, Any] = {
            "data_path": str(folder),
            "train_neg_sample_args": None,
            "use_gpu": False,
            "show_progress": False,
        }
        if not files:
            values["load_col"] = {"inter": ["user_id", "item_id", "timestamp"]}
        return Config(model, name, config_file_list=[str(file) for file in files], config_dict={**values, **settings})

    return build


@pytest.fixture
def sequential(configured: Callable[..., Any]) -> Callable[..., Any]:
    """``sequential(folder, name, **settings)``: the checked sequential dataset of folder/name, not yet split."""

    def build(folder: Path, name: str, **settings: Any) -> Any:
        from recbole.data.dataset import SequentialDataset

        from recbole_diffusion.data.reading import checked_dataset

        return checked_dataset(SequentialDataset)(configured(folder, name, **settings))

    return build


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """``written(content, name="toy", suffix=".inter")``: writes tmp_path/name/name.inter and returns tmp_path."""

    def write(content: bytes | str, name: str = "toy", suffix: str = ".inter") -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / f"{name}{suffix}").write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path

    return write
