"""Dynamic routing: ComiRec-DR's and MIND's extractors against plain loops."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import RowNoise
from recbole_diffusion.interests.multi_interest import real_items
from recbole_diffusion.interests.routing import DynamicRouting, SharedRouting, route, squash

B, K, L, D = 3, 4, 7, 6
LENGTHS = torch.tensor([7, 3, 1])
Softmax = Literal["interest", "item"]
BOTH: tuple[Softmax, ...] = ("interest", "item")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def published(votes: Tensor, start: Tensor, n: int, softmax: Softmax) -> tuple[Tensor, Tensor]:
    """The published procedure for one row: votes (K, S, D) with zero rows on padding, b at the start (K, S)."""
    b = start.clone()
    for iteration in range(3):
        c = torch.softmax(b, dim=0 if softmax == "interest" else 1)
        c[:, n:] = 0
        u = votes if iteration == 2 else votes.detach()
        s = torch.stack([(c[k][:, None] * u[k]).sum(0) for k in range(K)])
        square = s.square().sum(1, keepdim=True)
        v = square / (1 + square) * s / torch.sqrt(square + 1e-9)
        b = b + torch.stack([u[k].detach() @ v[k].detach() for k in range(K)])
    return v, c


def test_squash_keeps_direction_and_shrinks() -> None:
    vectors = torch.randn(50, D) * torch.logspace(-3, 3, 50)[:, None]
    squashed = squash(vectors)
    norms = squashed.norm(dim=1)
    assert norms.max() < 1.0 + 1e-6
    assert (norms[:40] < 1).all()
    torch.testing.assert_close(norms[20:], (vectors.square().sum(1) / (1 + vectors.square().sum(1)))[20:])
    torch.testing.assert_close(torch.cosine_similarity(vectors, squashed), torch.ones(50))


def test_squash_is_finite_at_zero() -> None:
    vectors = torch.zeros(2, D, requires_grad=True)
    squash(vectors).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.abs().max() == 0


@pytest.mark.parametrize("softmax", BOTH)
def test_dynamic_routing_is_the_published_procedure(softmax: Softmax) -> None:
    extractor = DynamicRouting(D, K, L, softmax)
    extractor.reset_parameters("kaiming_per_item")
    items = torch.randn(B, L, D)
    interests = extractor(items, LENGTHS)
    for row in range(B):
        n = int(LENGTHS[row])
        votes = torch.zeros(K, L, D)
        for k in range(K):
            for j in range(n):
                votes[k, j] = extractor.votes[j].view(K, D, D)[k] @ items[row, j]
        v, c = published(votes, torch.zeros(K, L), n, softmax)
        torch.testing.assert_close(interests.vectors[row], v, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(interests.weights[row], c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softmax", BOTH)
def test_shared_routing_is_the_published_procedure(softmax: Softmax) -> None:
    extractor = SharedRouting(D, K, L, softmax, init="fixed")
    items = torch.randn(B, L, D)
    interests = extractor(items, LENGTHS)
    for row in range(B):
        n = int(LENGTHS[row])
        votes = torch.zeros(K, L, D)
        votes[:, :n] = (items[row, :n] @ extractor.votes.weight.T).expand(K, n, D)
        v, c = published(votes, extractor.start, n, softmax)
        torch.testing.assert_close(interests.vectors[row], v, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(interests.weights[row], c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softmax", BOTH)
@pytest.mark.parametrize("shared", [False, True])
def test_batch_width_and_padding_content_do_not_matter(softmax: Softmax, shared: bool) -> None:
    extractor = SharedRouting(D, K, L, softmax, init="fixed") if shared else DynamicRouting(D, K, L, softmax)
    items = torch.randn(B, L, D)
    whole = extractor(items, LENGTHS).vectors
    other = torch.where(real_items(LENGTHS, L)[:, :, None], items, torch.randn(B, L, D))
    torch.testing.assert_close(extractor(other, LENGTHS).vectors, whole)
    torch.testing.assert_close(extractor(items[1:, :3], LENGTHS[1:]).vectors, whole[1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("softmax", "invariant"), [("interest", True), ("item", False)])
def test_padding_takes_mass_only_over_items(softmax: Softmax, invariant: bool) -> None:
    """A longer max_length is more padding: without effect over interests, with effect over items."""
    short, long = DynamicRouting(D, K, 4, softmax), DynamicRouting(D, K, L, softmax)
    short.reset_parameters("kaiming_per_item")
    long.votes.data[:4] = short.votes.data
    items = torch.randn(B, 3, D)
    lengths = torch.tensor([3, 3, 1])
    same = torch.allclose(short(items, lengths).vectors, long(items, lengths).vectors, atol=1e-6)
    assert same is invariant


def test_over_interests_an_item_is_shared_out_over_items_an_interest_is() -> None:
    items = torch.randn(B, L, D)
    over_interests = DynamicRouting(D, K, L, "interest")(items, LENGTHS).weights
    real = real_items(LENGTHS, L)
    torch.testing.assert_close(over_interests.sum(1), real.float())
    over_items = DynamicRouting(D, K, L, "item")(items, LENGTHS).weights
    torch.testing.assert_close(over_items[0].sum(1), torch.ones(K))
    assert (over_items[1].sum(1) < 1).all()


def test_one_interest_over_interests_takes_every_item() -> None:
    items = torch.randn(B, L, D)
    for extractor in (DynamicRouting(D, 1, L), SharedRouting(D, 1, L)):
        weights = extractor(items, LENGTHS).weights
        torch.testing.assert_close(weights[:, 0], real_items(LENGTHS, L).float())


def test_gradient_flows_through_the_last_round_alone() -> None:
    """Coefficients come from detached votes: the gradient is that of squash(sum of fixed c times votes)."""
    extractor = DynamicRouting(D, K, L)
    extractor.reset_parameters("normal")
    items = torch.randn(B, L, D, requires_grad=True)
    interests = extractor(items, LENGTHS)
    assert not interests.weights.requires_grad
    (gradient,) = torch.autograd.grad(interests.vectors.square().sum(), items)
    votes = torch.einsum("lod,bld->blo", extractor.votes, items).view(B, L, K, D)
    fixed = squash(torch.einsum("bkl,blkd->bkd", interests.weights, votes))
    (expected,) = torch.autograd.grad(fixed.square().sum(), items)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_mind_does_not_see_the_order_of_items() -> None:
    extractor = SharedRouting(D, K, L)
    items, order = torch.randn(1, L, D), torch.randperm(L)
    start = torch.randn(K, L)
    lengths = torch.tensor([L])
    fixed = SharedRouting(D, K, L, init="fixed")
    fixed.load_state_dict({**extractor.state_dict(), "start": start})
    one = fixed(items, lengths).vectors
    fixed.start.copy_(start[:, order])  # each item keeps its own b
    torch.testing.assert_close(fixed(items[:, order], lengths).vectors, one, rtol=1e-4, atol=1e-5)


def test_random_start_breaks_the_symmetry_of_interests() -> None:
    items = torch.randn(1, L, D)
    extractor = SharedRouting(D, K, L)
    vectors = extractor(items, torch.tensor([L])).vectors[0]
    assert (vectors[0] - vectors[1]).abs().max() > 1e-3
    fixed = SharedRouting(D, K, L, init="fixed")
    fixed.start.zero_()
    vectors = fixed(items, torch.tensor([L])).vectors[0]
    torch.testing.assert_close(vectors[0], vectors[1])


@pytest.mark.parametrize("softmax", BOTH)
def test_row_noise_makes_a_row_independent_of_its_batch(softmax: Softmax) -> None:
    extractor = SharedRouting(D, K, L, softmax)
    items = torch.randn(B, L, D)
    together = extractor(items, LENGTHS, RowNoise([5, 6, 7], 1)).vectors
    alone = extractor(items[1:2, :3], LENGTHS[1:2], RowNoise([6], 1)).vectors
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-6)


def test_adaptive_number_of_interests() -> None:
    extractor = SharedRouting(D, K, L, adaptive=True)
    interests = extractor(torch.randn(B, L, D), LENGTHS)
    assert interests.valid is not None
    assert interests.valid.sum(1).tolist() == [2, 1, 1]  # log2 of 7, 3, 1 rounded down, at least 1
    torch.testing.assert_close(interests.vectors[0, 2:], interests.vectors[0, :1].expand(2, D))
    own = (interests.weights * interests.valid[:, :, None]).sum(1)
    torch.testing.assert_close(own, real_items(LENGTHS, L).float())


def test_relu_layer() -> None:
    extractor = SharedRouting(D, K, L, relu_layer=True)
    assert extractor(torch.randn(B, L, D), LENGTHS).vectors.min() >= 0


def test_start_of_votes() -> None:
    extractor = DynamicRouting(16, K, 10)
    assert extractor.votes.std().item() == pytest.approx(math.sqrt(2 / (10 * K * 16 * 16)), rel=0.05)
    extractor.reset_parameters("kaiming_per_item")
    assert extractor.votes.std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.05)
    extractor.reset_parameters("normal")
    assert extractor.votes.std().item() == pytest.approx(1.0, rel=0.05)
    with pytest.raises(ValueError, match="kaiming_per_item or normal"):
        extractor.reset_parameters("zero")
    with pytest.raises(ValueError, match="routing_iterations is 0"):
        DynamicRouting(D, K, L, iterations=0)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("softmax", BOTH)
def test_finite_in_bf16_and_at_zero(shared: bool, softmax: Softmax) -> None:
    extractor = SharedRouting(D, K, L, softmax) if shared else DynamicRouting(D, K, L, softmax)
    items = torch.zeros(1, 1, D, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        interests = extractor(items, torch.tensor([1]))
    interests.vectors.float().sum().backward()
    assert items.grad is not None
    assert torch.isfinite(items.grad).all()


def test_half_precision_rounds_the_votes_alone() -> None:
    """Small items, as at the start: squash's 1e-9 is 0 in fp16, and the gradient was not a number."""
    votes = (1e-3 * torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(1))).half()
    logits, lengths = torch.zeros(3, 2, 5), torch.tensor([5, 1, 3])
    gradients = []
    for enabled in (True, False):
        own = votes.clone().float().requires_grad_()
        with torch.autocast("cpu", torch.float16, enabled=enabled):
            vectors = route(own, logits, lengths, softmax="interest").vectors
        assert vectors.dtype == torch.float32
        vectors.sum().backward()
        gradients.append(own.grad)
    assert gradients[0] is not None and gradients[1] is not None
    assert torch.isfinite(gradients[0]).all() and gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


@pytest.mark.parametrize("softmax", BOTH)
def test_nothing_stays_on_the_cpu(softmax: Softmax) -> None:
    """torch's device without data refuses tensors that were made elsewhere."""
    items, lengths = torch.empty(B, L, D, device="meta"), LENGTHS.to("meta")
    extractors = (
        DynamicRouting(D, K, L, softmax),
        SharedRouting(D, K, L, softmax, adaptive=True, relu_layer=True),
        SharedRouting(D, K, L, softmax, init="fixed"),
    )
    for extractor in extractors:
        interests = extractor.to("meta")(items, lengths)
        assert interests.vectors.shape == (B, K, D)
        assert interests.weights.device.type == "meta"
