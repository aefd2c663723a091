"""Merging chains: by hand; the ends of the scale are what they are said to be; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import RankedRows
from recbole_diffusion.models import base
from recbole_diffusion.recommendation.chains import Sampling, best_ranks, merge_chains
from recbole_diffusion.recommendation.recommender import Recommender

from .conftest import Train

HISTORIES = [["i1", "i2", "i3"], ["i20"], ["i7", "i30", "i31", "i5"]]


def rows(items: list[list[int]], scores: list[list[float]] | None = None) -> RankedRows:
    numbers = np.array(items, dtype=np.int32)
    given = np.zeros(numbers.shape) if scores is None else np.array(scores)
    return RankedRows(numbers, None, given.astype(np.float32))


F = {1: 0.2, 3: 4.0, 5: 3.0, 6: 0.7, 7: 0.1, 8: 2.0, 9: 0.5, 2: 1.0}
MEAN = rows([[3, 5, 8, 2]], [[4, 3, 2, 1]])
CHAINS = rows([[9, 3, 5, 7], [6, 9, 3, 1]])


def test_the_best_rank_of_an_item_is_over_all_chains() -> None:
    ids, ranks = best_ranks(np.array([[5, 3, 9], [3, 7, 0]]))
    assert ids.tolist() == [3, 5, 7, 9] and ranks.tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("diversity", "items"),
    [
        (0.0, [3, 5, 8, 2]),
        (0.12, [3, 5, 8, 2]),  # floor(0.48 + 0.5) = 0 places
        (0.25, [3, 5, 8, 6]),  # 6 and 9 are first in a chain; f(6) is the higher
        (0.5, [3, 5, 6, 9]),
        (0.75, [3, 6, 9, 5]),  # 3 has its place, 5 is third in the first chain
        (1.0, [6, 9, 3, 5]),
    ],
)
def test_places_are_shared_by_hand(diversity: float, items: list[int]) -> None:
    made = merge_chains(MEAN, CHAINS, lambda row, ids: np.array([F[int(i)] for i in ids]), diversity)
    assert made.items[0].tolist() == items
    assert np.allclose(made.scores[0], [F[item] for item in items])


def test_chains_may_come_in_any_order_and_lists_may_be_short() -> None:
    def score(row: int, ids: np.ndarray) -> np.ndarray:
        return np.array([F[int(i)] for i in ids])

    other = merge_chains(MEAN, rows([[6, 9, 3, 1], [9, 3, 5, 7]]), score, 1.0)
    assert other.items[0].tolist() == [6, 9, 3, 5]
    short = merge_chains(
        rows([[3, 5, 0, 0]], [[4, 3, -np.inf, -np.inf]]), rows([[5, 3, 0, 0], [3, 5, 0, 0]]), score, 0.5
    )
    assert short.items[0].tolist() == [3, 5, 0, 0] and np.isneginf(short.scores[0, 2:]).all()


@pytest.mark.parametrize("model", ["DiffuRec", "DreamRec"])
def test_no_diversity_is_the_mean_of_the_chains_as_the_model_takes_it(model: str, trained: Train) -> None:
    folder = trained(model).folder
    mean = Recommender.load(folder, device="cpu", config={"n_eval_samples": 5}).recommend(HISTORIES, 10)
    found = Recommender.load(folder, device="cpu").recommend(HISTORIES, 10, n_samples=5, diversity=0.0)
    assert found.items == mean.items
    assert np.allclose(found.scores, mean.scores, rtol=1e-4, atol=1e-5)
    pairs = Recommender.load(folder, device="cpu", config={"n_eval_samples": 2})
    four = Recommender.load(folder, device="cpu", config={"n_eval_samples": 4}).recommend(HISTORIES, 10)
    assert np.allclose(
        pairs.recommend(HISTORIES, 10, n_samples=2, diversity=0).scores, four.scores, rtol=1e-4, atol=1e-5
    )


def noisy(trained: Train) -> Recommender:
    """A model whose chains differ: the noised target weighs as much as the history."""
    return Recommender.load(trained("DiffuRec").folder, device="cpu", config={"lambda_mean": 1.0, "lambda_std": 1.0})


def test_full_diversity_begins_with_what_single_chains_rank_first(trained: Train) -> None:
    recommender = noisy(trained)
    first = int(recommender.config["eval_seed"])
    seeds = [first + chain * base._CHAIN_STRIDE for chain in range(6)]
    lists = [recommender.recommend(HISTORIES, 3, seed=seed).items for seed in seeds]
    assert lists[0] == recommender.recommend(HISTORIES, 3).items
    merged = recommender.recommend(HISTORIES, 30, n_samples=6, diversity=1.0).items
    for row in range(len(HISTORIES)):
        for depth in (1, 3):
            union = {item for of_chain in lists for item in (of_chain[row] or [])[:depth]}
            assert set((merged[row] or [])[: len(union)]) == union
    assert len({tuple(of_chain[0] or ()) for of_chain in lists}) > 1, "the chains are all the same"


def test_the_head_of_a_list_does_not_depend_on_what_follows(trained: Train) -> None:
    recommender = noisy(trained)
    mean = recommender.recommend(HISTORIES, 10, n_samples=6, diversity=0.0).items
    half = recommender.recommend(HISTORIES, 10, n_samples=6).items
    assert [line[:5] for line in half if line] == [line[:5] for line in mean if line]
    assert half != mean
    excluded = recommender.recommend(HISTORIES, 10, n_samples=6, diversity=1.0, exclude=[half[0] or [], [], None])
    assert not set(excluded.items[0] or ()) & set(half[0] or ())


def test_a_seed_is_the_runs_eval_seed_for_a_call_and_leaves_generators_alone(trained: Train) -> None:
    folder = trained("DiffuRec").folder
    recommender = Recommender.load(folder, device="cpu")
    other = Recommender.load(folder, device="cpu", config={"eval_seed": 7}).recommend(HISTORIES, 8)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    found = recommender.recommend(HISTORIES, 8, seed=7)
    assert torch.equal(torch.rand(2), expected)
    assert found.items == other.items and found.scores == other.scores
    assert recommender.recommend(HISTORIES, 8).scores != other.scores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_samples": 0}, "n_samples is 0; it must be a whole number, 1 or more"),
        ({"n_samples": 2.5}, "n_samples is 2.5"),
        ({"n_samples": 3, "diversity": 1.5}, "diversity is 1.5; it must be from 0"),
        ({"n_samples": 3, "diversity": "much"}, "diversity is 'much'"),
        ({"diversity": 0.5}, "diversity merges several chains, and n_samples is 1"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"seed": -1}, "seed is -1; it must be from 0 to 9223372036854775807"),
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be from 0 to 9223372036854775807"),
    ],
)
def test_mistakes_are_one_line(arguments: dict[str, Any], message: str, trained: Train) -> None:
    recommender = Recommender.load(trained("DiffuRec").folder, device="cpu")
    with pytest.raises(UserError, match=message) as caught:
        recommender.recommend(HISTORIES, 5, **arguments)
    assert "\n" not in str(caught.value)


def test_models_without_a_chain_refuse_several(trained: Train) -> None:
    for model in ("SASRec", "ComiRecSA"):
        recommender = Recommender.load(trained(model).folder, device="cpu")
        with pytest.raises(UserError, match=f"n_samples is 4, but {model} has no reverse chain"):
            recommender.recommend(HISTORIES, 5, n_samples=4)
        assert recommender.recommend(HISTORIES, 5, seed=1).items == recommender.recommend(HISTORIES, 5).items


def test_one_chain_is_what_sampling_says() -> None:
    assert Sampling.of(1, None, None) == Sampling(1, 0.0, None)
    assert Sampling.of(4, None, 3) == Sampling(4, 0.5, 3)


def test_the_largest_seed_draws(trained: Train) -> None:
    recommender = Recommender.load(trained("DiffuRec").folder, device="cpu")
    scores = [recommender.recommend(HISTORIES, 5, seed=seed).scores for seed in (2**63 - 1, 2**63 - 1, 0)]
    assert scores[0] == scores[1] != scores[2]
