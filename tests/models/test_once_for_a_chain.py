"""What a chain computes once, counted by calls and rows, and that it is the same as computed in every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recbole_diffusion.config import RunConfig
from recbole_diffusion.denoisers.mlp import MLPDenoiser
from recbole_diffusion.denoisers.row_attention import RowKeys, last_attention_of_gathered, last_softmax_attention
from recbole_diffusion.diffusion.guidance import ClassifierFreeGuidance, with_and_without
from recbole_diffusion.diffusion.noise import ZeroNoise
from recbole_diffusion.interests.packing import pack
from recbole_diffusion.registry import resolve_model

from .tiny import TINY, Items, interaction

ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [13, 14, 15, 16, 17]]
TARGETS = [5, 6, 7, 8, 9]
STEPS, CHAINS = 4, 3
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def build(name: str, **keys: Any) -> Any:
    torch.manual_seed(2)
    config = RunConfig(name, "tiny", (), {**TINY, "n_heads": 2, "n_layers": 2, **keys})
    model = resolve_model(name).model_class(config, Items(51)).eval()
    with torch.no_grad():  # norms and biases away from where they start
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def counted(model: Any, work: Any) -> dict[str, list[int]]:
    """Rows of the first argument of every call of every module, by the module's name."""
    calls: dict[str, list[int]] = {}
    handles = []
    for name, module in model.named_modules():

        def note(_: Any, arguments: tuple[Any, ...], name: str = name) -> None:
            rows = len(arguments[0]) if arguments and isinstance(arguments[0], Tensor) else 0
            calls.setdefault(name, []).append(rows)

        handles.append(module.register_forward_pre_hook(note))
    with torch.no_grad():
        work()
    for handle in handles:
        handle.remove()
    return calls


ENCODED = {  # what depends on the history alone
    "DiffuRec": ["history_norm", "denoiser.mixing.step_embedding"],
    "DiffuRecSys": ["history_norm", "denoiser.mixing.step_embedding", "denoiser.blocks.1.cross_attention.key_value"],
    "DimeRec": ["extractor", "denoiser.of_guidance", "denoiser.step_embedding", "denoiser.of_step"],
    "DreamRec": ["encoder.blocks.0", "denoiser.of_guidance", "denoiser.step_embedding", "denoiser.of_step"],
    "DMI": ["extractor", "refinement.denoiser.step_embedding"],
}


@pytest.mark.parametrize("name", list(ENCODED))
def test_what_no_step_changes_is_computed_once_for_all_chains(name: str) -> None:
    model = build(name, reverse_steps=STEPS, n_eval_samples=CHAINS)
    batch = interaction(ROWS, TARGETS)
    calls = counted(model, lambda: model.user_vectors(batch))
    denoiser = "refinement.denoiser" if name == "DMI" else "denoiser"
    assert len(calls[denoiser]) == STEPS * CHAINS
    of_padding = 1 if name == "DiffuRecSys" else 0  # the tokens' norm, keys and values, and those of the shared padding
    for part in ENCODED[name]:
        assert len(calls[part]) == 1 + (of_padding if part.endswith(("norm", "key_value")) else 0), part


@pytest.mark.parametrize("name", list(ENCODED))
def test_chains_that_share_what_is_encoded_are_those_drawn_one_by_one(name: str) -> None:
    model = build(name, reverse_steps=STEPS, lambda_mean=0.5) if name.startswith("Diffu") else build(name)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        drawn = [model.sample_user_vectors(batch, model.evaluation_noise(batch, chain)) for chain in range(CHAINS)]
        model.options = replace(model.options, n_eval_samples=CHAINS)
        torch.testing.assert_close(model.user_vectors(batch), torch.stack(drawn).mean(0), rtol=1e-5, atol=1e-6)


# --- DiffuRec: one query in the last block ----------------------------------------------------------------------------


@pytest.mark.parametrize("mask_mode", ["query", "key"])
@pytest.mark.parametrize("heads", [1, 4])
def test_the_last_block_asks_once_a_row(mask_mode: str, heads: int) -> None:
    model = build("DiffuRec", mask_mode=mask_mode, n_heads=heads, lambda_mean=0.5, lambda_std=0.1, reverse_steps=2)
    batch = interaction(ROWS, TARGETS)
    blocks = model.denoiser.blocks
    with torch.no_grad():
        short = model.user_vectors(batch)
        calls = counted(model, lambda: model.user_vectors(batch))
        tokens = calls["denoiser.blocks.0.feed_forward"][0]
        assert tokens > len(ROWS) == calls["denoiser.blocks.1.feed_forward"][0]
        assert calls["denoiser.blocks.0.attention"] == [tokens] * 2
        assert "denoiser.blocks.1.attention" not in calls  # `of_last` instead
        last = type(blocks[-1].attention).of_last
        blocks[-1].attention.of_last = lambda x, layout: blocks[-1].attention(x, layout)[layout.last]
        torch.testing.assert_close(model.user_vectors(batch), short, **CLOSE)
        del blocks[-1].attention.of_last
        assert blocks[-1].attention.of_last.__func__ is last


