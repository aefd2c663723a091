"""The loaders of histories against RecBole's own: same examples, splits, batches and losses."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.utils import data_preparation
from recbole.utils import init_seed

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.histories import Histories, Rows, group_by_user
from recbole_diffusion.data.history_length import TRIMMED_RECBOLE_MODELS, needs_fixed_width
from recbole_diffusion.data.loading import BatchPositions, HistoryEvalLoader, HistoryTrainLoader, prepare_loaders
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.data.sequences import ExampleRows
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import resolve_model

NO_DROPOUT = {
    "SASRec": {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0},
    "GRU4Rec": {"dropout_prob": 0.0},
    "BERT4Rec": {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0},
    "NARM": {"dropout_probs": [0.0, 0.0]},
    "STAMP": {},
    "Caser": {"dropout_prob": 0.0},
    "FPMC": {},
    "GCSAN": {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0},
    "HRM": {"dropout_prob": 0.0},
    "SRGNN": {},
    "TransRec": {},
}


def ranked_copy(source: Path, folder: Path, users: int | None = None) -> Path:
    """A copy of a dataset whose times are each row's exact rank, ties in file order, which float32 holds exactly."""
    frame = pd.read_csv(source, sep="\t", dtype=str, keep_default_na=False, quoting=3)
    if users is not None:
        frame = frame[frame["user_id:token"].isin(frame["user_id:token"].unique()[:users])]
    order = np.argsort(pd.to_numeric(frame["timestamp:float"]).to_numpy(), kind="stable")
    rank = np.empty(len(frame), dtype=np.int64)
    rank[order] = np.arange(len(frame))
    assert len(frame) < 2**24
    frame = frame.assign(**{"timestamp:float": rank})[["user_id:token", "item_id:token", "timestamp:float"]]
    name = source.stem
    (folder / name).mkdir()
    frame.to_csv(folder / name / f"{name}.inter", sep="\t", index=False)
    return folder


def settings(folder: Path, name: str, model: str = "SASRec", **keys: Any) -> RunConfig:
    values = {
        "data_path": str(folder),
        "use_gpu": False,
        "cache": False,
        "user_inter_num_interval": None,
        "item_inter_num_interval": None,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "show_progress": False,
    }
    return RunConfig(model, name, (), {**values, **keys})


def assert_same_rows(ours: Any, theirs: Any, fields: tuple[str, ...]) -> None:
    """All rows of a part, in order, histories padded to the full length."""
    assert isinstance(ours.inter_feat, ExampleRows)
    found = ours.inter_feat.part(ours.inter_feat.rows, fixed_width=True)
    assert len(found) == len(theirs.inter_feat)
    for field in fields:
        assert torch.equal(found[field], theirs.inter_feat[field]), field


SPLITS = {
    "leave_one_out": {"LS": "valid_and_test"},
    "test_only": {"LS": "test_only"},
    "ratio": {"RS": [0.8, 0.1, 0.1]},
    "time": {"TS": [0.8, 0.1, 0.1]},
}
FIELDS = ("user_id", "item_id", "item_length", "item_id_list")


def both_paths(config: RunConfig) -> tuple[list[Any], list[Any]]:
    return checked_dataset(SequentialDataset)(config).build(), SequentialDataset(config).build()


@pytest.mark.parametrize(
    ("split", "group_by"),
    [(name, "user") for name in SPLITS] + [("ratio", None)],  # only a split by ratio knows group_by: ~
)
def test_small_data_has_recboles_rows(small_data: Path, split: str, group_by: str | None) -> None:
    mode = {"valid": "full", "test": "full"}
    eval_args = {"split": SPLITS[split], "order": "TO", "group_by": group_by, "mode": mode}
    config = settings(small_data, "small", eval_args=eval_args, MAX_ITEM_LIST_LENGTH=6, time_precision="float32")
    ours, theirs = both_paths(config)
    for part, expected in zip(ours, theirs, strict=True):
        assert_same_rows(part, expected, (*FIELDS, "timestamp", "timestamp_list"))


