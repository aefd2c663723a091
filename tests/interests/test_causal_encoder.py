"""SASRec's encoder: equal to a padded computation with torch's attention, causal, blind to padding; training pairs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_diffusion.interests.causal_encoder import CausalBlock, CausalEncoder, causal, training_pairs
from recbole_diffusion.interests.packing import pack

DIM, LENGTH, ITEMS = 8, 6, 20
HISTORIES = [[3, 1, 4], [5], [9, 2, 6, 5, 3, 8], [7, 7]]


def encoder(**keys: Any) -> CausalEncoder:
    torch.manual_seed(1)
    settings = {"dim": DIM, "layers": 2, "heads": 2, "inner": 12, "probability": 0.0, "max_length": LENGTH, **keys}
    built = CausalEncoder(**settings)
    for name, weight in built.named_parameters():  # no weight at a value that hides a mistake
        if "norm" in name or "bias" in name:
            nn.init.normal_(weight, mean=0.5, std=0.3)
    return built.eval()


def table() -> Tensor:
    return torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(2))


def batch(histories: list[list[int]], width: int = LENGTH) -> tuple[Tensor, Tensor]:
    item_seq = torch.zeros(len(histories), width, dtype=torch.long)
    for row, items in enumerate(histories):
        item_seq[row, : len(items)] = torch.tensor(items)
    return item_seq, torch.tensor([len(items) for items in histories])


def block_by_hand(block: CausalBlock, x: Tensor) -> Tensor:
    """One block on one history (n, D), with torch's own multi-head attention."""
    attention = nn.MultiheadAttention(DIM, block.attention.heads, batch_first=True)
    own = block.attention
    attention.in_proj_weight.data = torch.cat([own.query.weight, own.key_value.weight])
    attention.in_proj_bias.data = torch.cat([own.query.bias, own.key_value.bias])
    attention.out_proj.weight.data = torch.eye(DIM) if own.output is None else own.output.weight
    attention.out_proj.bias.data = torch.zeros(DIM) if own.output is None else own.output.bias
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    queries = block.attention_norm(x)
    y = queries + attention(queries[None], x[None], x[None], attn_mask=future)[0][0]
    z = block.feed_forward_norm(y)
    hidden = block.expand(z)
    hidden = {"relu": torch.relu, "gelu": nn.functional.gelu, "none": lambda value: value}[block.activation](hidden)
    return z + block.contract(hidden)


def states_by_hand(built: CausalEncoder, items: list[int]) -> Tensor:
    place = torch.arange(len(items)) + (LENGTH - len(items) if built.position_order == "from_last" else 0)
    x = table()[items] * built.scale + built.position_embedding(place)
    for block in built.blocks:
        x = block_by_hand(block, x)  # type: ignore[arg-type]
    return built.norm(x)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"position_order": "from_last", "scale_items": False, "output_projection": False},
        {"activation": "gelu", "heads": 1},
        {"activation": "none", "layers": 1},
    ],
)
@torch.no_grad()
def test_states_are_those_of_a_padded_computation(keys: dict[str, Any]) -> None:
    built = encoder(**keys)
    states, layout = built(table(), *batch(HISTORIES), last_only=False)
    for row, items in enumerate(HISTORIES):
        expected = states_by_hand(built, items)
        own = (layout.row == row) & (layout.item_ids > 0)
        assert torch.allclose(states[own], expected, atol=1e-5)
    last = built.users(table(), *batch(HISTORIES))
    assert torch.allclose(last, states[layout.last], atol=1e-5)


@torch.no_grad()
def test_a_state_does_not_see_the_future() -> None:
    built = encoder()
    states, layout = built(table(), *batch([[3, 1, 4, 1]]), last_only=False)
    changed, _ = built(table(), *batch([[3, 1, 9, 9]]), last_only=False)
    order = layout.position.argsort()[layout.item_ids[layout.position.argsort()] > 0]
    assert torch.allclose(states[order[:2]], changed[order[:2]], atol=1e-6)
    assert not torch.allclose(states[order[2]], changed[order[2]], atol=1e-3)


@pytest.mark.parametrize("position_order", ["from_first", "from_last"])
@torch.no_grad()
def test_neither_padding_nor_neighbours_matter(position_order: Any) -> None:
    built = encoder(position_order=position_order)
    together = built.users(table(), *batch(HISTORIES))
    for row, items in enumerate(HISTORIES):
        assert torch.allclose(built.users(table(), *batch([items], width=len(items)))[0], together[row], atol=1e-5)


