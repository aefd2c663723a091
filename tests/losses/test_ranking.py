"""Sampled ranking losses against their equations written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.losses.negatives import InBatchNegatives, Negatives
from recbole_diffusion.losses.ranking import candidate_scores, full_softmax, gbce, gbce_power, sampled_softmax

B, D, V, M = 5, 6, 12, 7


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor, Negatives]:
    generator = torch.Generator().manual_seed(3)
    users = torch.randn(B, D, generator=generator, requires_grad=True)
    items = torch.randn(V, D, generator=generator, requires_grad=True)
    targets = torch.tensor([1, 4, 9, 4, 11])
    return users, items, targets, Negatives(torch.tensor([2, 4, 4, 9, 10, 3, 7]))


def by_hand(users: Tensor, items: Tensor, target: int, ids: list[int], beta: float) -> float:
    """-log(e^s+ / (e^s+ + sum w_j e^s_j)) for one row."""
    users, items = users.detach(), items.detach()
    s_plus = float(users @ items[target])
    s = [float(users @ items[i]) for i in ids]
    mean = sum(math.exp(beta * x) for x in s) / len(s)
    denominator = math.exp(s_plus) + sum(math.exp(beta * x) / mean * math.exp(x) for x in s)
    return -math.log(math.exp(s_plus) / denominator)


@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("remove_hits", [False, True])
def test_sampled_softmax_by_hand(
    case: tuple[Tensor, Tensor, Tensor, Negatives], beta: float, per_row: bool, remove_hits: bool
) -> None:
    users, items, targets, negatives = case
    ids = negatives.ids.expand(B, M) if per_row else negatives.ids
    loss = sampled_softmax(users, items, targets, Negatives(ids), hardness=beta, remove_hits=remove_hits)
    for row in range(B):
        target = int(targets[row])
        kept = [i for i in negatives.ids.tolist() if not (remove_hits and i == target)]
        assert loss[row].item() == pytest.approx(by_hand(users[row], items, target, kept, beta), rel=1e-5)


def test_all_items_as_negatives_is_the_full_softmax(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, _ = case
    everything = Negatives(torch.arange(1, V))
    torch.testing.assert_close(
        sampled_softmax(users, items, targets, everything, remove_hits=True),
        full_softmax(users, items, targets, include_padding=False),
    )


def test_temperature_divides_scores(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, negatives = case
    torch.testing.assert_close(
        sampled_softmax(users, items, targets, negatives, temperature=0.5, hardness=1.0),
        sampled_softmax(2 * users, items, targets, negatives, hardness=1.0),
    )


def test_log_q_correction_by_hand(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, negatives = case
    log_q = torch.linspace(-3, -1, M)
    target_log_q = torch.linspace(-2, -1, B)
    loss = sampled_softmax(users, items, targets, Negatives(negatives.ids, log_q, target_log_q), log_q_correction=True)
    positive = (users * items[targets]).sum(1) - target_log_q
    logits = torch.cat((positive[:, None], users @ items[negatives.ids].T - log_q), dim=1)
    torch.testing.assert_close(
        loss, functional.cross_entropy(logits, torch.zeros(B, dtype=torch.long), reduction="none")
    )


def test_correction_needs_probabilities(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, negatives = case
    with pytest.raises(ValueError, match="log_q_correction needs"):
        sampled_softmax(users, items, targets, negatives, log_q_correction=True)


def test_constant_log_q_changes_nothing(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, negatives = case
    known = Negatives(negatives.ids, torch.full((M,), -2.0), torch.full((B,), -2.0))
    torch.testing.assert_close(
        sampled_softmax(users, items, targets, known, log_q_correction=True),
        sampled_softmax(users, items, targets, negatives),
    )


def test_hard_weights_do_not_see_a_shift_of_scores() -> None:
    """One constant dimension adds the same to every score: neither softmax nor weights may notice."""
    generator = torch.Generator().manual_seed(1)
    users, items = torch.randn(B, D, generator=generator), torch.randn(V, D, generator=generator)
    items[:, 0] = 1.0
    shifted = users.clone()
    shifted[:, 0] += 30.0
    targets, negatives = torch.tensor([1, 2, 3, 4, 5]), Negatives(torch.arange(6, 12))
    torch.testing.assert_close(
        sampled_softmax(users, items, targets, negatives, hardness=10.0),
        sampled_softmax(shifted, items, targets, negatives, hardness=10.0),
        rtol=1e-4,
        atol=1e-4,
    )


def test_great_hardness_keeps_the_hardest_negative_with_weight_m(
    case: tuple[Tensor, Tensor, Tensor, Negatives],
) -> None:
    users, items, targets, _ = case
    negatives = Negatives(torch.tensor([2, 9, 10, 3, 7, 5, 6]))
    loss = sampled_softmax(users, items, targets, negatives, hardness=1e4)
    hardest = (users @ items[negatives.ids].T).amax(1) + math.log(M)
    positive = (users * items[targets]).sum(1)
    torch.testing.assert_close(loss, torch.logaddexp(positive, hardest) - positive, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("beta", [0.5, 1.0, 10.0])
@pytest.mark.parametrize("remove_hits", [False, True])
def test_hard_weights_have_mean_one(beta: float, remove_hits: bool) -> None:
    """REMI: w_j = exp(beta s_j) / mean_m exp(beta s_m); read off the loss, from its slope by each negative's score."""
    scores = torch.tensor([[0.3, -1.0, 0.9, 0.3], [0.0, 0.5, 0.5, 0.2]], requires_grad=True)
    users = torch.eye(2, requires_grad=True)
    # items 1 .. 4 score scores[row] with both rows' unit vectors; item 5 is the target of row 0, item 3 of row 1
    items = torch.cat((torch.zeros(1, 2), scores.T, torch.zeros(1, 2)))
    targets, negatives = torch.tensor([5, 3]), Negatives(torch.tensor([1, 2, 3, 4]))
    loss = sampled_softmax(
        users, items, targets, negatives, hardness=beta, detach_weights=True, remove_hits=remove_hits
    )
    for row, target_score in enumerate((0.0, 0.5)):
        (slope,) = torch.autograd.grad(loss[row], scores, retain_graph=True)
        # d L / d s_j = w_j e^(s_j - s_+) / e^L, and for row 1 without removed hits the target is a negative too
        kept = [j for j in range(4) if not (row == 1 and j == 2)]
        weights = slope[row, kept] * loss[row].exp() * (target_score - scores[row, kept]).exp()
        exact = (beta * scores[row]).exp()
        among = kept if remove_hits else list(range(4))
        torch.testing.assert_close(weights, exact[kept] / exact[among].mean(), rtol=1e-4, atol=1e-5)
        if among == kept:
            assert float(weights.detach().mean()) == pytest.approx(1.0, rel=1e-4)