@pytest.mark.parametrize(
    ("name", "users", "split"),
    [
        ("ml-100k", None, "leave_one_out"),
        ("ml-100k", None, "ratio"),
        ("amazon-beauty", None, "leave_one_out"),
        ("amazon-beauty", None, "time"),
        ("gowalla", 3000, "leave_one_out"),
    ],
)
def test_real_data_has_recboles_rows(shared: Path, tmp_path: Path, name: str, users: int | None, split: str) -> None:
    folder = ranked_copy(shared / "data" / name / f"{name}.inter", tmp_path, users)
    eval_args = {
        "split": SPLITS[split],
        "order": "TO",
        "group_by": "user",
        "mode": {"valid": "full", "test": "full"},
    }
    ours, theirs = both_paths(settings(folder, name, eval_args=eval_args, MAX_ITEM_LIST_LENGTH=20))
    for part, expected in zip(ours, theirs, strict=True):
        assert_same_rows(part, expected, FIELDS)


def test_recboles_own_order_of_rounded_times(shared: Path) -> None:
    """`time_precision: float32` keeps RecBole's false ties, on real Unix seconds."""
    config = settings(shared / "data", "ml-100k", time_precision="float32", MAX_ITEM_LIST_LENGTH=10)
    ours, theirs = both_paths(config)
    for part, expected in zip(ours, theirs, strict=True):
        assert_same_rows(part, expected, (*FIELDS, "timestamp"))


def test_batches_are_recboles_for_two_epochs(small_data: Path) -> None:
    config = settings(small_data, "small", train_batch_size=64, seed=5, time_precision="float32")
    ours = prepare_loaders(config, checked_dataset(SequentialDataset)(config))
    theirs = data_preparation(config, SequentialDataset(config))
    assert isinstance(ours[0], HistoryTrainLoader)
    assert isinstance(ours[2], HistoryEvalLoader)
    for _ in range(2):
        pairs = list(zip(ours[0], theirs[0], strict=True))
        assert len(pairs) == len(ours[0]) == len(theirs[0]) > 5
        for found, expected in pairs:
            width = found["item_id_list"].shape[1]
            assert width == int(expected["item_length"].max())
            assert torch.equal(found["item_id_list"], expected["item_id_list"][:, :width])
            assert torch.equal(found["item_id"], expected["item_id"])
    for found, expected in zip(ours[2], theirs[2], strict=True):
        assert torch.equal(found[0]["item_id"], expected[0]["item_id"])
        assert found[1] is expected[1] is None
        assert torch.equal(found[2], expected[2])
        assert torch.equal(found[3], expected[3])


def first_losses(config: RunConfig, loaders: tuple[Any, Any, Any], weights: dict[str, Any] | None) -> Any:
    """Losses of three batches without optimising, the model and its scores of the first test batch."""
    init_seed(config["seed"], True)
    model = config.entry.model_class(config, loaders[0]._dataset)
    if weights is not None:
        model.load_state_dict(weights)
    random.seed(3)
    model.train()
    losses = []
    for number, batch in enumerate(loaders[0]):
        if number == 3:
            break
        losses.append(float(model.calculate_loss(batch)))
    model.eval()
    with torch.no_grad():
        scores = model.full_sort_predict(next(iter(loaders[2]))[0])
    return losses, model.state_dict(), scores


