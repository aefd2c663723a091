"""The order of items, running top k, ranks of targets, and that no block exceeds its memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation import ranking
from recbole_diffusion.evaluation.ranking import (
    TopItems,
    by_row,
    count_targets,
    rank_by_rows,
    rank_by_vectors,
    rank_scores,
    top_items,
)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_order(scores: Tensor, k: int) -> Tensor:
    """Ids by score, the lower id first among equal ones: what every test compares with."""
    return torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :k]


@pytest.mark.parametrize(("width", "k"), [(1, 3), (7, 7), (40, 5), (163, 5), (640, 20), (1003, 3), (6000, 20)])
@pytest.mark.parametrize("levels", [None, 1000, 9, 1])
def test_top_items_are_those_of_a_stable_sort(width: int, k: int, levels: int | None) -> None:
    scores = torch.randn(11, width, generator=drawn(width + k))
    if levels is not None:  # many equal scores
        scores = torch.randint(-levels // 2, levels, (11, width), generator=drawn(levels)) / 7
    values, ids = top_items(scores, k)
    assert torch.equal(ids, in_order(scores, k))
    assert torch.equal(values, scores.gather(1, ids))


def test_zero_and_minus_zero_are_one_score_and_double_precision_keeps_its_order() -> None:
    assert top_items(torch.tensor([[-0.0, 0.0, -1.0, 0.0]]), 3)[1].tolist() == [[0, 1, 3]]
    close = torch.tensor([[1.0, 1.0 + 1e-12, 1.0]], dtype=torch.float64)
    assert top_items(close, 3)[1].tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("block", [1, 3, 50, 700])
@pytest.mark.parametrize("merge_after", [1, 8])
def test_running_top_k_does_not_depend_on_the_blocks(
    block: int, merge_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "MERGE_AFTER", merge_after)
    scores = torch.randint(0, 30, (6, 650), generator=drawn(1)).float()
    top = TopItems(12)
    for begin in range(0, 650, block):
        top.update(scores[:, begin : begin + block], begin)
    assert torch.equal(top.best()[1], in_order(scores, 12))


@pytest.mark.parametrize("width", [5, 2000])
def test_scores_that_are_not_numbers_are_refused(width: int) -> None:
    scores = torch.zeros(4, width)
    scores[2, width - 1] = -torch.tensor(torch.nan)
    with pytest.raises(UserError, match=r"NaN\) in 1 of 4 rows"):
        top_items(scores, 2)


def test_ranks_by_hand() -> None:
    infinity = float("inf")
    scores = torch.tensor([[-infinity, 5.0, 7.0, 5.0, 5.0, 1.0], [-infinity, 3.0, -infinity, 9.0, 9.0, 0.0]])
    row, item = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([4, 2, 1, 4, 2, 5])
    counts = count_targets(scores, row, item)
    assert counts.above.tolist() == [1, 0, 1, 0, 4, 3]
    assert counts.level.tolist() == [3, 1, 3, 2, 2, 1]
    assert counts.before.tolist() == [2, 0, 0, 1, 1, 0]
    assert counts.ranks.tolist() == [4, 1, 2, 2, 0, 4]  # item 2 of the second row is not ranked
    assert counts.candidates.tolist() == [5, 4]


def test_both_ways_to_count_agree_and_ranks_are_places_in_the_list() -> None:
    scores = torch.randint(0, 40, (5, 90), generator=drawn(3)).float()
    scores[:, 0] = -torch.inf
    row = torch.arange(5).repeat_interleave(4)
    item = torch.randint(1, 90, (20,), generator=drawn(4))
    counts = count_targets(scores, row, item)
    target = scores[row, item]
    for ours, theirs in zip(
        (counts.above, counts.level, counts.before, counts.candidates),
        ranking._count_in_blocks(scores, row, item, target),
    ):
        assert ours.tolist() == theirs.tolist()
    listed = in_order(scores, 90)
    for r, i, rank in zip(row.tolist(), item.tolist(), counts.ranks.tolist()):
        assert listed[r, rank - 1] == i


def test_rows_with_fewer_items_than_k_are_filled_with_the_padding_item() -> None:
    scores = torch.full((2, 6), -torch.inf)
    scores[0, 4], scores[0, 2] = 1.0, 2.0
    ranked = rank_scores(scores, 4)
    assert ranked.items.tolist() == [[2, 4, 0, 0], [0, 0, 0, 0]]
    assert rank_scores(torch.tensor([[-torch.inf, 1.0]]), 3).items.tolist() == [[1, 0, 0]]


def test_seen_items_leave_the_ranking() -> None:
    scores = torch.tensor([[-torch.inf, 4.0, 3.0, 2.0], [-torch.inf, 4.0, 3.0, 2.0]])
    seen = torch.tensor([1, 0, 1]), torch.tensor([1, 2, 3])
    ranked = rank_scores(scores, 3, (torch.tensor([0, 1]), torch.tensor([3, 3])), seen)
    assert ranked.items.tolist() == [[1, 3, 0], [2, 0, 0]]
    assert ranked.counts is not None
    assert ranked.counts.ranks.tolist() == [2, 0]


def whole_vectors(rows: int, vectors: int, items: int) -> tuple[Tensor, Tensor]:
    """Vectors of small whole numbers, whose products are exact in any order of summation and often equal."""
    users = torch.randint(-3, 4, (rows, vectors, 6), generator=drawn(rows)).float()
    return users, torch.randint(-3, 4, (items, 6), generator=drawn(items)).float()


def dot(users: Tensor, items: Tensor) -> Tensor:
    return users @ items.T


def pairs_of(rows: int, items: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    row = torch.randint(0, rows, (count,), generator=drawn(seed))
    return row, torch.randint(1, items, (count,), generator=drawn(seed + 1))


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("memory", [1, 2000, 40_000, 2**30])
@pytest.mark.parametrize("with_seen", [False, True])
def test_blocks_by_vectors_by_rows_and_all_at_once_agree(
    vectors: int, memory: int, with_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "BLOCK_ITEMS", 64)
    users, items = whole_vectors(13, vectors, 301)
    seen = pairs_of(13, 301, 200, 7) if with_seen else None
    targets = by_row(pairs_of(13, 301, 40, 9))
    scores = dot(users, items).amax(1)
    scores[:, 0] = -torch.inf
    expected = rank_scores(scores.clone(), 10, targets, seen)

    def score_rows(begin: int, stop: int) -> Tensor:
        return scores[begin:stop].clone()

    results = [
        rank_by_vectors(users, items, dot, 10, memory=memory, seen=seen),
        rank_by_vectors(users, items, dot, 10, memory=memory, seen=seen, targets=targets),
        rank_by_rows(score_rows, 13, 301, 10, memory=memory, seen=seen, targets=targets),
    ]
    for result in results:
        assert result.items.tolist() == expected.items.tolist()
    for result in results[1:]:
        assert result.counts is not None
        assert expected.counts is not None
        assert result.counts.ranks.tolist() == expected.counts.ranks.tolist()
        assert result.counts.candidates.tolist() == expected.counts.candidates.tolist()
    assert (expected.items > 0).all()
    if seen is not None:
        left_out = set(zip(seen[0].tolist(), seen[1].tolist()))
        assert not left_out & {(row, item) for row in range(13) for item in expected.items[row].tolist()}


@pytest.mark.parametrize("memory", [64 * 2**10, 2**20])
def test_no_block_is_larger_than_its_memory(memory: int) -> None:
    users, items = whole_vectors(300, 2, 20_000)
    sizes = []

    def watched(some_users: Tensor, some_items: Tensor) -> Tensor:
        scores = dot(some_users, some_items)
        sizes.append(scores.numel() * scores.element_size())
        return scores

    rank_by_vectors(users, items, watched, 5, memory=memory)
    assert max(sizes) <= memory
    assert sum(sizes) == 300 * 2 * 20_000 * 4  # every pair once
    assert max(sizes) > memory // 4  # and not in crumbs
    rows = []

    def score_rows(begin: int, stop: int) -> Tensor:
        rows.append(stop - begin)
        return torch.zeros(stop - begin, 2000)

    rank_by_rows(score_rows, 300, 2000, 5, memory=memory)
    assert max(rows) * 2000 * 4 <= memory
    assert sum(rows) == 300


def test_a_block_has_one_row_at_least() -> None:
    asked = []

    def score_rows(begin: int, stop: int) -> Tensor:
        asked.append((begin, stop))
        return torch.zeros(stop - begin, 50)

    rank_by_rows(score_rows, 3, 50, 2, memory=1)
    assert asked == [(0, 1), (1, 2), (2, 3)]


def test_pairs_out_of_order_are_put_in_order_of_rows_and_keep_their_own() -> None:
    row, item = by_row((torch.tensor([1, 0, 1, 0]), torch.tensor([9, 8, 7, 6])))
    assert row.tolist() == [0, 0, 1, 1]
    assert item.tolist() == [8, 6, 9, 7]


def test_reduced_precision_and_whole_numbers_are_ranked_in_float32() -> None:
    for kind in (torch.bfloat16, torch.float16, torch.int64):
        ranked = rank_scores(torch.tensor([[0, 2, 3, 1]]).to(kind), 2)
        assert ranked.items.tolist() == [[2, 1]]
        assert ranked.items.dtype == np.int32


@pytest.mark.gpu
def test_an_accelerator_gives_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    users, items = whole_vectors(13, 2, 30_000)
    seen, targets = pairs_of(13, 30_000, 200, 7), by_row(pairs_of(13, 30_000, 40, 9))
    for counted in (None, targets):
        on_cpu = rank_by_vectors(users, items, dot, 10, memory=2**20, seen=seen, targets=counted)
        on_gpu = rank_by_vectors(users.cuda(), items.cuda(), dot, 10, memory=2**20, seen=seen, targets=counted)
        assert on_gpu.items.tolist() == on_cpu.items.tolist()
        if on_cpu.counts is not None:
            assert on_gpu.counts is not None
            assert on_gpu.counts.ranks.tolist() == on_cpu.counts.ranks.tolist()
            assert on_gpu.counts.candidates.tolist() == on_cpu.counts.candidates.tolist()