@pytest.mark.parametrize("padding_tokens", [False, True])
def test_one_query_a_row_by_both_ways_and_by_hand(padding_tokens: bool) -> None:
    batch = interaction(ROWS, TARGETS)
    layout = pack(batch["item_id_list"], batch["item_length"], padding_tokens=padding_tokens, padded_length=8)
    tokens, heads = len(layout.item_ids), 2
    key, value = torch.randn(2, tokens, 8)
    query = torch.randn(len(ROWS), 8)
    keys = RowKeys(key, value, heads, None)
    expected = torch.empty(len(ROWS), heads, 4)
    for row in range(len(ROWS)):
        length = int(layout.lengths[row])
        places = torch.arange(int(layout.last[row]) - length + 1, int(layout.last[row]) + 1)
        for head in range(heads):
            part = slice(4 * head, 4 * head + 4)
            scores = key[places, part] @ query[row, part] / 2.0
            if padding_tokens and length > len(ROWS[row]):
                scores[0] += torch.tensor(8.0 - len(ROWS[row])).log()
            expected[row, head] = scores.softmax(0) @ value[places, part]
    torch.testing.assert_close(last_softmax_attention(query, keys, layout), expected.flatten(1))
    torch.testing.assert_close(last_attention_of_gathered(query, keys, layout), expected.flatten(1))


@pytest.mark.parametrize("padding_tokens", [False, True])
def test_a_single_row_is_packed_as_among_others(padding_tokens: bool) -> None:
    """One row alone takes a short way; laid out beside its own copy it has the same tokens and biases."""
    for length in (1, 7, 8, 31, 32, 33, 50):
        history = torch.zeros(1, 50, dtype=torch.long)
        history[0, :length] = torch.arange(1, length + 1)
        keys: dict[str, Any] = {"padding_tokens": padding_tokens, "padded_length": 50, "widths": ()}
        alone = pack(history, torch.tensor([length]), **keys)
        pair = pack(history.expand(2, -1), torch.tensor([length, length]), **keys)
        count, start = int(alone.lengths[0]), int(pair.last[1]) - int(alone.lengths[0]) + 1
        assert alone.lengths.tolist() == pair.lengths[1:].tolist() and int(alone.last[0]) == count - 1
        for name in ("item_ids", "position", "key_bias", "query_keep"):
            one, two = getattr(alone, name), getattr(pair, name)
            if one is None:
                assert two is None
                continue
            assert torch.equal(one[:count], two[start : start + count]), name
        (group,), other = alone.groups, pair.groups[0]
        assert (group.start, group.segments, group.width) == (0, 1, count)
        assert torch.equal(group.bias[0], other.bias[1])
        assert len(alone.item_ids) == count + alone.tail and len(alone.item_ids) % 8 == 0
        assert bool(torch.isinf(alone.key_bias[count:]).all()) and not bool(torch.isinf(alone.key_bias[:count]).any())


# --- step vectors, padding, guidance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [{"stack": "last_only"}, {"stack": "sequential"}, {"queries": "history"}])
def test_diffurecsys_padding_is_the_same_in_every_step(keys: dict[str, str]) -> None:
    given = {"stack": keys.get("stack", "sequential"), "cross_attention_queries": keys.get("queries", "target")}
    model = build("DiffuRecSys", mask_mode="query", lambda_mean=0.5, reverse_steps=STEPS, **given)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        condition = model.prepared(model.condition(batch["item_id_list"], batch["item_length"]))
        assert condition.padding_sides is not None and condition.steps is not None
        bare = replace(condition, padding_sides=None, steps=None)
        x_t, t = torch.randn(len(ROWS), 16), torch.full((len(ROWS),), 3)
        shared = model.denoiser(x_t, t, condition, noise=ZeroNoise())
        torch.testing.assert_close(model.denoiser(x_t, t, bare, noise=ZeroNoise()), shared, **CLOSE)
    training = model.train().prepared(model.condition(batch["item_id_list"], batch["item_length"]))
    assert training.padding_sides is None


def test_a_guided_perceptron_computes_x_once() -> None:
    for fusion in ("flatten", "mean", "attention"):
        denoiser = MLPDenoiser(8, 5, n_guidance=2, hidden_sizes=[12], fusion=fusion).eval()
        h, none = torch.randn(4, 2, 8), torch.randn(2, 8)
        x_t, t = torch.randn(4, 8), torch.full((4,), 3)
        both = denoiser.condition(with_and_without(h, none, 1.5))
        guided = ClassifierFreeGuidance(denoiser, 1.5)
        rows: list[int] = []
        handle = denoiser.of_x.register_forward_pre_hook(lambda _, given, rows=rows: rows.append(len(given[0])))
        with torch.no_grad():
            found = guided(x_t, t, both, noise=ZeroNoise())
            with_h = denoiser(x_t, t, denoiser.condition(h), noise=ZeroNoise())
            without = denoiser(x_t, t, denoiser.condition(none.expand_as(h)), noise=ZeroNoise())
        handle.remove()
        assert rows == [4, 4, 4]
        torch.testing.assert_close(found, 2.5 * with_h - 1.5 * without, **CLOSE)


def test_a_model_of_ones_own_with_one_chain_at_a_time() -> None:
    """A subclass that writes `sample_user_vectors` alone is averaged as before; one that writes neither is told."""
    from recbole_diffusion.models.base import DiffusionRecommender

    class Draws(DiffusionRecommender):
        def __init__(self) -> None:
            nn.Module.__init__(self)

        def sample_user_vectors(self, interaction: Any, noise: Any) -> Tensor:
            return noise.normal((3, 1, 2), device="cpu")

    class Nothing(DiffusionRecommender):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    found = Draws().mean_user_vectors(None, [ZeroNoise(), ZeroNoise()])  # type: ignore[arg-type]
    assert found.shape == (3, 1, 2)
    with pytest.raises(TypeError, match="Nothing does not define sample_user_vectors"):
        Nothing().mean_user_vectors(None, [ZeroNoise()])  # type: ignore[arg-type]
