"""Histories and targets follow the times in the file, ids are those of RecBole; checked against direct computations."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_tables import samples, small_rows, table

from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError


def direct_leave_one_out(path: Path, longest: int = 50) -> dict[str, tuple[tuple[str, ...], str, tuple[str, ...], str]]:
    """Per user: validation history and target, test history and target; exact times, ties in file order."""
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    frame.columns = [column.split(":")[0] for column in frame.columns]
    frame["timestamp"] = frame["timestamp"].astype(np.int64)
    frame = frame.sort_values("timestamp", kind="stable")
    found = {}
    for user, rows in frame.groupby("user_id", sort=False):
        items = rows["item_id"].tolist()
        found[str(user)] = (
            tuple(items[:-2][-longest:]),
            items[-2],
            tuple(items[:-1][-longest:]),
            items[-1],
        )
    return found


def built_leave_one_out(dataset: Any) -> dict[str, tuple[tuple[str, ...], str, tuple[str, ...], str]]:
    _, valid, test = (samples(part) for part in dataset.build())
    tests = {user: (history, target) for user, history, target in test}
    assert len(valid) == len(test) == len(tests)
    return {user: (history, target, *tests[user]) for user, history, target in valid}


@pytest.mark.parametrize("normalize_all", [True, False])
def test_ml_100k_targets_follow_exact_times(shared: Path, sequential: Callable[..., Any], normalize_all: bool) -> None:
    expected = direct_leave_one_out(shared / "data" / "ml-100k" / "ml-100k.inter")
    found = built_leave_one_out(sequential(shared / "data", "ml-100k", normalize_all=normalize_all))
    assert len(found) == 943
    assert found == expected


def test_ml_100k_ids_are_those_of_recbole(shared: Path, configured: Callable[..., Any]) -> None:
    from recbole.data.dataset import SequentialDataset

    config = configured(shared / "data", "ml-100k")
    theirs, ours = SequentialDataset(config), checked_dataset(SequentialDataset)(config)
    for field in ("user_id", "item_id"):
        assert ours.field2id_token[field].tolist() == theirs.field2id_token[field].tolist()
        assert ours.field2token_id[field] == theirs.field2token_id[field]
    assert ours.field2type == theirs.field2type
    assert ours.field2seqlen == theirs.field2seqlen
    assert ours.field2source == theirs.field2source
    assert ours.field2bucketnum == theirs.field2bucketnum


def test_float32_keeps_the_order_of_recbole(shared: Path, configured: Callable[..., Any]) -> None:
    """float32 gives RecBole's rows one for one, false ties included; on ml-100k they are not the exact ones."""
    from recbole.data.dataset import SequentialDataset

    config = configured(shared / "data", "ml-100k", time_precision="float32", normalize_all=False)
    theirs = [samples(part) for part in SequentialDataset(config).build()]
    ours = [samples(part) for part in checked_dataset(SequentialDataset)(config).build()]
    assert ours == theirs
    exact = direct_leave_one_out(shared / "data" / "ml-100k" / "ml-100k.inter")
    assert sum(exact[user][2:] == (history, target) for user, history, target in ours[2]) == 43


def test_amazon_beauty_targets_of_every_user(shared: Path, sequential: Callable[..., Any]) -> None:
    expected = direct_leave_one_out(shared / "data" / "amazon-beauty" / "amazon-beauty.inter")
    found = built_leave_one_out(sequential(shared / "data", "amazon-beauty"))
    assert len(found) == 22363
    assert found == expected


def test_item_features_are_those_of_recbole(shared: Path, configured: Callable[..., Any]) -> None:
    from recbole.data.dataset import Dataset

    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "release_year", "class"]}
    config = configured(shared / "data", "ml-100k", load_col=columns)
    theirs, ours = Dataset(config), checked_dataset(Dataset)(config)
    theirs._change_feat_format()
    ours._change_feat_format()
    assert theirs.item_feat.columns == ours.item_feat.columns == ["item_id", "release_year", "class"]
    for field in columns["item"]:
        assert (theirs.item_feat[field] == ours.item_feat[field]).all()
        assert theirs.field2id_token[field].tolist() == ours.field2id_token[field].tolist()


def test_times_closer_than_float32_tells_apart(written: Callable[..., Path], sequential: Callable[..., Any]) -> None:
    """Seconds apart near 1.7e9, where float32 steps are 128: file order is reversed, so that a false tie would show."""
    rows = [("u", f"i{k}", str(1_700_000_000 + k)) for k in range(6)][::-1]
    folder = written(table(rows))
    assert samples(sequential(folder, "toy").build()[2]) == [("u", ("i0", "i1", "i2", "i3", "i4"), "i5")]
    coarse = sequential(folder, "toy", time_precision="float32").build()[2]
    assert samples(coarse) == [("u", ("i5", "i4", "i3", "i2", "i1"), "i0")]


@pytest.mark.parametrize(
    "times",
    [
        [f"131889600000000000{k}" for k in range(6)],  # nanoseconds: 256 apart in float64
        [f"1700000000.00000000{k}" for k in range(6)],  # 2.4e-7 apart in float64
        [f"-{9 - k}00000000000000000{9 - k}" for k in range(6)],
        ["9007199254740992", "9007199254740993", "9007199254740993.5", "9007199254740994", "9.1e15", "1e17"],
    ],
)
def test_times_closer_than_float64_tells_apart(
    written: Callable[..., Path], sequential: Callable[..., Any], times: list[str]
) -> None:
    rows = [("u", f"i{k}", time) for k, time in enumerate(times)]
    folder = written(table(rows[::-1]))
    for settings in ({}, {"user_inter_num_interval": "[5,inf)"}):
        dataset = sequential(folder, "toy", **settings)
        assert samples(dataset.build()[2]) == [("u", ("i0", "i1", "i2", "i3", "i4"), "i5")]
        assert set(dataset.field2type) == {"user_id", "item_id", "timestamp"} | {
            "item_id_list", "timestamp_list", "item_length"
        }  # fmt: skip


