"""properties/dataset: the papers' filters, which leave 5-core data as it is and make the rest 5-core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

PROPERTIES = Path(__file__).resolve().parents[2] / "properties" / "dataset"


def five_core(path: Path) -> tuple[int, int, int]:
    """Users, items and interactions of the 5-core of an atomic file, directly."""
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3).iloc[:, :2]
    frame.columns = ["user", "item"]
    while True:
        counts = frame.groupby("user")["item"].transform("size"), frame.groupby("item")["user"].transform("size")
        keep = (counts[0] >= 5) & (counts[1] >= 5)
        if keep.all():
            return frame["user"].nunique(), frame["item"].nunique(), len(frame)
        frame = frame[keep]


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("amazon-beauty", "amazon-beauty", (22363, 12101, 198502)),
        ("amazon-toys", "amazon-toys", (19412, 11924, 167597)),
        ("amazon-toys-games", "amazon-toys", (19412, 11924, 167597)),
        ("ml-100k", "ml-100k", (943, 1349, 99287)),
        ("ml-1m", "ml-1m", (6040, 3416, 999611)),
    ],
)
def test_counts_of_the_papers(
    shared: Path, tmp_path: Path, sequential: Callable[..., Any], name: str, folder: str, expected: tuple[int, int, int]
) -> None:
    source = shared / "data" / folder / f"{folder}.inter"
    (tmp_path / name).mkdir()
    (tmp_path / name / f"{name}.inter").symlink_to(source)
    dataset = sequential(tmp_path, name, files=[PROPERTIES / f"{name}.yaml"])
    assert (dataset.user_num - 1, dataset.item_num - 1, len(dataset.inter_feat)) == expected
    assert five_core(source) == expected


def test_raw_ml_1m_becomes_the_one_of_the_paper(
    shared: Path, tmp_path: Path, sequential: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ml-1m.inter").symlink_to(shared / "data" / "ml-1m-full" / "ml-1m-full.inter")
    with caplog.at_level("INFO"):
        dataset = sequential(tmp_path, "ml-1m", files=[PROPERTIES / "ml-1m.yaml"])
    assert (dataset.user_num - 1, dataset.item_num - 1, len(dataset.inter_feat)) == (6040, 3416, 999611)
    assert "ml-1m: filters keep 999611 of 1000209 interactions: 6040 users, 3416 items" in caplog.text


def test_files_hold_known_keys_only() -> None:
    known = {"load_col", "user_inter_num_interval", "item_inter_num_interval"}
    files = sorted(PROPERTIES.glob("*.yaml"))
    assert len(files) >= 5
    for path in files:
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= known, path.name
