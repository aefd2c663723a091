"""Extractors of guidance by rule, by a Transformer and by a perceptron; the Transformer against its equations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.interests.guidance_extractors import build_guidance_extractor, guidance_count
from recbole_diffusion.interests.history_encoder import HistoryEncoder, MeanMLPInterest
from recbole_diffusion.interests.rules import LatestItems

LENGTHS = torch.tensor([3, 1, 5, 4])


def histories(width: int = 5, dim: int = 8) -> Tensor:
    return torch.randn(4, width, dim, generator=torch.Generator().manual_seed(0))


def test_the_latest_items_by_hand() -> None:
    items = histories()
    found = LatestItems(4)(items, LENGTHS)
    assert found.valid is not None
    assert found.valid.tolist() == [[True] * 3 + [False], [True] + [False] * 3, [True] * 4, [True] * 4]
    places = [[2, 1, 0, 2], [0, 0, 0, 0], [4, 3, 2, 1], [3, 2, 1, 0]]
    assert found.weights.argmax(2).tolist() == places and bool((found.weights.sum(2) == 1).all())
    for row, order in enumerate(places):
        torch.testing.assert_close(found.vectors[row], items[row, order])
    assert not list(LatestItems(4).parameters())
    with pytest.raises(ValueError, match="n_interests is 0"):
        LatestItems(0)


def plain_encoder(model: HistoryEncoder, items: Tensor) -> Tensor:
    """The state of every item of one unpadded history (L, D), as the equations have it."""
    s = items + model.positions[: len(items)]
    for block in model.blocks:
        heads, size = block.n_heads, s.shape[1] // block.n_heads
        x = block.query_norm(s)
        query, (key, value) = block.query(x), block.key_value(s).chunk(2, dim=1)
        parts = []
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            scores = query[:, mine] @ key[:, mine].T / math.sqrt(size)
            future = torch.ones_like(scores).triu(1).bool()
            parts.append(scores.masked_fill(future, -math.inf).softmax(1) @ value[:, mine])
        b = block.feed_forward_norm(x + torch.cat(parts, dim=1))
        s = block.output_norm(b + block.contract(functional.relu(block.expand(b))))
    return model.norm(s)


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (1, 2), (3, 4)])
def test_the_encoder_is_its_equations(layers: int, heads: int) -> None:
    torch.manual_seed(0)
    model = HistoryEncoder(8, 9, layers, heads).eval()
    items = histories()
    states, last = model(items, LENGTHS), model.last_state(items, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        expected = plain_encoder(model, items[row, :length])
        torch.testing.assert_close(states[row, :length], expected, rtol=1e-4, atol=1e-5)
        assert not states[row, length:].any()
        torch.testing.assert_close(last[row], expected[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sa", "dr", "rule", "sasrec", "mlp"])
def test_padding_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    extractor = build_guidance_extractor(name, 8, 3, 12, initialisation="kaiming", n_heads=2).eval()  # type: ignore[arg-type]
    items = histories()
    wide = torch.cat([items, torch.randn(4, 6, 8)], dim=1)
    narrow, padded = extractor(items, LENGTHS), extractor(wide, LENGTHS)
    assert narrow.vectors.shape == (4, guidance_count(name, 3), 8)  # type: ignore[arg-type]
    torch.testing.assert_close(padded.vectors, narrow.vectors, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded.weights[:, :, :5], narrow.weights, rtol=1e-5, atol=1e-6)
    assert not padded.weights[:, :, 5:].any()
    alone = torch.cat([extractor(items[i : i + 1, : LENGTHS[i]], LENGTHS[i : i + 1]).vectors for i in range(4)])
    torch.testing.assert_close(alone, narrow.vectors, rtol=1e-5, atol=1e-6)


def test_the_perceptron_reads_the_mean() -> None:
    model, items = MeanMLPInterest(8), histories()
    expected = model.output(torch.tanh(model.hidden(items[0, :3].mean(0))))
    torch.testing.assert_close(model(items, LENGTHS).vectors[0, 0], expected)


def test_positions_and_settings() -> None:
    assert float(HistoryEncoder(64, 100, position_init_std=1.0).positions.detach().std()) == pytest.approx(
        1.0, abs=0.05
    )
    xavier = HistoryEncoder(64, 100, position_init_std=None).positions.detach().std()
    assert float(xavier) == pytest.approx(math.sqrt(2 / 164), rel=0.1)
    with pytest.raises(ValueError, match="guidance 'rnn' does not exist"):
        build_guidance_extractor("rnn", 8, 3, 12)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a multiple of n_heads 3"):
        HistoryEncoder(8, 5, n_heads=3)
    with pytest.raises(ValueError, match="n_layers is 0"):
        HistoryEncoder(8, 5, n_layers=0)
