"""Cross-entropy over all items in blocks: the dense one's losses and gradients, and nothing of its size in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recbole_diffusion.losses import linear_cross_entropy
from recbole_diffusion.losses.linear_cross_entropy import chunked_softmax
from recbole_diffusion.losses.objective import FULL_ITEMS, RankingObjective, build_objective, chosen_loss
from recbole_diffusion.losses.ranking import full_softmax
from tests.losses.allocations import large_tensors

V, D = 203, 8


@pytest.fixture(autouse=True, params=["items", "rows"])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Blocks of 3 rows and 64 items, or of 3 rows of all items, so that neither divides what it cuts."""
    monkeypatch.setattr(linear_cross_entropy, "CPU_BLOCK_BYTES", 1)
    monkeypatch.setattr(linear_cross_entropy, "BLOCK_ROWS", 3)
    monkeypatch.setattr(linear_cross_entropy, "LEAST_ROWS", 3)
    monkeypatch.setattr(linear_cross_entropy, "CPU_ROW_BYTES", 3 * 4 * V if request.param == "rows" else 0)
    return str(request.param)


def case(rows: int, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    users = (scale * torch.randn(rows, D, generator=generator, dtype=dtype)).requires_grad_()
    items = torch.randn(V, D, generator=generator, dtype=dtype).requires_grad_()
    return users, items, torch.randint(1, V, (rows,), generator=generator)


def both(
    rows: int, include_padding: bool, scale: float, autocast: bool = False, unequal: bool = True
) -> list[list[Tensor]]:
    """Losses and gradients of rows, weighted unequally or not, dense and chunked."""
    results = []
    for softmax in (full_softmax, chunked_softmax):
        users, items, targets = case(rows, scale)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            losses = softmax(users, items, targets, include_padding=include_padding)
        (losses * torch.linspace(0 if unequal else 2, 2, rows)).mean().backward()
        assert users.grad is not None and items.grad is not None
        results.append([losses.detach(), users.grad, items.grad])
    return results


@pytest.mark.parametrize("unequal", [True, False])
@pytest.mark.parametrize("include_padding", [True, False])
@pytest.mark.parametrize(("rows", "scale"), [(1, 1.0), (3, 1.0), (10, 1.0), (10, 30.0)])
def test_same_losses_and_gradients_as_dense(rows: int, scale: float, include_padding: bool, unequal: bool) -> None:
    dense, chunked = both(rows, include_padding, scale, unequal=unequal)
    for expected, found in zip(dense, chunked, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if not include_padding:
        assert bool((chunked[2][0] == 0).all())


def test_bf16_autocast_is_as_far_from_float32_as_the_dense_one() -> None:
    exact = both(10, True, 1.0)[0]
    dense, chunked = both(10, True, 1.0, autocast=True)
    for true, reduced, found in zip(exact, dense, chunked, strict=True):
        assert found.dtype == reduced.dtype == torch.float32
        assert (found - true).norm() <= 1.5 * (reduced - true).norm()
        assert not torch.equal(found, true)


@pytest.mark.parametrize("include_padding", [True, False])
def test_gradients_against_finite_differences(include_padding: bool) -> None:
    users, items, targets = case(4, dtype=torch.float64)
    items = items.detach()[:70].requires_grad_()
    targets = targets % 69 + 1

    def losses(users: Tensor, items: Tensor) -> Tensor:
        return chunked_softmax(users, items, targets, include_padding=include_padding)

    assert losses(users, items).dtype == torch.float64
    assert torch.autograd.gradcheck(losses, (users, items))


def test_by_hand() -> None:
    users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    items = torch.tensor([[5.0, 5.0], [1.0, 1.0], [2.0, 0.0]])
    losses = chunked_softmax(users, items, torch.tensor([1, 2]), include_padding=False)
    # scores 1, 2 of the first row, log(1 + e) above the target; 2, 0 of the second, log(1 + e^2)
    expected = torch.tensor([1.0, 2.0]).exp().add(1).log()
    torch.testing.assert_close(losses, expected)


def test_only_what_needs_a_gradient_gets_one() -> None:
    users, items, targets = case(5)
    chunked_softmax(users, items.detach(), targets).sum().backward()
    assert items.grad is None and users.grad is not None
    chunked_softmax(users.detach(), items, targets).sum().backward()
    assert items.grad is not None


def test_no_rows() -> None:
    users, items, targets = case(2)
    losses = chunked_softmax(users[:0], items, targets[:0])
    assert losses.shape == (0,)
    losses.sum().backward()
    assert items.grad is not None and not bool(items.grad.any())


@pytest.mark.parametrize("target", [0, V])
def test_a_target_that_is_no_class_is_refused(target: int) -> None:
    users, items, _ = case(1)
    with pytest.raises(IndexError, match=r"not one of the items 1 \.\. 202"):
        chunked_softmax(users, items, torch.tensor([target]), include_padding=False)


@pytest.mark.parametrize("joined", [True, False])
def test_a_second_backward_pass_and_gradients_that_add_up(joined: bool) -> None:
    users, items, targets = case(7)
    full_softmax(users, items, targets).mean().backward()
    assert users.grad is not None and items.grad is not None
    expected, users.grad, items.grad = (users.grad, items.grad), None, None
    loss = chunked_softmax(users, items, targets, joined=joined).mean()
    for times in (1, 2):
        loss.backward(retain_graph=True)
        for found, once in zip((users.grad, items.grad), expected, strict=True):
            assert found is not None
            torch.testing.assert_close(found, times * once, rtol=1e-5, atol=1e-5)
    chunked_softmax(users, items, targets, joined=joined).mean().backward()
    torch.testing.assert_close(items.grad, 3 * expected[1], rtol=1e-5, atol=1e-5)


def test_nothing_of_the_size_of_the_logits_but_the_gradient(by: str) -> None:
    users, items, targets = case(40)
    with large_tensors(V * D) as made:
        chunked_softmax(users, items, targets).sum().backward()
    assert made == [(f"aten.{'zeros' if by == 'rows' else 'empty'}_like.default", (V, D))]
    with large_tensors(V * D) as made:
        full_softmax(users, items, targets).sum().backward()
    assert len(made) > 2  # the watch sees logits


def test_which_loss_a_key_names() -> None:
    assert chosen_loss("auto", FULL_ITEMS + 1) == "full"
    assert chosen_loss("auto", FULL_ITEMS + 2) == "chunked"
    assert [chosen_loss(name, 10**7) for name in ("full_softmax", "sampled_softmax", "full", "gbce")] == [
        "full", "sampled", "full", "gbce",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="loss 'bpr' does not exist; use one of auto, full, chunked, sampled, gbce"):
        chosen_loss("bpr", 10)


def test_an_objective_knows_whether_it_samples() -> None:
    for loss in ("full", "chunked", "sampled", "gbce"):
        objective = build_objective(loss, "uniform", 4, n_items=V, item_counts=lambda: torch.ones(V))  # type: ignore[arg-type]
        assert (objective.sampler is None) == (loss in ("full", "chunked"))
        users, items, targets = case(3)
        assert objective(users, items, targets).shape == (3,)
    with pytest.raises(ValueError, match="loss is gbce, and no sampler"):
        RankingObjective(loss="gbce")