@pytest.mark.parametrize("model", sorted(NO_DROPOUT))
def test_losses_of_recboles_models_are_those_of_its_own_loader(small_data: Path, model: str) -> None:
    keys = {"train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 12, "time_precision": "float32", **NO_DROPOUT[model]}
    config = settings(small_data, "small", model, **keys)
    dataset_class = config.entry.dataset_class
    theirs = first_losses(config, data_preparation(config, dataset_class(config)), None)
    ours = first_losses(config, prepare_loaders(config, checked_dataset(dataset_class)(config)), theirs[1])
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(ours[2], theirs[2], atol=1e-5, rtol=0)


def test_which_models_need_a_fixed_width() -> None:
    assert set(NO_DROPOUT) == TRIMMED_RECBOLE_MODELS | {"Caser"}
    assert needs_fixed_width(resolve_model("Caser").model_class)
    assert not needs_fixed_width(resolve_model("SASRec").model_class)
    assert not needs_fixed_width(resolve_model("DiffuRec").model_class)

    class Foreign(resolve_model("SASRec").model_class):  # type: ignore[misc]
        """A user's own model, derived from one that does without."""

    assert needs_fixed_width(Foreign)
    Foreign.fixed_width = False
    assert not needs_fixed_width(Foreign)


# ------------------------------------------------------------------------------------------------ order and buckets


def test_positions_in_order_and_shuffled() -> None:
    assert [batch.tolist() for batch in BatchPositions(5, 2)] == [[0, 1], [2, 3], [4]]
    shuffled = BatchPositions(100, 7, torch.Generator().manual_seed(0))
    batches = list(shuffled)
    assert len(batches) == len(shuffled) == 15
    assert sorted(np.concatenate(batches).tolist()) == list(range(100))
    assert [len(batch) for batch in batches] == [7] * 14 + [2]


def test_buckets_hold_rows_of_similar_length_and_every_row_once() -> None:
    lengths = np.random.default_rng(0).integers(1, 51, 1000)
    generator = torch.Generator().manual_seed(1)
    bucketed = BatchPositions(1000, 20, generator, lengths=lengths, bucket_batches=10)
    epochs = [list(bucketed) for _ in range(2)]
    for batches in epochs:
        assert len(batches) == len(bucketed) == 50
        assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
        spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
        assert spread < 12  # of 49; in order of chance it is about 46
    assert [batch.tolist() for batch in epochs[0]] != [batch.tolist() for batch in epochs[1]]


def test_buckets_are_not_in_order_of_length() -> None:
    """Unbiased: over many epochs every row comes equally early, short or long."""
    lengths = np.repeat([1, 50], 40)
    generator = torch.Generator().manual_seed(2)
    bucketed = BatchPositions(80, 8, generator, lengths=lengths, bucket_batches=10)
    place = np.zeros(80)
    epochs = 400
    for _ in range(epochs):
        for number, batch in enumerate(bucketed):
            place[batch] += number
    means = place.reshape(2, 40).mean(1) / epochs
    # the mean place of 10 batches is 4.5; its error over 400 epochs of 5 batches a kind is below 0.1
    assert np.abs(means - 4.5).max() < 0.3


def test_buckets_resume_exactly() -> None:
    lengths = np.random.default_rng(0).integers(1, 51, 300)
    whole = torch.Generator().manual_seed(3)
    first = BatchPositions(300, 16, whole, lengths=lengths, bucket_batches=4)
    list(first)
    state = whole.get_state()
    expected = [batch.tolist() for batch in first]
    again = torch.Generator()
    again.set_state(state)
    resumed = BatchPositions(300, 16, again, lengths=lengths, bucket_batches=4)
    assert [batch.tolist() for batch in resumed] == expected


def test_length_bucketing_trains_on_every_row_once(small_data: Path) -> None:
    config = settings(small_data, "small", train_batch_size=32, length_bucketing=4)
    loader = prepare_loaders(config, checked_dataset(SequentialDataset)(config))[0]
    rows = [(int(u), int(i), int(t)) for b in loader for u, i, t in zip(b["user_id"], b["item_id"], b["item_length"])]
    assert len(rows) == len(loader._dataset)
    assert len(rows) == len({*rows}) or sorted(rows) == sorted(
        zip(*(loader._dataset.inter_feat[name].tolist() for name in ("user_id", "item_id", "item_length")))
    )


# ------------------------------------------------------------------------------------------------ evaluation batches


class Part:
    """What an evaluation loader asks its dataset for."""

    uid_field, iid_field = "user_id", "item_id"

    def __init__(self, rows: ExampleRows) -> None:
        self.inter_feat = rows

    def __len__(self) -> int:
        return len(self.inter_feat)

    def __getitem__(self, index: Any) -> Any:
        return self.inter_feat[index]


def test_several_targets_and_seen_items_by_hand(small_data: Path) -> None:
    from recbole_diffusion.data.sequences import ExampleFields

    users = np.array([1, 1, 1, 1, 1, 2, 2, 2])
    items = np.array([9, 4, 7, 4, 6, 3, 8, 5], dtype=np.uint8)
    histories: Histories = group_by_user(users, {"item_id": items}, n_users=3)
    fields = ExampleFields("user_id", "item_length", "_list", frozenset(), 2, False)
    view = ExampleRows(histories, fields, Rows(np.array([3, 6]), np.array([5, 8])), keep=False)
    config = settings(small_data, "small", filter_seen=True)
    loader = HistoryEvalLoader(config, Part(view), None)
    ((batch, seen, rows, targets),) = list(loader)
    assert batch["item_id_list"].tolist() == [[4, 7], [3, 0]]  # at most two of the history are shown to the model
    assert [part.tolist() for part in seen] == [[0, 0, 0, 1], [9, 4, 7, 3]]  # but all of it counts as seen
    assert rows.tolist() == [0, 0, 1, 1]
    assert targets.tolist() == [4, 6, 8, 5]


def test_loaders_for_sampled_ranking_are_equally_wide(small_data: Path) -> None:
    eval_args = {
        "split": {"LS": "valid_and_test"},
        "order": "TO",
        "group_by": "user",
        "mode": {"valid": "uni5", "test": "uni5"},
    }
    config = settings(small_data, "small", eval_args=eval_args, MAX_ITEM_LIST_LENGTH=12)
    _, valid, _ = prepare_loaders(config, checked_dataset(SequentialDataset)(config))
    interaction, rows, positive_u, positive_i = next(iter(valid))
    assert interaction["item_id_list"].shape[1] == 12
    assert len(interaction) == 6 * len(positive_i) == len(rows)
    assert positive_u.tolist() == list(range(len(positive_i)))


def test_workers_give_the_same_batches(small_data: Path) -> None:
    single = settings(small_data, "small", train_batch_size=128, seed=9)
    several = settings(small_data, "small", train_batch_size=128, seed=9, worker=1)
    loaders = [prepare_loaders(config, checked_dataset(SequentialDataset)(config))[0] for config in (single, several)]
    for found, expected in zip(*loaders, strict=True):
        assert torch.equal(found["item_id_list"], expected["item_id_list"])
        assert torch.equal(found["item_id"], expected["item_id"])


@pytest.fixture
def build(configured: Callable[..., Any]) -> Callable[..., Any]:
    """A checked dataset from RecBole's own Config, which has none of our keys."""

    def made(folder: Path, name: str) -> Any:
        return checked_dataset(SequentialDataset)(configured(folder, name))

    return made


def test_recboles_own_config_suffices(small_data: Path, build: Callable[..., Any]) -> None:
    parts = build(small_data, "small").build()
    assert [len(part) for part in parts] == [365, 60, 60]


# ------------------------------------------------------------------------------------------- what cannot be combined


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"protocol": "user_split_next"}, "protocol is user_split_next, which DIEN cannot have here"),
        ({"filter_seen": True}, "filter_seen is True, which DIEN cannot have here"),
        ({"length_bucketing": 4}, "length_bucketing is 4, which DIEN cannot have here"),
    ],
    ids=str,
)
def test_recboles_own_way_refuses_what_it_does_not_know(small_data: Path, keys: dict[str, Any], message: str) -> None:
    ranking = {"eval_args": {"mode": {"valid": "full", "test": "full"}}, "metrics": ["Hit"], "valid_metric": "Hit@10"}
    config = settings(small_data, "small", "DIEN", **ranking, **keys)
    with pytest.raises(UserError, match=message):
        prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))


