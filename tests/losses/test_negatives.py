"""Negative samplers: which ids, how often, and the probabilities they report."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_diffusion.losses.negatives import (
    NEGATIVE_SAMPLERS,
    InBatchNegatives,
    LogUniformNegatives,
    UniformNegatives,
    build_negative_sampler,
)

TARGETS = torch.tensor([3, 1, 3, 2])
COUNTS = torch.tensor([99, 2, 7, 7, 1, 30])  # by popularity: 5, 2, 3, 1, 4


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", sorted(NEGATIVE_SAMPLERS))
def test_padding_is_never_drawn_and_every_item_can_be(name: str) -> None:
    sampler = build_negative_sampler(name, 2, item_counts=lambda: COUNTS)
    targets = torch.arange(1, 6)
    seen = set()
    for _ in range(100):
        negatives = sampler(targets, 6)
        assert negatives.ids.dim() == 1
        seen |= set(negatives.ids.tolist())
    assert seen == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", ["uniform", "log_uniform"])
def test_per_row_draws_differ_between_rows(name: str) -> None:
    negatives = build_negative_sampler(name, 50, item_counts=lambda: COUNTS, per_row=True)(TARGETS, 6)
    assert negatives.ids.shape == (4, 50)
    assert negatives.log_q is not None
    assert negatives.log_q.shape == (4, 50)
    assert len({tuple(row) for row in negatives.ids.tolist()}) == 4
    assert negatives.ids.min() >= 1
    assert negatives.ids.max() <= 5


def test_uniform_probability() -> None:
    negatives = UniformNegatives(10)(TARGETS, 6)
    assert negatives.log_q is not None
    assert negatives.target_log_q is not None
    assert negatives.log_q.tolist() == pytest.approx([-math.log(5)] * 10)
    assert negatives.target_log_q.tolist() == pytest.approx([-math.log(5)] * 4)


def test_log_uniform_follows_popularity_by_hand() -> None:
    sampler = LogUniformNegatives(200_000, COUNTS)
    negatives = sampler(TARGETS, 6)
    by_hand = {item: math.log((rank + 2) / (rank + 1)) / math.log(6) for rank, item in enumerate([5, 2, 3, 1, 4])}
    assert sum(by_hand.values()) == pytest.approx(1.0)
    for item, probability in by_hand.items():
        assert (negatives.ids == item).double().mean().item() == pytest.approx(probability, abs=0.005)
    assert negatives.log_q is not None
    assert negatives.target_log_q is not None
    assert negatives.log_q[:9].tolist() == pytest.approx([math.log(by_hand[i]) for i in negatives.ids[:9].tolist()])
    assert negatives.target_log_q.tolist() == pytest.approx([math.log(by_hand[i]) for i in TARGETS.tolist()])


def test_without_repeats_every_item_once_with_its_inclusion_probability() -> None:
    counts = torch.arange(40, 0, -1)
    sampler = LogUniformNegatives(8, counts, unique=True)
    drawn = torch.zeros(40)
    reported = torch.zeros(40)
    rounds = 4000
    everything = torch.arange(1, 40)
    for _ in range(rounds):
        negatives = sampler(everything, 40)
        assert len(set(negatives.ids.tolist())) == 8
        drawn[negatives.ids] += 1
        assert negatives.target_log_q is not None
        reported[1:] += negatives.target_log_q.exp()
    assert drawn[0] == 0
    # an item's reported probability includes its own draw, so it leans a little towards it; 1 / 39 apart at most
    torch.testing.assert_close(drawn / rounds, reported / rounds, atol=0.04, rtol=0)


def test_more_negatives_than_items() -> None:
    negatives = LogUniformNegatives(1280, COUNTS, unique=True)(TARGETS, 6)
    assert negatives.ids.tolist() == [1, 2, 3, 4, 5]
    assert negatives.log_q is not None
    assert negatives.log_q.tolist() == [0.0] * 5


def test_one_item() -> None:
    targets = torch.tensor([1])
    assert UniformNegatives(3)(targets, 2).ids.tolist() == [1, 1, 1]
    assert LogUniformNegatives(3, torch.tensor([0, 4]))(targets, 2).ids.tolist() == [1, 1, 1]
    assert LogUniformNegatives(3, torch.tensor([0, 4]), unique=True)(targets, 2).ids.tolist() == [1]


def test_in_batch_uses_the_targets_and_their_share() -> None:
    negatives = InBatchNegatives(COUNTS)(TARGETS, 6)
    assert negatives.ids.tolist() == TARGETS.tolist()
    assert negatives.holds_targets
    assert negatives.log_q is not None
    assert negatives.log_q.exp().tolist() == pytest.approx([7 / 47, 2 / 47, 7 / 47, 7 / 47])
    assert InBatchNegatives()(TARGETS, 6).log_q is None


def test_in_batch_shares_of_fractions() -> None:
    """One cut of each user makes an item of long histories a small fraction; padding's number is not looked at."""
    negatives = InBatchNegatives(torch.tensor([9.0, 0.01, 0.04, 0.05, 0.0, 0.9]))(torch.tensor([1, 2, 3, 4, 5]), 6)
    assert negatives.log_q is not None
    assert negatives.log_q.exp().tolist() == pytest.approx([0.01, 0.04, 0.05, 0.01, 0.9])  # item 4 as the rarest
    nothing = InBatchNegatives(torch.zeros(3))(torch.tensor([1, 2]), 3).log_q
    assert nothing is not None
    assert nothing.isfinite().all()


