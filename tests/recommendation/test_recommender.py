"""Recommendations for histories: those of evaluation, independent of what stands beside a row; what is refused."""

from __future__ import annotations

import logging
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.histories import ItemIds
from recbole_diffusion.recommendation.recommender import Recommender
from recbole_diffusion.training.item_catalogue import ItemCatalogue, NeedsTrainingData

from .conftest import Train


def histories_of(data: Path) -> dict[str, list[str]]:
    """Each user's items before the last one, in order of time: what the test set asks about."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for line in (data / "small" / "small.inter").read_text().splitlines()[1:]:
        user, item, time = line.split("\t")
        found[user].append((float(time), item))
    return {user: [item for _, item in sorted(rows, key=lambda row: row[0])][:-1] for user, rows in found.items()}


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("model", ["DiffuRec", "DreamRec", "ComiRecSA", "Popularity", "SASRec"])
def test_the_items_are_those_that_evaluation_ranks_first(
    model: str, filter_seen: bool, trained: Train, small_data: Path
) -> None:
    result = trained(model, filter_seen=filter_seen)
    table = pyarrow.parquet.read_table(result.folder / "per_user" / "test.parquet")
    histories = histories_of(small_data)
    rows = [histories[user] for user in table["user"].to_pylist()]
    recommender = Recommender.load(result.folder, data_path="/nowhere", device="cpu")
    items, scores = recommender.recommend(rows, 10, row_keys=table["row"].to_pylist())
    assert items == table["top_items"].to_pylist()
    assert all(line == sorted(line, reverse=True) for line in scores)
    if filter_seen:
        assert not any(set(line) & set(history) for line, history in zip(items, rows, strict=True))
    chosen = recommender.recommend(rows, 10, row_keys=table["row"].to_pylist(), filter_seen=not filter_seen)
    assert chosen.items != items


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec"])
def test_scores_are_the_models(model: str, trained: Train, small_data: Path) -> None:
    recommender = Recommender.load(trained(model).folder, device="cpu")
    history = list(histories_of(small_data).values())[3]
    found = recommender.recommend([history], 5, filter_seen=False)
    ids = {token: number for number, token in enumerate(recommender.tokens)}
    batch = {
        "item_id_list": torch.tensor([[ids[item] for item in history[-6:]]]),
        "item_length": torch.tensor([min(len(history), 6)]),
    }
    from recbole.data.interaction import Interaction

    with torch.no_grad():
        scores = recommender.model.full_sort_predict(Interaction(batch))[0]
    assert found.items[0] is not None and found.scores[0] is not None
    expected = scores[[ids[item] for item in found.items[0]]]
    assert torch.allclose(torch.tensor(found.scores[0]), expected, rtol=1e-5, atol=1e-6)
    assert float(expected[-1]) >= float(scores[1:].topk(5).values[-1]) - 1e-6


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec"])
def test_a_row_does_not_depend_on_its_batch_or_place(model: str, trained: Train, small_data: Path) -> None:
    recommender = Recommender.load(trained(model).folder, device="cpu")
    histories = list(histories_of(small_data).values())
    keys = np.arange(len(histories)) * 7
    whole = recommender.recommend(histories, 8, row_keys=keys)
    order = np.random.default_rng(0).permutation(len(histories))
    moved = recommender.recommend([histories[row] for row in order], 8, row_keys=keys[order], batch_size=7)
    assert moved.items == [whole.items[row] for row in order]
    assert np.allclose(moved.scores, [whole.scores[row] for row in order], rtol=1e-5, atol=1e-6)
    by_history = recommender.recommend(histories, 8)
    assert recommender.recommend(histories[5:6], 8).items == by_history.items[5:6]


def test_unknown_items_are_left_out_and_counted(trained: Train) -> None:
    recommender = Recommender.load(trained("DiffuRec").folder, device="cpu")
    plain = recommender.recommend([["i1", "i2"]], 4)
    found = recommender.recommend([["i1", "no", "i2"], [], ["no", "never"]], 4)
    assert found.items[0] == plain.items[0]
    assert found.items[1:] == [None, None] and found.scores[1:] == [None, None]
    assert (found.unknown_items, found.without_history, len(found)) == (3, 2, 3)
    assert recommender.recommend([], 4).items == []
    with pytest.raises(UserError, match=r"row 2 has the item 'no', which the run does not know"):
        recommender.recommend([["i1"], ["no"]], 4, unknown="refuse")


def test_a_list_of_tokens_is_looked_up_as_a_column_is() -> None:
    ids = ItemIds(np.array(["[PAD]", "a", "7", "b"], dtype=object))
    tokens, expected = ["b", "no", "a", "7", "a"], [3, 0, 1, 2, 1]
    assert ids.of_list(tokens).tolist() == expected and ids.of_list([]).tolist() == []
    for kind in (pyarrow.string(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())):
        assert ids.of(pyarrow.array(tokens, kind)).tolist() == expected
    assert ids.of(pyarrow.array([7, 8])).tolist() == [2, 0]


def test_fewer_items_than_asked_for(trained: Train, small_data: Path) -> None:
    recommender = Recommender.load(trained("SASRec").folder, device="cpu")
    all_but_two = recommender.tokens[1:-2].tolist()
    (items,), _ = recommender.recommend([all_but_two], 10, filter_seen=True)
    assert sorted(items) == sorted(recommender.tokens[-2:].tolist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 41}, "k is 41; it must be from 1 to 40"),
        ({"k": 0}, "k is 0"),
        ({"row_keys": [1, 2]}, "row_keys has 2 keys for 1 histories"),
        ({"unknown": "keep"}, "unknown is 'keep'; it must be skip or refuse"),
        ({"histories": ["i1"]}, "history 0 is 'i1'; it must be a list"),
        ({"histories": [[1.5]]}, "history 0 has the item 1.5; items are tokens"),
    ],
)
def test_mistakes_are_one_line(arguments: dict[str, Any], message: str, trained: Train) -> None:
    recommender = Recommender.load(trained("DiffuRec").folder, device="cpu")
    with pytest.raises(UserError, match=message) as caught:
        recommender.recommend(**{"histories": [["i1"]], **arguments})
    assert "\n" not in str(caught.value)


def test_a_run_without_its_list_of_items_reads_its_data(
    trained: Train, small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = trained("DiffuRec").folder
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    (older / "best" / "items.parquet").unlink()
    caplog.set_level(logging.INFO)
    found = Recommender.load(older, device="cpu", data_path=small_data).recommend([["i1", "i2"]], 6)
    assert "no items.parquet beside" in caplog.text
    assert found.items == Recommender.load(folder, device="cpu").recommend([["i1", "i2"]], 6).items
    with pytest.raises(UserError, match="nowhere"):
        Recommender.load(older, device="cpu", data_path="/nowhere")


def test_a_model_that_asks_for_more_than_items_reads_its_data(
    trained: Train, caplog: pytest.LogCaptureFixture, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained("DiffuRec").folder
    expected = Recommender.load(folder, device="cpu").recommend([["i1", "i2"]], 6).items

    def more(_: ItemCatalogue, name: str) -> int:
        raise NeedsTrainingData(f"the values of {name}")

    monkeypatch.setattr(ItemCatalogue, "num", more)
    caplog.set_level(logging.INFO)
    recommender = Recommender.load(folder, device="cpu", data_path=small_data)
    assert "DiffuRec asks for the values of item_id" in caplog.text
    assert recommender.recommend([["i1", "i2"]], 6).items == expected


def test_a_model_that_asks_for_its_training_targets_does_not(trained: Train, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    recommender = Recommender.load(trained("FEARec").folder, device="cpu", data_path="/nowhere")
    assert "asks for" not in caplog.text
    assert len(recommender.recommend([["i1", "i2"]], 6).items[0] or []) == 6


def test_what_cannot_recommend_for_histories_is_refused(trained: Train) -> None:
    with pytest.raises(UserError, match="NPE reads 'user_id' of every row"):
        Recommender.load(trained("NPE").folder, device="cpu")
    with pytest.raises(UserError, match="ranks for users that it knows"):
        Recommender.load(trained("BPR", repeatable=False, embedding_size=8).folder, device="cpu")


def test_items_of_another_run_are_refused(trained: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained("DiffuRec").folder, folder)
    items = folder / "best" / "items.parquet"
    table = pyarrow.parquet.read_table(items)
    pyarrow.parquet.write_table(table.replace_schema_metadata({"recbole_diffusion": '{"ids": "other"}'}), items)
    with pytest.raises(UserError, match="holds the items of another run"):
        Recommender.load(folder, device="cpu")
    items.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="no readable list of a run's items"):
        Recommender.load(folder, device="cpu")


@pytest.mark.parametrize(
    ("device", "message"), [("tpu", "must be cpu, cuda or cuda:N"), ("cuda:x", "must be cpu, cuda or cuda:N")]
)
def test_a_device_that_does_not_exist(device: str, message: str, trained: Train) -> None:
    with pytest.raises(UserError, match=message):
        Recommender.load(trained("DiffuRec").folder, device=device)


def test_keys_of_the_run_may_be_overridden(trained: Train) -> None:
    folder = trained("DiffuRec").folder
    assert Recommender.load(folder, device="cpu", config={"reverse_steps": 2}).config["reverse_steps"] == 2
    with pytest.raises(UserError, match="unknown key 'reverse_step'"):
        Recommender.load(folder, device="cpu", config={"reverse_step": 2})
    with pytest.raises(UserError, match="has its own model, DiffuRec"):
        Recommender.load(folder, device="cpu", config={"model": "SASRec"})


def test_loading_leaves_the_callers_generators_alone(trained: Train) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Recommender.load(trained("DiffuRec").folder, device="cpu")
    assert torch.equal(torch.rand(3), expected)