def test_a_split_of_a_users_own_is_kept(small_data: Path) -> None:
    class LastThree(SequentialDataset):
        """Leaves three out, in a way of its own."""

        def leave_one_out(self, group_by: str, leave_one_mode: str) -> list[Any]:
            parts = super().leave_one_out(group_by, leave_one_mode)
            return [*parts[:2], parts[2].copy(parts[2].inter_feat[list(range(3))])]

    config = settings(small_data, "small")
    loaders = prepare_loaders(config, checked_dataset(LastThree)(config))
    assert len(loaders[2]._dataset) == 3


def test_one_cut_a_user_without_shuffle_draws_from_all_users(small_data: Path) -> None:
    keys = {"protocol": "user_split_multi", "min_history": 1, "one_cut_per_user": True, "shuffle": False}
    config = settings(small_data, "small", train_batch_size=16, **keys)
    loader = prepare_loaders(config, checked_dataset(SequentialDataset)(config))[0]
    epochs = [torch.cat([batch["user_id"] for batch in loader]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted({*epochs[0]})
    assert len(epochs[0]) == len({*loader._dataset.inter_feat["user_id"].tolist()})
    assert epochs[0] == epochs[1]  # the users in their order, each with another cut


@pytest.mark.parametrize(("shuffle", "bucketing"), [(True, None), (True, 2), (False, None)])
def test_one_cut_a_user_is_another_one_in_each_epoch(small_data: Path, shuffle: bool, bucketing: int | None) -> None:
    """A user with several rows gets several of them over the epochs; a second loader repeats every epoch's cuts."""
    keys: dict[str, Any] = {"protocol": "user_split_multi", "min_history": 1, "one_cut_per_user": True}
    config = settings(small_data, "small", train_batch_size=16, length_bucketing=bucketing, shuffle=shuffle, **keys)

    def cuts(epochs: int) -> list[dict[int, int]]:
        loader = prepare_loaders(config, checked_dataset(SequentialDataset)(config))[0]
        rows = loader._dataset.inter_feat
        users, lengths = rows["user_id"].numpy(), rows["item_length"].numpy()
        found = []
        for _ in range(epochs):
            index = np.concatenate(list(loader.sampler))
            found.append(dict(zip(users[index].tolist(), lengths[index].tolist(), strict=True)))
        return found

    first, second, *_ = epochs = cuts(60)
    several = sum(len({epoch[user] for epoch in epochs}) > 1 for user in first)
    assert several == len(first)  # every user has four rows or more
    assert sum(first[user] != second[user] for user in first) > len(first) / 2
    assert len({tuple(sorted(epoch.items())) for epoch in epochs}) == 60
    assert cuts(3) == epochs[:3]


def test_length_bucketing_without_shuffle_is_refused(small_data: Path) -> None:
    config = settings(small_data, "small", length_bucketing=4, shuffle=False)
    with pytest.raises(UserError, match="length_bucketing sorts shuffled rows"):
        prepare_loaders(config, checked_dataset(SequentialDataset)(config))


def test_samplers_are_made_only_where_something_is_sampled(small_data: Path) -> None:
    config = settings(small_data, "small")
    assert all(
        loader._sampler is None for loader in prepare_loaders(config, checked_dataset(SequentialDataset)(config))
    )
    pairwise = settings(small_data, "small", "FPMC")
    loaders = prepare_loaders(pairwise, checked_dataset(SequentialDataset)(pairwise))
    assert loaders[0]._sampler is not None


def test_a_whole_part_travels_as_positions_and_a_batch_as_columns(small_data: Path) -> None:
    import pickle

    config = settings(small_data, "small")
    part = prepare_loaders(config, checked_dataset(SequentialDataset)(config))[1]._dataset
    there = pickle.loads(pickle.dumps(part))  # noqa: S301
    assert isinstance(there.inter_feat, ExampleRows)
    assert torch.equal(there.inter_feat["item_id_list"], part.inter_feat["item_id_list"])
    assert len(pickle.dumps(part.inter_feat)) < 20_000


def test_examples_that_a_model_looks_up_one_by_one_are_kept(small_data: Path) -> None:
    config = settings(small_data, "small", "FEARec", MAX_ITEM_LIST_LENGTH=12)
    train = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))[0]._dataset
    first = train.inter_feat["item_id_list"]
    assert train.inter_feat["item_id_list"] is first
    other = settings(small_data, "small")
    train = prepare_loaders(other, checked_dataset(SequentialDataset)(other))[0]._dataset
    assert train.inter_feat["item_id_list"] is not train.inter_feat["item_id_list"]