def test_same_seed_same_negatives() -> None:
    for name in NEGATIVE_SAMPLERS:
        sampler = build_negative_sampler(name, 4, item_counts=lambda: COUNTS)
        torch.manual_seed(5)
        first = sampler(TARGETS, 6).ids
        torch.manual_seed(5)
        assert torch.equal(first, sampler(TARGETS, 6).ids)


@pytest.mark.parametrize(
    ("name", "log_q_correction", "read"),
    [
        ("uniform", False, False),
        ("uniform", True, False),
        ("log_uniform", False, True),
        ("log_uniform", True, True),
        ("in_batch", False, False),
        ("in_batch", True, True),
    ],
)
def test_counts_are_asked_for_where_they_are_read(name: str, log_q_correction: bool, read: bool) -> None:
    asked = []

    def counts() -> torch.Tensor:
        asked.append(name)
        return COUNTS

    sampler = build_negative_sampler(name, 2, item_counts=counts, log_q_correction=log_q_correction)
    assert asked == [name] * read
    negatives = sampler(TARGETS, 6)
    assert (negatives.log_q is not None) == (read or name == "uniform")


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="use one of uniform, log_uniform, in_batch"):
        build_negative_sampler("popular", 4)
    with pytest.raises(ValueError, match="item_counts"):
        build_negative_sampler("log_uniform", 4)
    with pytest.raises(ValueError, match="n_negatives is 0"):
        UniformNegatives(0)
    with pytest.raises(ValueError, match="per_row or unique"):
        LogUniformNegatives(4, COUNTS, per_row=True, unique=True)
    with pytest.raises(ValueError, match="catalogue's 7 items"):
        LogUniformNegatives(4, COUNTS)(TARGETS, 7)


@pytest.mark.parametrize("name", sorted(NEGATIVE_SAMPLERS))
def test_draws_lie_where_the_targets_lie(name: str) -> None:
    sampler = build_negative_sampler(name, 3, item_counts=lambda: COUNTS, log_q_correction=True)
    if isinstance(sampler, torch.nn.Module):
        sampler.to("meta")
    negatives = sampler(TARGETS.to("meta"), 6)
    assert negatives.ids.device.type == "meta"
    assert negatives.log_q is not None
    assert negatives.target_log_q is not None
    assert (negatives.log_q.device.type, negatives.target_log_q.device.type) == ("meta", "meta")
