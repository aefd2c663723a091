"""A run's index: built, kept, used, stale, damaged, of other versions; through the Recommender and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from recbole_diffusion.command_line import main
from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.recommender import Recommender
from recbole_diffusion.recommendation.run_index import made_histories, use_index
from recbole_diffusion.retrieval.faiss_search import FaissSearch
from recbole_diffusion.retrieval.index_building import IndexRequest
from recbole_diffusion.training.checkpoint import read_checkpoint, write_checkpoint

from .conftest import Train

pytest.importorskip("faiss", reason="faiss is not installed (pip install 'recbole-diffusion[retrieval]')")

HISTORIES = [["i1", "i2"], ["i9"], ["i3", "i4", "i5"]]


@pytest.fixture
def run(trained: Train, tmp_path: Path) -> Path:
    """A copy of a run, to change."""
    folder = tmp_path / "run"
    shutil.copytree(trained("DiffuRec").folder, folder)
    return folder


def facts(run: Path) -> dict[str, Any]:
    return json.loads((run / "best" / "index" / "index.json").read_text())


def test_an_index_is_built_kept_and_used(run: Path, small_data: Path) -> None:
    exact = Recommender.load(run, device="cpu")
    by_index = Recommender.load(run, device="cpu", retrieval="faiss", data_path=small_data)
    assert isinstance(by_index.ranking.search, FaissSearch)
    kept = facts(run)
    assert (kept["kind"], kept["items"], kept["recall_at"], kept["recall"]) == ("flat", 40, 20, 1.0)
    assert kept["queries"] == 60 and kept["queries_from"] == "validation rows of the run's data"
    assert kept["index_bytes"] == (run / "best" / "index" / "items.faiss").stat().st_size
    for arguments in ({}, {"filter_seen": True}, {"exclude": ["i18"]}, {"n_samples": 4, "diversity": 1.0}):
        one, other = (recommender.recommend(HISTORIES, 8, **arguments) for recommender in (exact, by_index))
        assert one.items == other.items and np.allclose(one.scores, other.scores, rtol=1e-5, atol=1e-5)
    before = facts(run)
    Recommender.load(run, device="cpu", retrieval="faiss", stale_index="refuse")
    assert facts(run) == before


def test_several_interests_are_searched_one_by_one(trained: Train, tmp_path: Path) -> None:
    shutil.copytree(trained("ComiRecSA").folder, tmp_path / "run")
    exact = Recommender.load(tmp_path / "run", device="cpu")
    by_index = Recommender.load(tmp_path / "run", device="cpu", retrieval="faiss")
    assert by_index.recommend(HISTORIES, 10).items == exact.recommend(HISTORIES, 10).items


def test_popularity_has_an_index_too(trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(trained("Popularity").folder, tmp_path / "run")
    assert main(["index", f"--checkpoint={tmp_path / 'run'}"]) == 0
    assert "flat index of 40 items" in capsys.readouterr().out
    exact = Recommender.load(tmp_path / "run", device="cpu").recommend(HISTORIES, 10)
    found = Recommender.load(tmp_path / "run", device="cpu", retrieval="faiss", stale_index="refuse")
    assert np.allclose(found.recommend(HISTORIES, 10).scores, exact.scores)


def test_without_the_data_histories_are_made_and_that_is_said(run: Path) -> None:
    recommender = Recommender.load(run, device="cpu", data_path="/nowhere")
    use_index(recommender, request=IndexRequest(queries=30, show_progress=False))
    assert facts(run)["queries"] == 30 and "no real users" in facts(run)["queries_from"]
    made = made_histories(recommender, 50, 1)
    assert made.lengths.min() >= 1 and made.lengths.max() <= 6 and 1 <= made.items.min() <= made.items.max() <= 40


def change_weights(run: Path) -> None:
    path = run / "best" / "model.safetensors"
    stored = read_checkpoint(path)
    stored.tensors["model.item_embedding.weight"] += 1
    write_checkpoint(path, stored)


def cut(run: Path) -> None:
    file = run / "best" / "index" / "items.faiss"
    file.write_bytes(file.read_bytes()[:-50])


def other_format(run: Path) -> None:
    file = run / "best" / "index" / "index.json"
    file.write_text(json.dumps({**facts(run), "format": 99}))


def no_settings(run: Path) -> None:
    file = run / "best" / "index" / "index.json"
    file.write_text(json.dumps({key: value for key, value in facts(run).items() if key != "search"}))


def no_json(run: Path) -> None:
    (run / "best" / "index" / "index.json").write_text('{"format"')


def swapped(run: Path) -> None:
    file = run / "best" / "index" / "items.faiss"
    file.write_bytes(b"cnumpy" + file.read_bytes()[6:])
    import hashlib

    kept = {**facts(run), "file": hashlib.sha256(file.read_bytes()).hexdigest()}
    (run / "best" / "index" / "index.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run / "best" / "index"), "there is no index at"),
        (change_weights, "is an index of other item vectors"),
        (cut, "it is damaged"),
        (other_format, "has format 99, and this version writes 1"),
        (no_settings, "index.json is damaged"),
        (no_json, "index.json is damaged"),
        (swapped, "cannot read"),
    ],
)
def test_an_index_that_does_not_fit_is_refused_or_built_anew(
    spoil: Callable[[Path], None], message: str, run: Path
) -> None:
    Recommender.load(run, device="cpu", retrieval="faiss")
    spoil(run)
    with pytest.raises(UserError, match=message) as caught:
        Recommender.load(run, device="cpu", retrieval="faiss", stale_index="refuse")
    assert "\n" not in str(caught.value) and "recbole-diff index" in str(caught.value)
    again = Recommender.load(run, device="cpu", retrieval="faiss")
    assert again.recommend(HISTORIES, 5).items == Recommender.load(run, device="cpu").recommend(HISTORIES, 5).items
    Recommender.load(run, device="cpu", retrieval="faiss", stale_index="refuse")


def test_words_and_models_that_are_refused(run: Path, trained: Train) -> None:
    with pytest.raises(UserError, match="retrieval is 'annoy'; it must be exact or faiss"):
        Recommender.load(run, device="cpu", retrieval="annoy")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="stale_index is 'keep'; it must be rebuild or refuse"):
        Recommender.load(run, device="cpu", retrieval="faiss", stale_index="keep")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="SASRec scores all items itself and has no vectors to index"):
        Recommender.load(trained("SASRec").folder, device="cpu", retrieval="faiss")


def test_the_command_builds_an_index_that_recommend_asks(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text('history\n"i1,i2"\ni3\nno\n')
    words = [f"--checkpoint={run}", f"--histories={tmp_path / 'in.csv'}", "--kind=hnsw", "--recall_at=5", "--threads=1"]
    assert main(["index", *words, "--show_progress=False"]) == 0
    out = capsys.readouterr().out
    assert (
        out.startswith("hnsw index of 40 items in") and "measured with 2 histories: 2 histories that were given" in out
    )
    assert facts(run)["repeatable"] is True
    lists = []
    for retrieval in ("exact", "faiss"):
        assert main(["recommend", f"--checkpoint={run}", "--history=i1,i2", f"--retrieval={retrieval}"]) == 0
        lists.append(capsys.readouterr().out)
    assert lists[0] == lists[1] and lists[0].splitlines()[0].split() == ["rank", "item", "score"]
    assert main(["index", f"--checkpoint={run}", "--kind=tree"]) == 2
    assert capsys.readouterr().err.startswith("error: kind is 'tree'")
    assert main(["index"]) == 2 and "index needs --checkpoint" in capsys.readouterr().err


def test_items_added_after_training_are_indexed_or_searched_beside(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recommender = Recommender.load(run, device="cpu")
    vector = 4 * recommender.model.item_vectors()[3].detach().numpy()
    table = pyarrow.table({"item_id": ["new"], "vector": [vector.tolist()], "title": ["The new one"]})
    pyarrow.parquet.write_table(table, tmp_path / "new.parquet")
    added = {"device": "cpu", "added_items": tmp_path / "new.parquet"}
    expected = Recommender.load(run, **added).recommend(HISTORIES, 9)
    beside = Recommender.load(run, retrieval="faiss", **added)
    assert beside.recommend(HISTORIES, 9).items == expected.items
    assert main(["index", f"--checkpoint={run}", f"--added_items={tmp_path / 'new.parquet'}"]) == 0
    assert "flat index of 41 items" in capsys.readouterr().out
    within = Recommender.load(run, retrieval="faiss", stale_index="refuse", **added)
    assert isinstance(within.ranking.search, FaissSearch) and within.ranking.search.indexed == 41
    assert within.recommend(HISTORIES, 9).items == expected.items