def test_detached_weights_change_the_gradient_alone(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, negatives = case
    kept = sampled_softmax(users, items, targets, negatives, hardness=1.0)
    detached = sampled_softmax(users, items, targets, negatives, hardness=1.0, detach_weights=True)
    torch.testing.assert_close(kept, detached)
    (kept_gradient,) = torch.autograd.grad(kept.sum(), users)
    (detached_gradient,) = torch.autograd.grad(detached.sum(), users)
    assert not torch.allclose(kept_gradient, detached_gradient)


@pytest.mark.parametrize("hardness", [0.0, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_finite_at_zero_with_huge_scores_and_without_negatives(hardness: float, scale: float) -> None:
    users = torch.full((2, 3), scale, requires_grad=True)
    items = torch.full((4, 3), scale, requires_grad=True)
    targets = torch.tensor([2, 1])
    loss = sampled_softmax(users, items, targets, Negatives(torch.tensor([2, 2])), hardness=hardness, remove_hits=True)
    loss.sum().backward()
    assert loss[0].item() == 0.0  # every negative was the row's target
    for tensor in (loss, users.grad, items.grad):
        assert tensor is not None
        assert torch.isfinite(tensor).all()


def test_in_batch_negatives_leave_out_the_own_target(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, _ = case
    loss = sampled_softmax(users, items, targets, InBatchNegatives()(targets, V))
    assert loss[1].item() == pytest.approx(by_hand(users[1], items, 4, [1, 9, 11], 0.0), rel=1e-5)


def test_negatives_of_another_batch_are_refused(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, _ = case
    with pytest.raises(ValueError, match="for 5 targets"):
        sampled_softmax(users, items, targets, Negatives(torch.ones(4, 2, dtype=torch.long)))


def test_gbce_by_hand(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, negatives = case
    alpha, t = M / (V - 2), 0.75
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    loss = gbce(users, items, targets, negatives, calibration=t)
    for row in range(B):
        positive = torch.sigmoid(users[row] @ items[targets[row]]) ** beta
        others = torch.sigmoid(items[negatives.ids] @ users[row])
        expected = -(positive.log() + (1 - others).log().sum()) / (M + 1)
        assert loss[row].item() == pytest.approx(expected.item(), rel=1e-5)


def test_gbce_power_between_bce_and_calibrated() -> None:
    assert gbce_power(256, 10_002, 0.0) == pytest.approx(1.0)
    assert gbce_power(256, 10_002, 1.0) == pytest.approx(256 / 10_000)
    assert gbce_power(100, 12, 0.9) == 1.0  # more negatives than items: every one is seen
    with pytest.raises(ValueError, match="calibration t is"):
        gbce_power(1, 10, 1.5)
    with pytest.raises(ValueError, match="n_negatives is 0"):
        gbce_power(0, 10, 0.5)


def test_gbce_without_hits_is_the_mean_over_the_rest(case: tuple[Tensor, Tensor, Tensor, Negatives]) -> None:
    users, items, targets, negatives = case
    loss = gbce(users, items, targets, negatives, calibration=0.0, remove_hits=True)
    kept = torch.tensor([2, 9, 10, 3, 7])
    scores = torch.cat((items[4][None], items[kept])) @ users[1]
    labels = torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert loss[1].item() == pytest.approx(functional.binary_cross_entropy_with_logits(scores, labels).item(), rel=1e-5)


@pytest.mark.parametrize("loss_function", [sampled_softmax, gbce])
def test_bf16_autocast_is_close(case: tuple[Tensor, Tensor, Tensor, Negatives], loss_function: object) -> None:
    assert callable(loss_function)
    users, items, targets, negatives = case
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_function(users, items, targets, negatives)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_function(users, items, targets, negatives), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("n_items", [40, 41])
def test_negatives_of_each_row_have_the_same_scores_from_either_side(n_items: int) -> None:
    """V = M D scores all items, one more reads the negatives' vectors; scores and gradients are those by hand."""
    draw = torch.Generator().manual_seed(8)
    users = torch.randn(6, 8, generator=draw, requires_grad=True)
    table = torch.randn(n_items, 8, generator=draw, requires_grad=True)
    targets = torch.randint(1, n_items, (6,), generator=draw)
    ids = torch.randint(1, n_items, (6, 5), generator=draw)
    weight = torch.randn(6, 6, generator=draw)
    own, others = candidate_scores(users, table, targets, Negatives(ids))
    expected = (users[:, None] * table[torch.cat((targets[:, None], ids), 1)]).sum(-1)
    assert torch.allclose(torch.cat((own[:, None], others), 1), expected, atol=1e-5)
    found = torch.autograd.grad((own * weight[:, 0]).sum() + (others * weight[:, 1:]).sum(), (users, table))
    by_hand = torch.autograd.grad((expected * weight).sum(), (users, table))
    for one, other in zip(found, by_hand, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
