"""Search through an index agrees with exact search: kinds, scores, several vectors, what is left out, items added."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import RankedRows
from recbole_diffusion.models.base import Score
from recbole_diffusion.retrieval import index_building
from recbole_diffusion.retrieval.code_space import code_maps, dealt
from recbole_diffusion.retrieval.exact import ExactSearch
from recbole_diffusion.retrieval.faiss_search import _rounded_up
from recbole_diffusion.retrieval.index_building import BuiltIndex, IndexRequest, build_index, recall_of, turn_up
from recbole_diffusion.retrieval.index_kinds import IndexSettings, import_faiss, kind_for, settings_for

SCORES: tuple[Score, ...] = ("dot", "cosine", "neg_sq_dist")
KINDS = ("flat", "hnsw", "pq", "ivfpq")


@pytest.fixture
def faiss() -> Any:
    return pytest.importorskip("faiss", reason="faiss is not installed (pip install 'recbole-diffusion[retrieval]')")


def vectors(items: int, rows: int, width: int = 12, interests: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    table = torch.randn(items + 1, width, generator=draw) * torch.linspace(0.3, 2.0, width)
    return table, torch.randn(rows, interests, width, generator=draw) + 0.5


def built(items: Tensor, users: Tensor, kind: str, score: Score = "dot", **more: Any) -> BuiltIndex:
    return build_index(items, score, users, IndexRequest(kind=kind, show_progress=False, **more))


def same(found: RankedRows, exact: RankedRows) -> None:
    assert np.array_equal(found.items, exact.items)
    assert np.allclose(found.scores, exact.scores, rtol=1e-5, atol=1e-5)


# exact ----------------------------------------------------------------------------------------------------------------


def test_exact_search_by_hand() -> None:
    items = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.0, 2.0], [1.0, 0.0], [-1.0, 0.0]])
    users = torch.tensor([[[2.0, 0.0], [0.0, 0.5]], [[-1.0, 0.0], [-1.0, 0.0]]])
    search = ExactSearch(items, "dot")
    found = search.search(users, 3)
    assert found.items.tolist() == [[1, 3, 2], [4, 2, 1]] and found.scores.tolist() == [[2, 2, 1], [1, 0, -1]]
    one = search.search(users[:, 0], 5, exclude=(torch.tensor([0, 0, 1]), torch.tensor([1, 2, 4])))
    assert one.items.tolist() == [[3, 4, 0, 0, 0], [2, 1, 3, 0, 0]] and one.scores[0, 2] == -np.inf
    search.add(torch.tensor([[5.0, 0.0]]))
    assert search.search(users, 1).items.tolist() == [[5], [4]]


# an index -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_index_finds_what_exact_search_finds(kind: str, score: Score, faiss: Any) -> None:
    items, users = vectors(1500, 40, interests=2)
    index = built(items, users, kind, score, recall=0.95)
    exact = ExactSearch(items, score).search(users, 20)
    found = index.search.search(users, 20)
    assert index.recall >= 0.95 and recall_of(found, exact) >= 0.9
    for row in range(len(users)):  # whatever is found has its exact score, in the exact order
        both = {int(item): value for item, value in zip(exact.items[row], exact.scores[row])}
        mine = {int(item): value for item, value in zip(found.items[row], found.scores[row])}
        assert all(abs(mine[item] - both[item]) < 1e-4 for item in mine.keys() & both.keys())
        assert list(found.scores[row]) == sorted(found.scores[row], reverse=True)
        assert len(mine) == 20
    if kind == "flat":
        same(found, exact)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_row_leaves_out_does_not_shorten_its_list(kind: str, faiss: Any) -> None:
    items, users = vectors(800, 6)
    index = built(items, users, kind, recall=0.9)
    exact = ExactSearch(items, "dot")
    best = exact.search(users, 800).items
    lengths = [0, 1, 30, 300, 795, 800]  # of the best items of each row
    rows = torch.tensor([row for row, length in enumerate(lengths) for _ in range(length)])
    out = torch.tensor([int(item) for row, length in enumerate(lengths) for item in best[row, :length]])
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    found = index.search.search(users, 10, exclude=(rows[shuffled], out[shuffled]))
    wanted = exact.search(users, 10, exclude=(rows, out))
    assert (found.items > 0).sum(1).tolist() == [10, 10, 10, 10, 5, 0]
    for row, length in enumerate(lengths):
        assert not set(found.items[row][found.items[row] > 0].tolist()) & set(best[row, :length].tolist())
    assert recall_of(found, wanted) > 0.8
    same(RankedRows(found.items[4:], None, found.scores[4:]), RankedRows(wanted.items[4:], None, wanted.scores[4:]))


def test_a_row_for_which_too_little_is_found_is_asked_again(faiss: Any) -> None:
    items, users = vectors(3000, 4)
    index = built(items, users, "hnsw", recall=0.9)
    exact = ExactSearch(items, "dot")
    best = exact.search(users, 30).items
    out = (torch.arange(4).repeat_interleave(30), torch.from_numpy(best.astype(np.int64).ravel()))
    asked: list[int] = []
    find = index.search.find

    def little(queries: np.ndarray, k: int, ask: int) -> np.ndarray:
        asked.append(ask)
        return find(queries, k, ask)[:, : 40 if len(asked) == 1 else None]

    index.search.find = little  # type: ignore[method-assign]
    found = index.search.search(users, 20, exclude=out)
    assert (found.items > 0).all() and asked == [92, 184]  # 20 + 64, for 30 left out, + 8
    assert recall_of(found, exact.search(users, 20, exclude=out)) > 0.85


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_depends_on_no_other_row(kind: str, faiss: Any) -> None:
    items, users = vectors(6000, 120, width=16)
    index = built(items, users, kind, recall=0.8)
    best = ExactSearch(items, "dot").search(users, 400).items
    lengths = [0, 3, 17, 63, 400] * 24
    out = (
        torch.tensor([row for row, length in enumerate(lengths) for _ in range(length)]),
        torch.tensor([int(item) for row, length in enumerate(lengths) for item in best[row, :length]]),
    )
    together = index.search.search(users, 20, exclude=out).items
    for row in range(len(users)):
        own = torch.from_numpy(best[row, : lengths[row]].astype(np.int64))
        alone = index.search.search(users[row : row + 1], 20, exclude=(torch.zeros_like(own), own)).items
        assert np.array_equal(alone[0], together[row]), row


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("interests", [1, 2])
def test_a_flat_index_breaks_ties_by_id(score: Score, interests: int, faiss: Any) -> None:
    items, users = vectors(720, 30, interests=interests)
    items[21:] = items[20]  # more equal items than a search hands on
    index = built(items, users, "flat", score)
    same(index.search.search(users, 60), ExactSearch(items, score).search(users, 60))
    rows, out = torch.arange(30).repeat_interleave(20), torch.arange(100, 120).repeat(30)
    same(
        index.search.search(users, 60, exclude=(rows, out)),
        ExactSearch(items, score).search(users, 60, exclude=(rows, out)),
    )


def test_rows_are_asked_together_by_what_they_leave_out() -> None:
    assert _rounded_up(np.array([0, 1, 16, 17, 64, 65, 257])).tolist() == [0, 16, 16, 64, 64, 256, 1024]


def test_lists_are_looked_into_further_for_what_is_left_out(faiss: Any) -> None:
    items, users = vectors(3000, 20)
    index = built(items, users, "ivfpq", recall=0.5)
    index.search.settings.search.update(nprobe=1, candidates=100)
    exact = ExactSearch(items, "dot")
    best = exact.search(users, 900).items
    out = (torch.arange(20).repeat_interleave(900), torch.from_numpy(best.astype(np.int64).ravel()))
    found, wanted = (search.search(users, 20, exclude=out) for search in (index.search, exact))
    assert recall_of(found, wanted) > 0.5  # one list of sixteen would hold little of it


def test_items_may_be_more_than_there_are_and_equal_ones_come_in_order(faiss: Any) -> None:
    items = torch.tensor([[0.0, 0.0]] + [[1.0, 1.0]] * 9)
    users = torch.ones(2, 1, 2)
    index = built(items, users, "flat")
    found = index.search.search(users, 12)
    assert found.items.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0]] * 2
    assert index.search.search(users[:0], 3).items.shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_items_added_later_are_found_exactly(kind: str, faiss: Any) -> None:
    items, users = vectors(600, 5)
    index = built(items, users, kind, recall=0.9)
    exact = ExactSearch(items, "dot")
    new = torch.cat((3 * users[2], torch.zeros(1, 12)))
    for search in (index.search, exact):
        search.add(new)
    found = index.search.search(users, 4)
    assert found.items[2, 0] == 601 and exact.search(users, 4).items[2, 0] == 601
    assert index.search.search(users, 4, exclude=(torch.tensor([2]), torch.tensor([601]))).items[2, 0] != 601
    assert index.search.indexed == 600


def test_scores_that_are_no_numbers_are_refused_as_in_exact_search(faiss: Any) -> None:
    items, users = vectors(600, 3)
    users[1] = torch.nan
    for kind in KINDS:
        index = built(items, vectors(600, 30)[1], kind, recall=0.5)
        with pytest.raises(UserError, match="scores are not numbers"):
            index.search.search(users, 4)


# recall ---------------------------------------------------------------------------------------------------------------


def test_recall_by_hand() -> None:
    truth = RankedRows(np.array([[3, 1], [2, 0]]), None, np.array([[2.0, 1.0], [5.0, -np.inf]]))
    found = RankedRows(np.array([[3, 4], [7, 9]]), None, np.array([[2.0, 0.5], [4.0, 3.0]]))
    assert recall_of(found, truth) == 0.25  # half of the first row, nothing of the second
    level = RankedRows(np.array([[4, 8], [2, 9]]), None, np.array([[2.0, 1.0], [5.0, 3.0]]))
    assert recall_of(level, truth) == 1.0  # other items with the same scores


def test_parameters_rise_until_the_recall_is_there() -> None:
    settings = IndexSettings("hnsw", {}, {"efSearch": 10}, {"efSearch": 40})
    assert turn_up(settings, lambda: settings.search["efSearch"] / 100, 0.2) >= 0.2
    assert 20 <= settings.search["efSearch"] < 26
    assert turn_up(settings, lambda: settings.search["efSearch"] / 100, 0.9) == 0.4
    assert settings.search == {"efSearch": 40}


@pytest.mark.parametrize("kind", ["hnsw", "pq", "ivfpq"])
def test_a_recall_that_is_not_reached_is_one_line(kind: str, faiss: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    items, users = vectors(3000, 40)
    attempts = []

    def poor(kind: Any, n_items: int, width: int, attempt: int = 0) -> IndexSettings:
        attempts.append(attempt)
        made = settings_for(kind, n_items, width, attempt)
        made.most = dict.fromkeys(made.search, 1)
        made.search = dict(made.most)
        return made

    monkeypatch.setattr(index_building, "settings_for", poor)
    with pytest.raises(UserError, match=rf"the {kind} index finds 0\.\d+ of the 20 best items") as caught:
        built(items, users, kind, recall=1.0)
    assert "\n" not in str(caught.value) and attempts == list(range(len(attempts))) and len(attempts) > 1


def test_a_higher_recall_is_reached_by_looking_further(faiss: Any) -> None:
    items, users = vectors(3000, 60)
    low, high = (built(items, users, "pq", recall=recall) for recall in (0.6, 0.99))
    assert low.recall >= 0.6 and high.recall >= 0.99

    def cost(index: BuiltIndex) -> int:
        build, search = index.search.settings.build, index.search.settings.search
        return build["m"] * 10_000 + search["candidates"]

    assert cost(low) < cost(high)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_and_one_thread_give_the_same_index(kind: str, faiss: Any) -> None:
    items, users = vectors(1200, 20)
    bytes_of = [
        faiss.serialize_index(built(items, users, kind, seed=seed, threads=1, recall=0.5).search.index).tobytes()
        for seed in (1, 1, 2)
    ]
    assert bytes_of[0] == bytes_of[1]
    assert kind == "flat" or bytes_of[0] != bytes_of[2]


# codes ----------------------------------------------------------------------------------------------------------------


def test_maps_change_no_score_and_whiten_the_queries() -> None:
    draw = np.random.default_rng(0)
    items = draw.standard_normal((500, 8)) * np.arange(1, 9)
    queries = draw.standard_normal((4000, 8)) * np.arange(8, 0, -1)
    of_items, of_queries = code_maps(items, queries, 4)
    assert np.allclose((queries @ of_queries) @ (items @ of_items).T, queries @ items.T, atol=1e-2)
    moments = (queries @ of_queries).T @ (queries @ of_queries) / len(queries)
    assert np.allclose(moments, np.diag(np.diag(moments)), atol=0.15) and abs(np.diag(moments) - 1).max() < 0.35
    turned = np.cov((items @ of_items).T)
    assert np.allclose(turned, np.diag(np.diag(turned)), atol=1e-2 * turned.max())
    same_map, _ = code_maps(items, None, 4)
    assert np.allclose(same_map @ same_map.T, np.eye(8), atol=1e-5)


def test_axes_are_dealt_so_that_products_are_alike() -> None:
    order = dealt(np.array([1.0, 2.0, 4.0, 8.0]), 2)
    assert [sorted(order[:2]), sorted(order[2:])] in ([[0, 3], [1, 2]], [[1, 2], [0, 3]])
    assert sorted(dealt(np.zeros(6), 3)) == list(range(6))


# kinds ----------------------------------------------------------------------------------------------------------------


def test_the_kind_goes_by_the_number_of_items() -> None:
    assert [kind_for("auto", n) for n in (49_999, 50_000, 200_000, 200_001, 10**6, 10**7)] == [
        *("flat", "hnsw", "hnsw", "pq", "pq", "ivfpq")
    ]
    assert kind_for("hnsw", 3) == "hnsw"
    assert settings_for("ivfpq", 1_000_000, 128).build == {"nlist": 256, "m": 32}
    assert settings_for("pq", 1_000_000, 128, 2).build == {"m": 128}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "tree"}, "kind is 'tree'; it must be auto, flat, hnsw, pq or ivfpq"),
        ({"recall": 1.2}, "recall is 1.2; it must be above 0 and at most 1"),
        ({"at": 0}, "recall_at is 0; it must be 1 or more"),
        ({"queries": 0}, "queries is 0"),
        ({"threads": 99_999_999_999}, "threads is 99999999999; it must be at most 1024"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 9223372036854775807"),
        ({"seed": 10**20}, "seed is 100000000000000000000; it must be from 0"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
    ],
)
def test_requests_that_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        IndexRequest(**arguments)


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'recbole-diffusion\[retrieval\]'") as caught:
        import_faiss()
    assert "\n" not in str(caught.value)
