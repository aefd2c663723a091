"""Losses of several vectors with one draw of negatives equal the losses taken one by one."""

from __future__ import annotations

import pytest
import torch

from recbole_diffusion.losses.negatives import Negatives, build_negative_sampler
from recbole_diffusion.losses.objective import RankingObjective
from recbole_diffusion.losses.ranking import full_softmax, sampled_softmax
from recbole_diffusion.losses.same_negatives import losses_of_each, repeated, without_history

ITEMS = 30


@pytest.mark.parametrize("log_q_correction", [False, True])
@pytest.mark.parametrize(
    ("name", "per_row"), [("uniform", True), ("uniform", False), ("log_uniform", False), ("in_batch", False)]
)
def test_one_pass_equals_one_by_one(name: str, per_row: bool, log_q_correction: bool) -> None:
    torch.manual_seed(0)
    targets, table = torch.tensor([3, 4, 5, 3]), torch.randn(ITEMS, 6)
    users = {"one": torch.randn(4, 6), "two": torch.randn(4, 6), "three": torch.randn(4, 6)}
    sampler = build_negative_sampler(
        name, 7, item_counts=lambda: torch.arange(ITEMS), log_q_correction=log_q_correction, per_row=per_row
    )
    negatives = sampler(targets, ITEMS)
    keys = {"log_q_correction": log_q_correction, "remove_hits": True}
    together = losses_of_each(users, table, targets, negatives, RankingObjective(sampler, **keys))
    assert list(together) == ["one", "two", "three"]
    for key, vectors in users.items():
        torch.testing.assert_close(together[key], sampled_softmax(vectors, table, targets, negatives, **keys))


def test_all_items_and_no_vectors() -> None:
    targets, table, user = torch.tensor([3, 4]), torch.randn(ITEMS, 6), torch.randn(2, 6)
    losses = losses_of_each({"one": user, "two": -user}, table, targets, None, RankingObjective())
    torch.testing.assert_close(losses["two"], full_softmax(-user, table, targets, include_padding=False))
    assert losses_of_each({}, table, targets, None, RankingObjective()) == {}


def test_items_of_the_history_become_the_target() -> None:
    negatives = Negatives(torch.tensor([[1, 2, 3, 9], [4, 5, 6, 9]]))
    kept = without_history(negatives, torch.tensor([20, 21]), torch.tensor([[2, 9, 0], [7, 4, 5]]))
    assert kept.ids.tolist() == [[1, 20, 3, 20], [21, 21, 6, 9]]
    with pytest.raises(ValueError, match="share"):
        without_history(Negatives(torch.tensor([1, 2])), torch.tensor([3]), torch.tensor([[1]]))


def test_once_is_not_copied() -> None:
    negatives = Negatives(torch.tensor([1, 2]))
    assert repeated(negatives, 1) is negatives
    assert repeated(negatives, 3).ids.tolist() == [1, 2]
