"""ComiRec's aggregation of items from several interests."""

from __future__ import annotations

import itertools

import pytest
import torch

from recbole_diffusion.interests.diversity import controllable_aggregation


def test_by_hand() -> None:
    scores = torch.tensor([[5.0, 4.5, 4.0, 3.2]])
    categories = torch.tensor([0, 0, 0, 1])
    assert controllable_aggregation(scores, categories, 3, 0.0).tolist() == [[0, 1, 2]]
    # after 0: 4.5 - 1, 4 - 1, 3.2; after 1: 4 - 2, 3.2
    assert controllable_aggregation(scores, categories, 3, 1.0).tolist() == [[0, 1, 3]]
    assert controllable_aggregation(scores, categories, 3, 2.0).tolist() == [[0, 3, 1]]


def test_without_coefficient_it_is_the_ranking() -> None:
    scores = torch.randn(6, 30, generator=torch.Generator().manual_seed(0))
    categories = torch.arange(30) % 3
    assert torch.equal(controllable_aggregation(scores, categories, 10, 0.0), scores.topk(10).indices)


def test_each_pick_maximises_the_papers_objective() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(1, 12, generator=generator)
    categories = torch.randint(0, 3, (12,), generator=generator)
    weight = 0.4  # the paper's lambda

    def objective(chosen: list[int]) -> float:
        apart = sum(int(categories[i] != categories[j]) for i, j in itertools.product(chosen, chosen))
        return float(scores[0, chosen].sum()) + weight * apart

    picked = controllable_aggregation(scores, categories, 6, 2 * weight)[0].tolist()
    for place in range(6):
        before = picked[:place]
        best = max((i for i in range(12) if i not in before), key=lambda i: objective([*before, i]))
        assert picked[place] == best


def test_a_great_coefficient_takes_categories_in_turn_and_rows_stay_apart() -> None:
    scores = torch.randn(4, 20, generator=torch.Generator().manual_seed(2))
    categories = torch.arange(20) % 5
    picked = controllable_aggregation(scores, categories, 5, 1e3)
    assert all(len(set(row)) == 5 for row in categories[picked].tolist())
    own = controllable_aggregation(scores[2:3], categories.expand(1, 20), 5, 1e3)
    assert torch.equal(own, picked[2:3])


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="n_picked is 3"):
        controllable_aggregation(torch.zeros(1, 2), torch.zeros(2, dtype=torch.long), 3, 0.0)
    with pytest.raises(ValueError, match="coefficient"):
        controllable_aggregation(torch.zeros(1, 2), torch.zeros(2, dtype=torch.long), 1, -1.0)
