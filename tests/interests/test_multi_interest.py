"""Self-attentive interests and the read-outs of training."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_diffusion.interests.multi_interest import (
    SelfAttentiveInterests,
    _signed_power,
    label_attention,
    real_items,
    select_interest,
)

B, K, L, D = 3, 4, 7, 6
LENGTHS = torch.tensor([7, 3, 1])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_weights_are_distributions_over_real_items() -> None:
    interests = SelfAttentiveInterests(D, K, L)(torch.randn(B, L, D), LENGTHS)
    assert interests.vectors.shape == (B, K, D)
    assert interests.weights.shape == (B, K, L)
    torch.testing.assert_close(interests.weights.sum(-1), torch.ones(B, K))
    assert interests.weights[~real_items(LENGTHS, L)[:, None].expand(B, K, L)].abs().max() == 0


def test_equation_written_out() -> None:
    extractor = SelfAttentiveInterests(D, K, L, bias=True)
    items = torch.randn(1, 4, D)
    interests = extractor(items, torch.tensor([4]))
    assert extractor.positions is not None
    read = items[0] + extractor.positions[:4]
    hidden = torch.tanh(extractor.hidden.weight @ read.T + extractor.hidden.bias[:, None])
    attention = (extractor.attention.weight @ hidden + extractor.attention.bias[:, None]).softmax(1)
    torch.testing.assert_close(interests.weights[0], attention)
    torch.testing.assert_close(interests.vectors[0], attention @ items[0])  # values without positions


def test_padding_does_not_matter() -> None:
    extractor = SelfAttentiveInterests(D, K, L)
    items = torch.randn(B, L, D)
    other = torch.where(real_items(LENGTHS, L)[:, :, None], items, torch.randn(B, L, D))
    torch.testing.assert_close(extractor(items, LENGTHS).vectors, extractor(other, LENGTHS).vectors)
    narrow = extractor(items[1:, :3], LENGTHS[1:])
    torch.testing.assert_close(extractor(items, LENGTHS).vectors[1:], narrow.vectors)


def test_order_matters_only_with_positions() -> None:
    items, swap = torch.randn(1, L, D), torch.tensor([1, 0, 2, 3, 4, 5, 6])
    lengths = torch.tensor([L])
    for positions in (False, True):
        extractor = SelfAttentiveInterests(D, K, L, positions=positions)
        same = torch.allclose(extractor(items, lengths).vectors, extractor(items[:, swap], lengths).vectors, atol=1e-6)
        assert same is not positions


def test_one_item_is_every_interest() -> None:
    items = torch.randn(B, L, D)
    vectors = SelfAttentiveInterests(D, K, L)(items, LENGTHS).vectors
    torch.testing.assert_close(vectors[2], items[2, :1].expand(K, D))


def test_start_follows_the_published_codes() -> None:
    extractor = SelfAttentiveInterests(64, K, 20)
    assert extractor.hidden.bias is None
    assert extractor.hidden.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)
    assert extractor.attention.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.1)
    assert extractor.positions is not None
    assert extractor.positions.std().item() == pytest.approx(math.sqrt(2 / (20 * 64)), rel=0.1)
    extractor.reset_parameters("glorot")
    assert extractor.hidden.weight.abs().max().item() <= math.sqrt(6 / (64 + 256))
    with pytest.raises(ValueError, match="use kaiming or glorot"):
        extractor.reset_parameters("xavier")


def test_selected_interest_is_the_best_and_keeps_its_gradient() -> None:
    vectors = torch.randn(B, K, D, requires_grad=True)
    target = torch.randn(B, D, requires_grad=True)
    index, chosen = select_interest(vectors, target)
    assert index.tolist() == [int((vectors[row] @ target[row]).argmax()) for row in range(B)]
    chosen.sum().backward()
    assert vectors.grad is not None
    assert target.grad is None
    for row in range(B):
        assert vectors.grad[row].sum(1).tolist() == [D if k == index[row] else 0 for k in range(K)]


def test_label_attention_from_even_to_hard() -> None:
    vectors, target = torch.randn(B, K, D), torch.randn(B, D)
    torch.testing.assert_close(label_attention(vectors, target, 0), vectors.mean(1))
    torch.testing.assert_close(label_attention(vectors, target, math.inf), select_interest(vectors, target)[1])
    products = torch.einsum("bkd,bd->bk", vectors, target)
    torch.testing.assert_close(
        label_attention(vectors, target, 1), torch.einsum("bk,bkd->bd", products.softmax(1), vectors)
    )
    two = (products.sign() * products.square()).softmax(1)
    torch.testing.assert_close(label_attention(vectors, target, 2), torch.einsum("bk,bkd->bd", two, vectors))
    with pytest.raises(ValueError, match="label attention's power"):
        label_attention(vectors, target, 0.5)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 7.0, 13.0])
def test_label_attention_is_the_formula_bit_for_bit_where_that_is_finite(power: float) -> None:
    vectors, target = torch.randn(B, K, D, requires_grad=True), torch.randn(B, D)
    products = torch.einsum("bkd,bd->bk", vectors, target)
    assert products.detach().abs().max() < 1e10 ** (1 / power)
    plain = torch.einsum("bk,bkd->bd", (products.sign() * products.abs() ** power).softmax(1), vectors)
    found = label_attention(vectors, target, power)
    assert torch.equal(found, plain)
    weight = torch.randn(B, D)
    (one,) = torch.autograd.grad((plain * weight).sum(), vectors)
    (other,) = torch.autograd.grad((found * weight).sum(), vectors)
    assert torch.equal(one, other)


@pytest.mark.parametrize("power", [20.0, 100.0, 1e4, 1e8, 1e30])
@pytest.mark.parametrize(
    "products",
    [[4.0, 3.0, -5.0, 0.0], [4.0, 3.9999, 1.0, 0.5], [1e4, 1e15, 2.0, -1e15], [-2.0, -3.0, -4.0, -1.5]],
)
def test_label_attention_of_large_products_goes_to_the_best_interest(power: float, products: list[float]) -> None:
    vectors = torch.diag(torch.tensor(products))[None].requires_grad_()
    target = torch.ones(1, 4)
    found = label_attention(vectors, target, power)
    best = vectors[:, int(torch.tensor(products).argmax())]
    torch.testing.assert_close(found, best)
    (found * torch.tensor([1.0, -2.0, 3.0, 1.0])).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


def test_label_attention_of_equal_large_products_is_their_mean_with_a_finite_gradient() -> None:
    vectors = torch.tensor([[[4.0, 0.0], [0.0, 4.0]]], requires_grad=True)
    found = label_attention(vectors, torch.ones(1, 2), 100.0)
    torch.testing.assert_close(found, torch.full((1, 2), 2.0))
    found[0, 0].backward()
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("power", [2.0, 15.0])
def test_label_attention_has_no_jump_where_the_power_grows_too_large(power: float) -> None:
    limit = 1e10 ** (1 / power)
    x = (limit * torch.tensor([0.999, 1.001])).double().requires_grad_()
    values = _signed_power(x, power)
    torch.testing.assert_close(values, x.detach() ** power, rtol=2e-3 * power, atol=0.0)
    (slope,) = torch.autograd.grad(values.sum(), x)
    torch.testing.assert_close(slope, power * x.detach() ** (power - 1), rtol=2e-3 * power, atol=0.0)


def test_label_attention_leaves_out_what_a_row_does_not_have() -> None:
    vectors, target = torch.randn(B, K, D), torch.randn(B, D)
    valid = torch.tensor([[True, False, False, False]]).expand(B, K)
    torch.testing.assert_close(label_attention(vectors, target, 2, valid), vectors[:, 0])


def test_label_attention_is_finite_at_zero() -> None:
    vectors = torch.zeros(B, K, D, requires_grad=True)
    label_attention(vectors, torch.randn(B, D), 2.0).sum().backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("batch", [1, B])
def test_finite_in_bf16(batch: int) -> None:
    extractor = SelfAttentiveInterests(D, K, L)
    items = torch.zeros(batch, L, D, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        interests = extractor(items, LENGTHS[:batch])
    interests.vectors.float().sum().backward()
    assert items.grad is not None
    assert torch.isfinite(items.grad).all()


def test_other_devices_compute_padding_too() -> None:
    """Off the CPU nothing waits for the number of real items; torch's device without data shows that the shapes fit."""
    extractor = SelfAttentiveInterests(D, K, L).to("meta")
    interests = extractor(torch.empty(B, L, D, device="meta"), LENGTHS.to("meta"))
    assert interests.vectors.shape == (B, K, D)
    assert interests.weights.device.type == "meta"
