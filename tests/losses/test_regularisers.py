"""REMI's routing regulariser."""

from __future__ import annotations

import pytest
import torch

from recbole_diffusion.interests.multi_interest import real_items
from recbole_diffusion.losses.regularisers import routing_regulariser

B, K, L, D = 3, 2, 6, 8


def peaked(lengths: list[int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(len(lengths), K, L, generator=generator)
    mask = real_items(torch.tensor(lengths), L)[:, None]
    return scores.masked_fill(~mask, -torch.inf).softmax(-1)


def test_covariance_written_out() -> None:
    weights = peaked([6, 4, 2])
    centred = weights - weights.mean(-1, keepdim=True)
    covariance = centred @ centred.transpose(1, 2) / D
    expected = torch.diagonal(covariance, dim1=1, dim2=2).square().sum()
    torch.testing.assert_close(routing_regulariser(weights, dim=D), expected)


def test_closed_form() -> None:
    weights = peaked([6, 3, 1])
    closed = ((weights.square().sum(-1) - 1 / L) / D).square().sum(1)
    torch.testing.assert_close(routing_regulariser(weights, dim=D, reduction="none"), closed, rtol=1e-4, atol=1e-7)


def test_zero_only_for_even_attention_over_all_positions() -> None:
    even = torch.full((B, K, L), 1 / L)
    assert routing_regulariser(even, dim=D).item() == 0.0
    assert routing_regulariser(peaked([6, 6, 6]), dim=D).item() > 0.0


def test_padded_rows_keep_a_rest() -> None:
    n = 4
    even = torch.zeros(1, K, L)
    even[:, :, :n] = 1 / n
    assert routing_regulariser(even, dim=D).item() == pytest.approx(K * ((1 / n - 1 / L) / D) ** 2, rel=1e-5)
    mask = real_items(torch.tensor([n]), L)
    assert routing_regulariser(even, mask, dim=D).item() == pytest.approx(0.0, abs=1e-12)


def test_batch_width_does_not_matter() -> None:
    weights = peaked([4, 3, 1])
    torch.testing.assert_close(
        routing_regulariser(weights[:, :, :4], dim=D, padded_length=L), routing_regulariser(weights, dim=D)
    )


def test_reductions() -> None:
    weights = peaked([6, 4, 2])
    rows = routing_regulariser(weights, dim=D, reduction="none")
    assert rows.shape == (B,)
    torch.testing.assert_close(routing_regulariser(weights, dim=D), rows.sum())
    torch.testing.assert_close(routing_regulariser(weights, dim=D, reduction="mean"), rows.mean())


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="already have 6 positions"):
        routing_regulariser(peaked([6]), dim=D, padded_length=5)
    with pytest.raises(ValueError, match="not both"):
        routing_regulariser(peaked([6]), real_items(torch.tensor([6]), L), dim=D, padded_length=8)