@torch.no_grad()
def test_places_count_from_either_end() -> None:
    """Equal for a full history; for a shorter one `from_last` reads the last rows of the table of positions."""
    first, last = encoder(), encoder(position_order="from_last")
    full = [9, 2, 6, 5, 3, 8]
    assert torch.allclose(first.users(table(), *batch([full])), last.users(table(), *batch([full])))
    short = batch([full[:2]])
    assert not torch.allclose(first.users(table(), *short), last.users(table(), *short), atol=1e-3)
    first.position_embedding.weight[:2] = last.position_embedding.weight[LENGTH - 2 :]
    assert torch.allclose(first.users(table(), *short), last.users(table(), *short))


def test_the_causal_bias_of_a_segment() -> None:
    layout = causal(pack(*batch([[1, 2], [3, 4, 5]]), padding_tokens=False, padded_length=LENGTH, widths=()))
    seen = [
        {
            (int(layout.item_ids[group.start + segment * group.width + query]),
             int(layout.item_ids[group.start + segment * group.width + key]))
            for query in range(group.width) for key in range(group.width)
            if group.bias[segment, 0, query, key] > -1e8
        }
        for group in layout.groups for segment in range(group.segments)
    ]  # fmt: skip
    pairs = {pair for found in seen for pair in found if all(pair)}
    assert pairs == {(1, 1), (2, 1), (2, 2), (3, 3), (4, 3), (4, 4), (5, 3), (5, 4), (5, 5)}


# ---- training pairs ----


def test_every_place_is_asked_for_the_item_that_follows() -> None:
    item_seq, lengths = batch(HISTORIES)
    targets = torch.tensor([11, 12, 13, 14])
    layout = pack(item_seq, lengths, padding_tokens=False, padded_length=LENGTH)
    token, items = training_pairs(layout, item_seq, lengths, targets, "all")
    found = sorted((int(layout.row[t]), int(layout.position[t]), int(layout.item_ids[t]), int(i))
                   for t, i in zip(token, items, strict=True))  # fmt: skip
    expected = []
    for row, history in enumerate(HISTORIES):
        following = [*history[1:], int(targets[row])]
        expected += [
            (row, place, item, after) for place, (item, after) in enumerate(zip(history, following, strict=True))
        ]
    assert found == sorted(expected)
    token, items = training_pairs(layout, item_seq, lengths, targets, "last")
    assert torch.equal(token, layout.last)
    assert torch.equal(items, targets)


@torch.no_grad()
def test_the_pairs_of_last_are_among_those_of_all() -> None:
    built = encoder()
    targets = torch.tensor([11, 12, 13, 14])
    every, items = built.pairs(table(), *batch(HISTORIES), targets, "all")
    assert len(every) == len(items) == sum(map(len, HISTORIES))
    last, own = built.pairs(table(), *batch(HISTORIES), targets, "last")
    assert torch.equal(own, targets)
    for state, item in zip(last, own, strict=True):
        assert torch.allclose(every[items == item][0], state, atol=1e-5)


# ---- training ----


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("positions", ["all", "last"])
def test_gradients_are_finite_and_everywhere(precision: torch.dtype | None, positions: Any) -> None:
    built = encoder(probability=0.3).train()
    vectors = table().requires_grad_()
    with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
        states, _ = built.pairs(vectors, *batch(HISTORIES), torch.tensor([11, 12, 13, 14]), positions)
        (states.float() ** 3).sum().backward()
    for name, weight in [*built.named_parameters(), ("items", vectors)]:
        assert weight.grad is not None, name
        assert bool(torch.isfinite(weight.grad).all()), name
        assert bool((weight.grad != 0).any()), name


def test_weights_start_as_in_the_code() -> None:
    built = CausalEncoder(64, 2, 1, 64, 0.1, 50)
    bound = math.sqrt(6 / (4 * 64))
    for block in built.blocks:
        for weight in (block.attention.query.weight, block.attention.key_value.weight):
            assert weight.abs().max() <= bound
            assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert float(block.expand.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        assert not block.expand.bias.any()
    assert float(built.position_embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"heads": 3}, "hidden_size 8 is not a multiple of n_heads 3"),
        ({"layers": 0}, "n_layers is 0"),
        ({"inner": 0}, "inner_size is 0"),
        ({"probability": 1.0}, "dropout_prob is 1.0"),
    ],
)
def test_sizes_that_no_network_has(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**keys)
