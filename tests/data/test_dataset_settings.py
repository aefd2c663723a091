"""properties/dataset: the papers' filters, which leave 5-core data as it is and make the rest 5-core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from recbole_diffusion.data import download

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


# Files made in the shape of RecBole's downloads that are not at hand: header, and a row for user, item and time.
STEAM = (
    "user_id:token\tplay_hours:float\tproducts:token\tproduct_id:token\tpage_order:float\ttimestamp:float\t"
    "early_access:token\tpage:float\tfound_funny:token\tcompensation:token",
    "{user}\t1.5\t41\t{item}\t0\t{time}\tfalse\t3\t\t",
)
RATINGS = ("user_id:token\titem_id:token\trating:float\ttimestamp:float", "{user}\t{item}\t4.5\t{time}")
BUYS = (
    "session_id:token\ttimestamp:float\titem_id:token\tprice:float\tquantity:float",
    "{user}\t{time}\t{item}\t0\t0",
)
CLICKS = ("session_id:token\ttimestamp:float\titem_id:token\tcategory:token", "{user}\t{time}\t{item}\tS")
PREPARED = ("user_id:token\titem_id:token\ttimestamp:float", "{user}\t{item}\t{time}")

MADE = [
    ("steam", STEAM, 5),
    ("steam-merged", STEAM, 5),
    ("steam-not-merged", STEAM, 5),
    ("ml-10m", RATINGS, 5),
    ("amazon-books", RATINGS, 5),
    ("amazon-book", RATINGS, 5),
    ("yoochoose", BUYS, 3),
    ("yoochoose-buys-merged", BUYS, 3),
    ("yoochoose-buys-not-merged", BUYS, 3),
    ("yoochoose-clicks-merged", CLICKS, 3),
    ("yoochoose-clicks-not-merged", CLICKS, 3),
    ("kuairec", PREPARED, 3),
]


def made_pairs(length: int) -> list[tuple[str, str]]:
    """Interactions of which exactly those of 6 users with ``length`` + 1 items each survive both filters.

    ``short`` has one interaction too few; the item ``rare`` one user too few; ``through`` has enough only with it.
    """
    core = [(f"u{user}", f"i{item}") for user in range(6) for item in range(length + 1)]
    short = [("short", f"i{item}") for item in range(length - 1)]
    through = [("through", item) for item in [*(f"i{item}" for item in range(length - 1)), "rare"]]
    return [*core, *short, *through, *((f"u{user}", "rare") for user in range(3))]


def write_made(folder: Path, name: str, shape: tuple[str, str], length: int) -> list[tuple[str, str]]:
    """Write folder/name/name.inter and return its interactions."""
    header, row = shape
    pairs = made_pairs(length)
    lines = [row.format(user=user, item=item, time=1396809898 + place) for place, (user, item) in enumerate(pairs)]
    (folder / name).mkdir()
    (folder / name / f"{name}.inter").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return pairs


@pytest.mark.parametrize(("name", "shape", "length"), MADE, ids=[name for name, _, _ in MADE])
def test_filters_on_files_of_the_shape_of_the_download(
    tmp_path: Path, sequential: Callable[..., Any], name: str, shape: tuple[str, str], length: int
) -> None:
    pairs = write_made(tmp_path, name, shape, length)
    dataset = sequential(tmp_path, name, files=[PROPERTIES / f"{name}.yaml"])
    kept = {(user, item) for user, item in pairs if user[0] == "u" and item != "rare"}
    tokens = [dataset.field2id_token[field] for field in (dataset.uid_field, dataset.iid_field)]
    found = {
        (tokens[0][user], tokens[1][item])
        for user, item in dataset.inter_feat[[dataset.uid_field, dataset.iid_field]].to_numpy()
    }
    assert found == kept
    assert len(dataset.inter_feat) == 6 * (length + 1)
    assert len(pairs) > len(kept)


@pytest.mark.parametrize(("name", "shape"), [("steam", STEAM), ("yoochoose", BUYS)])
def test_other_names_of_user_and_item_go_through_a_run(tmp_path: Path, name: str, shape: tuple[str, str]) -> None:
    from recbole_diffusion import quick_start

    write_made(tmp_path, name, shape, 5)
    small = {"epochs": 1, "n_layers": 1, "n_heads": 1, "hidden_size": 8, "inner_size": 8, "use_gpu": False}
    quiet = {"show_progress": False, "topk": [3], "valid_metric": "NDCG@3", "cache": False}
    result = quick_start.run("SASRec", name, {**small, **quiet}, data_path=tmp_path, output=tmp_path / "runs")
    assert 0 <= result.test_result["ndcg@3"] <= 1
    assert result.test_result["hit@3"] >= result.test_result["ndcg@3"]


def test_every_name_of_the_papers_is_one_that_recbole_downloads() -> None:
    table = download.url_table()
    for paper, recbole in download.OTHER_NAMES.items():
        assert recbole in table
        assert paper not in table
        assert (PROPERTIES / f"{paper}.yaml").is_file()
        ours, theirs = (yaml.safe_load((PROPERTIES / f"{name}.yaml").read_text("utf-8")) for name in (paper, recbole))
        assert ours == theirs


def test_files_hold_known_keys_only() -> None:
    known = {"load_col", "user_inter_num_interval", "item_inter_num_interval", "USER_ID_FIELD", "ITEM_ID_FIELD"}
    files = sorted(PROPERTIES.glob("*.yaml"))
    assert len(files) >= 5
    for path in files:
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) <= known, path.name
