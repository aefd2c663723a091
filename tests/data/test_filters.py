"""Filters and ids are RecBole's, row for row: compared with RecBole on random tables and real data, and by hand."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_tables import HEADER, table

from recbole_diffusion.data.filters import Side, core
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.data.token_ids import TokenIds, categories_of, give_ids, present
from recbole_diffusion.errors import UserError

RANDOM_ORDER = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": None, "mode": "full"}


def at_least(number: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda counts: counts >= number


def test_core_by_hand() -> None:
    """u0 i0, u0 i1, u1 i0, u1 i1, u2 i1, u2 i2: i2 has one, without it u2 has one, without u2 all have two."""
    users = np.array([0, 0, 1, 1, 2, 2], dtype=np.int8)
    items = np.array([0, 1, 0, 1, 1, 2], dtype=np.int8)
    found = core(Side(users, 3, at_least(2)), Side(items, 3, at_least(2)))
    assert found.rows.tolist() == [0, 1, 2, 3]
    assert [counts.tolist() for counts in found.counts] == [[2, 2, 0], [2, 2, 0]]
    assert [refused.tolist() for refused in found.refused] == [[False, False, True], [False, False, True]]
    assert found.rounds == 2


def test_core_of_one_side_leaves_the_other_alone() -> None:
    users, items = np.array([0, 0, 1]), np.array([0, 1, 2])
    found = core(Side(users, 2, at_least(2)), Side(items, 3, None))
    assert found.rows.tolist() == [0, 1]
    assert not found.refused[1].any()
    everything = core(Side(users, 2, None), Side(items, 3, None))
    assert (everything.rows.tolist(), everything.rounds) == ([0, 1, 2], 0)


def test_core_is_empty_where_a_chain_falls_apart() -> None:
    """A chain u0 i0 u1 i1 u2 ...: its end has one interaction, and so the next one, and so on, two ends a round."""
    links = np.arange(20)
    found = core(Side(links, 20, at_least(2)), Side(np.repeat(np.arange(11), 2)[1:21], 11, at_least(2)))
    assert (len(found.rows), found.rounds) == (0, 1)
    path_users, path_items = np.repeat(np.arange(6), 2)[1:], np.repeat(np.arange(6), 2)[:-1]
    found = core(Side(path_users, 6, at_least(2)), Side(path_items, 6, at_least(2)))
    assert (len(found.rows), found.rounds) == (0, 6)


# --------------------------------------------------------------------------------------------- compared with RecBole


def random_dataset(folder: Path, draw: random.Random) -> None:
    """Interactions with an alias of the item and a rating, user and item features with gaps and strangers."""
    rows = []
    for time in range(draw.randrange(60, 200)):
        rating = "" if draw.random() < 0.1 else str(draw.randrange(1, 6))
        again = f"i{draw.randrange(30)}"
        user = int(draw.paretovariate(0.7)) % 25
        rows.append((f"u{user}", f"i{int(draw.expovariate(0.12)) % 20}", str(1000 + time), rating, again))
    draw.shuffle(rows)
    (folder / "toy").mkdir()
    header = f"{HEADER}\trating:float\tnext_id:token"
    (folder / "toy" / "toy.inter").write_text(table(rows, header))
    items = [f"i{item}" for item in range(26) if draw.random() < 0.8]
    draw.shuffle(items)
    brands = ["acme", "", "b c", "ü"]
    features = [(item, draw.choice(brands), str(draw.randrange(9)), draw.choice(["x y", "", "y"])) for item in items]
    (folder / "toy" / "toy.item").write_text(
        table(features, "item_id:token\tbrand:token\tprice:float\tclass:token_seq")
    )
    users = [(f"u{user}", draw.choice("mf")) for user in range(3, 28) if draw.random() < 0.9]
    (folder / "toy" / "toy.user").write_text(table(users, "user_id:token\tgender:token"))


SETTINGS: dict[str, list[Any]] = {
    "user_inter_num_interval": [None, "[0,inf)", "[3,inf)", "(2,30]", "[0,2];[5,inf)", "[4,inf)"],
    "item_inter_num_interval": [None, "[0,inf)", "[3,inf)", "(1,40)", "[2,3];(5,inf)"],
    "filter_inter_by_user_or_item": [True, False],
    "val_interval": [None, {"rating": "[2,inf)"}, {"gender": ["m"]}, {"price": "[1,7]", "brand": ["acme", "ü"]}],
    "rm_dup_inter": [None, "first", "last"],
    "alias_of_item_id": [None, ["next_id"]],
    "normalize_all": [True, False],
}
COLUMNS = {
    "inter": ["user_id", "item_id", "timestamp", "rating", "next_id"],
    "item": ["item_id", "brand", "price", "class"],
    "user": ["user_id", "gender"],
}


def frames_of(dataset: Any) -> dict[str, pd.DataFrame]:
    return {name: getattr(dataset, name) for name in dataset.feat_name_list}


def assert_same_data(ours: Any, theirs: Any) -> None:
    assert list(ours.field2id_token) == list(theirs.field2id_token)
    for field, tokens in theirs.field2id_token.items():
        assert isinstance(ours.field2id_token[field], np.ndarray)
        assert ours.field2id_token[field].dtype == tokens.dtype
        assert ours.field2id_token[field].tolist() == tokens.tolist()
        assert ours.field2token_id[field] == theirs.field2token_id[field]
    found, expected = frames_of(ours), frames_of(theirs)
    assert list(found) == list(expected)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(found[name], frame, check_dtype=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("features", [True, False])
@pytest.mark.parametrize("seed", range(30))
def test_random_tables(tmp_path: Path, configured: Callable[..., Any], seed: int, features: bool) -> None:
    from recbole.data.dataset import Dataset

    draw = random.Random(seed)
    random_dataset(tmp_path, draw)
    settings = {key: draw.choice(values) for key, values in SETTINGS.items()}
    columns = COLUMNS if features else {"inter": COLUMNS["inter"]}
    if not features and settings["val_interval"] is not None:
        settings["val_interval"] = {"rating": "(1,4]", "next_id": [f"i{item}" for item in range(3, 40)]}
    config = configured(tmp_path, "toy", model="Pop", eval_args=RANDOM_ORDER, load_col=columns, **settings)
    try:
        theirs = Dataset(config)
    except ValueError as error:
        assert "empty" in str(error)
        with pytest.raises(UserError, match=r"no (interaction|row of .*) is left after the filters"):
            checked_dataset(Dataset)(config)
        return
    assert_same_data(checked_dataset(Dataset)(config), theirs)


def test_random_tables_are_filtered_at_all(tmp_path: Path, configured: Callable[..., Any]) -> None:
    """The settings above are no idle ones: in most tables rows go, and in some nothing is left."""
    from recbole.data.dataset import Dataset

    kept = []
    for seed in range(30):
        draw = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        random_dataset(folder, draw)
        settings = {key: draw.choice(values) for key, values in SETTINGS.items()}
        config = configured(folder, "toy", model="Pop", eval_args=RANDOM_ORDER, load_col=COLUMNS, **settings)
        before = len((folder / "toy" / "toy.inter").read_text().splitlines()) - 1
        try:
            kept.append(len(checked_dataset(Dataset)(config).inter_feat) / before)
        except UserError:
            kept.append(0.0)
    assert sum(share == 0 for share in kept) >= 1
    assert sum(0 < share < 1 for share in kept) >= 15


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("name", "least", "columns"),
    [
        ("ml-100k", 30, {"inter": "*", "item": ["item_id", "release_year", "class"], "user": "*"}),
        ("ml-100k", 0, {"inter": "*"}),
        ("amazon-beauty", 6, {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand"]}),
    ],
)
def test_real_data(shared: Path, configured: Callable[..., Any], name: str, least: int, columns: Any) -> None:
    from recbole.data.dataset import Dataset

    config = configured(
        shared / "data",
        name,
        model="Pop",
        eval_args=RANDOM_ORDER,
        load_col=columns,
        user_inter_num_interval=f"[{least},inf)",
        item_inter_num_interval=f"[{least},inf)",
    )
    theirs, ours = Dataset(config), checked_dataset(Dataset)(config)
    if least:
        assert 0 < len(theirs.inter_feat) < sum(1 for _ in (shared / "data" / name / f"{name}.inter").open()) - 1
    assert_same_data(ours, theirs)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("reverse", [True, False])
def test_knowledge_graphs(tmp_path: Path, configured: Callable[..., Any], reverse: bool) -> None:
    """Items that are entities, too: RecBole numbers them anew after the ids, and adds relations to them."""
    from recbole.data.dataset import KnowledgeBasedDataset

    draw = random.Random(8)
    random_dataset(tmp_path, draw)
    folder = tmp_path / "toy"
    triples = [(f"e{draw.randrange(30)}", f"r{draw.randrange(4)}", f"e{draw.randrange(30)}") for _ in range(90)]
    (folder / "toy.kg").write_text(table(triples, "head_id:token\trelation_id:token\ttail_id:token"))
    links = [(f"i{item}", f"e{entity}") for item, entity in zip(range(2, 18), draw.sample(range(34), 16), strict=True)]
    (folder / "toy.link").write_text(table(links, "item_id:token\tentity_id:token"))
    columns = {**COLUMNS, "kg": ["head_id", "relation_id", "tail_id"], "link": ["item_id", "entity_id"]}
    settings = {
        "eval_args": RANDOM_ORDER,
        "load_col": columns,
        "kg_reverse_r": reverse,
        "user_inter_num_interval": "[2,inf)",
        "entity_kg_num_interval": "[3,inf)",
        "relation_kg_num_interval": "[0,inf)",
    }
    config = configured(tmp_path, "toy", model="CKE", **settings)
    theirs, ours = KnowledgeBasedDataset(config), checked_dataset(KnowledgeBasedDataset)(config)
    assert 0 < len(theirs.item2entity) < 16
    assert ours.item2entity == theirs.item2entity
    assert_same_data(ours, theirs)


def test_a_class_with_a_filter_of_its_own_keeps_it(
    written: Callable[..., Path], configured: Callable[..., Any]
) -> None:
    from recbole.data.dataset import Dataset

    class FirstTen(Dataset):
        def _filter_by_inter_num(self) -> None:
            self.inter_feat.drop(self.inter_feat.index[10:], inplace=True)

        def _remap(self, remap_list: Any) -> None:
            for feature, field, _ in remap_list:
                tokens = np.array(["[PAD]", *sorted(set(feature[field]))])
                self.field2id_token[field] = tokens
                feature[field] = np.searchsorted(tokens, feature[field].to_numpy().astype(str))

    rows = [(f"u{9 - row % 5}", f"i{row}", str(row)) for row in range(20)]
    config = configured(written(table(rows)), "toy", model="Pop", eval_args=RANDOM_ORDER)
    dataset = checked_dataset(FirstTen)(config)
    assert len(dataset.inter_feat) == 10
    assert dataset.field2id_token["user_id"].tolist() == ["[PAD]", "u5", "u6", "u7", "u8", "u9"]
    assert dataset.inter_feat["user_id"].tolist() == [5, 4, 3, 2, 1] * 2


def test_normalized_fields_that_recbole_refuses_or_leaves(
    written: Callable[..., Path], configured: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    from recbole.data.dataset import Dataset

    rows = [("u", f"i{row}", str(row + 5), "3") for row in range(5)]
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating"]}
    keys = {"model": "Pop", "eval_args": RANDOM_ORDER, "load_col": columns}
    folder = written(table(rows, HEADER + "\trating:float"))
    dataset = checked_dataset(Dataset)(configured(folder, "toy", normalize_field=["timestamp", "rating"], **keys))
    assert dataset.inter_feat["timestamp"].tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert dataset.inter_feat["rating"].tolist() == [1.0] * 5
    assert "all values of rating are the same" in caplog.text
    dataset = checked_dataset(Dataset)(configured(folder, "toy", normalize_field=["item_id"], **keys))
    assert dataset.inter_feat["item_id"].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="price"):
        checked_dataset(Dataset)(configured(folder, "toy", normalize_field=["price"], **keys))


def test_what_filters_take_away_is_logged(
    tmp_path: Path, configured: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    from recbole.data.dataset import Dataset

    (tmp_path / "toy").mkdir()
    rows = [("a", "x", "1"), ("a", "y", "2"), ("b", "x", "3"), ("b", "y", "4"), ("c", "x", "5"), ("c", "z", "6")]
    (tmp_path / "toy" / "toy.inter").write_text(table(rows))
    (tmp_path / "toy" / "toy.item").write_text(table([("x", "1"), ("y", "2"), ("w", "3")], "item_id:token\tp:float"))
    columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "p"]}
    settings = {"user_inter_num_interval": "[2,inf)", "item_inter_num_interval": "[2,inf)"}
    config = configured(tmp_path, "toy", model="Pop", eval_args=RANDOM_ORDER, load_col=columns, **settings)
    with caplog.at_level("INFO", "recbole_diffusion"):
        dataset = checked_dataset(Dataset)(config)
    assert len(dataset.inter_feat) == 4
    text = caplog.text
    assert "toy: 1 interactions dropped, their item_id has no features (filter_inter_by_user_or_item)" in text
    assert "toy: user_inter_num_interval and item_inter_num_interval drop 1 interactions in 1 rounds" in text
    assert "toy: 1 of 3 rows of item_feat dropped: too few interactions" in text


# --------------------------------------------------------------------------------------------------------------- ids


def test_ids_by_hand() -> None:
    first = pd.Categorical.from_codes([2, 0, 2, -1], categories=["a", "unused", "c"])
    second = categories_of(pd.Series(["d", "a", np.nan, "d"], dtype=object))
    ids, tokens = give_ids([first, second])
    assert [column.tolist() for column in ids] == [[1, 2, 1, 0], [3, 2, 0, 3]]
    assert tokens.tolist() == ["[PAD]", "c", "a", "d"]
    assert present(first).tolist() == ["c", "a"]


def test_token_ids_are_a_dictionary_made_when_asked_for() -> None:
    tokens = np.array(["[PAD]", "a", "b"])
    ids = TokenIds(tokens)
    assert len(ids) == 3
    assert ids._table is None
    assert ids == {"[PAD]": 0, "a": 1, "b": 2}
    assert (ids["b"], "c" in ids, list(ids)) == (2, False, ["[PAD]", "a", "b"])
    assert pickle.loads(pickle.dumps(ids)) == ids  # noqa: S301
    ids["c"] = 3
    del ids["a"]
    assert (len(ids), dict(ids)) == (3, {"[PAD]": 0, "b": 2, "c": 3})
    with pytest.raises(KeyError):
        ids["a"]