def test_different_spellings_of_one_time_are_a_tie(
    written: Callable[..., Path], sequential: Callable[..., Any]
) -> None:
    times = ["1e17", "100000000000000000", "100000000000000000.0", "100000000000000001"]
    folder = written(table([("u", f"i{k}", time) for k, time in enumerate(times)]))
    assert samples(sequential(folder, "toy").build()[2]) == [("u", ("i0", "i1", "i2"), "i3")]


def test_sorting_is_stable_and_global_for_general_models(
    written: Callable[..., Path], configured: Callable[..., Any]
) -> None:
    """A general model with order TO: the ratio split takes the exactly last interactions of all users together."""
    from recbole.data.dataset import Dataset

    rng = np.random.default_rng(5)
    times = rng.permutation(40) + 1_700_000_000
    rows = [(f"u{k % 4}", f"i{k}", str(time)) for k, time in enumerate(times)]
    arguments = {"split": {"RS": [0.5, 0.25, 0.25]}, "order": "TO", "group_by": None, "mode": "full"}
    config = configured(written(table(rows)), "toy", model="Pop", eval_args=arguments)
    parts = checked_dataset(Dataset)(config).build()
    tokens = [part.field2id_token["item_id"][part.inter_feat["item_id"].numpy()].tolist() for part in parts]
    in_order = [item for _, item, _ in sorted(rows, key=lambda row: int(row[2]))]
    assert tokens == [in_order[:20], in_order[20:30], in_order[30:]]


def test_random_order_is_left_to_recbole(shared: Path, configured: Callable[..., Any]) -> None:
    import torch
    from recbole.data.dataset import Dataset

    arguments = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
    config = configured(shared / "data" / "bad", "timestamp-out-of-order", model="Pop", eval_args=arguments)
    found = []
    for made in (Dataset, checked_dataset(Dataset)):
        torch.manual_seed(3)
        found.append([part.inter_feat["item_id"].tolist() for part in made(config).build()])
    assert found[0] == found[1]


@pytest.mark.parametrize(("keep", "items"), [("first", ["a", "b", "c", "d"]), ("last", ["b", "c", "a", "d"])])
def test_removing_duplicates_goes_by_exact_time(
    written: Callable[..., Path],
    sequential: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    keep: str,
    items: list[str],
) -> None:
    times = {"a": 0, "b": 1, "c": 2, "d": 4}
    rows = [("u", item, str(1_700_000_000 + time)) for item, time in times.items()] + [("u", "a", "1700000003")]
    with caplog.at_level("INFO"):
        dataset = sequential(written(table(rows[::-1])), "toy", rm_dup_inter=keep)
    assert samples(dataset.build()[2]) == [("u", tuple(items[:-1]), items[-1])]
    assert "rm_dup_inter drops 1 interactions" in caplog.text


def test_pre_split_files_keep_their_rows(written: Callable[..., Path], configured: Callable[..., Any]) -> None:
    """benchmark_filename: which part a row belongs to is its position, so nothing may be sorted."""
    from recbole.data.dataset import Dataset

    rows = small_rows()[::-1]
    folder = written(table(rows[:12]), suffix=".train.inter")
    written(table(rows[12:18]), suffix=".valid.inter")
    written(table(rows[18:]), suffix=".test.inter")
    config = configured(folder, "toy", model="Pop", benchmark_filename=["train", "valid", "test"])
    parts = checked_dataset(Dataset)(config).build()
    found = [part.field2id_token["item_id"][part.inter_feat["item_id"].numpy()].tolist() for part in parts]
    assert found == [[row[1] for row in rows[a:b]] for a, b in ((0, 12), (12, 18), (18, 24))]


def test_unknown_precision_is_refused(written: Callable[..., Path], sequential: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="time_precision is 'double'; allowed: exact, float32"):
        sequential(written(table(small_rows())), "toy", time_precision="double")


def test_made_classes_are_cached_and_their_instances_copy_and_pickle(
    written: Callable[..., Path], sequential: Callable[..., Any]
) -> None:
    from recbole.data.dataset import KnowledgeBasedDataset, SequentialDataset

    made = checked_dataset(SequentialDataset)
    assert checked_dataset(SequentialDataset) is made
    assert checked_dataset(made) is made
    assert issubclass(made, SequentialDataset)
    assert checked_dataset(KnowledgeBasedDataset) is not made
    with pytest.raises(TypeError, match="takes a RecBole dataset class"):
        checked_dataset(dict)
    train = sequential(written(table(small_rows())), "toy").build()[0]
    for other in (copy.copy(train), pickle.loads(pickle.dumps(train))):  # noqa: S301
        assert type(other) is made
        assert samples(other) == samples(train)


def test_model_specific_dataset(written: Callable[..., Path], configured: Callable[..., Any]) -> None:
    from recbole.data.dataset import DIENDataset

    times = {"LABEL_FIELD": "label", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
    rows = small_rows()
    config = configured(written(table(rows[::-1])), "toy", model="DIEN", **times)
    train, valid, test = checked_dataset(DIENDataset)(config).build()
    assert samples(test)[0][1:] == (("i0", "i1", "i2", "i3", "i4"), "i5")
    assert (len(train), len(valid), len(test)) == (12, 4, 4)
