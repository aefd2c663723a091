"""Properties of DiffuRecSys that hold for any weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_diffusion.denoisers.efficient_attention import CrossAttention
from recbole_diffusion.denoisers.row_attention import PaddingKeys, RowKeys, softmax_over_rows
from recbole_diffusion.diffusion.noise import ZeroNoise
from recbole_diffusion.diffusion.offset_noise import OffsetNoise
from recbole_diffusion.errors import UserError
from recbole_diffusion.interests.packing import PackedHistory, pack
from recbole_diffusion.models.base import EVALUATION_ROW
from recbole_diffusion.models.diffurecsys import DiffuRecSys

from .test_diffurecsys_padded import small_model
from .tiny import interaction

ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 23, 24, 25]]
TARGETS = [5, 6, 7, 8, 9]
VISIBLE = {"lambda_mean": 0.5, "lambda_std": 0.5}


def reconstruct(model: DiffuRecSys, rows: list[list[int]], *, length: int = 8, t: int = 3) -> Tensor:
    """x_0_hat with lambda at its mean (the model must have lambda_std 0)."""
    batch = interaction(rows, [1] * len(rows), length)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    x_t = torch.linspace(-1, 1, 16).repeat(len(rows), 1)
    with torch.no_grad():
        return model.denoiser(x_t, torch.full((len(rows),), t), condition, noise=ZeroNoise())


def without_gradient(model: DiffuRecSys) -> list[str]:
    """Parameters that a training step leaves without a gradient or with zeros alone."""
    model.train()
    model.calculate_loss(interaction(ROWS, TARGETS)).backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    return [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]


@pytest.mark.parametrize("mask_mode", ["query", "key"])
@pytest.mark.parametrize("key_softmax", ["heads", "seq", "standard"])
def test_last_only_trains_the_last_block_alone(key_softmax: str, mask_mode: str) -> None:
    keys = {"key_softmax": key_softmax, "mask_mode": mask_mode, "use_positions": True, **VISIBLE}
    idle = without_gradient(small_model(n_layers=3, stack="last_only", **keys))
    others = [name for name, _ in small_model(n_layers=3).named_parameters() if name.startswith("denoiser.blocks.")]
    assert idle == [name for name in others if not name.startswith("denoiser.blocks.2.")]
    assert without_gradient(small_model(n_layers=3, stack="sequential", **keys)) == []


@pytest.mark.parametrize("kind", ["scalar", "elementwise", "constant"])
def test_offset_scale_zero_is_v1_bit_for_bit(kind: str) -> None:
    losses = {}
    for name, keys in {
        "v1": {"offset_noise": "none"},
        "v2 at 0": {"offset_noise": kind, "offset_scale": 0.0},
        "v2": {"offset_noise": kind, "offset_scale": 0.5},
    }.items():
        model = small_model(**VISIBLE, **keys).train()
        torch.manual_seed(4)
        batch = interaction(ROWS, TARGETS)
        losses[name] = [model.calculate_loss(batch).item() for _ in range(3)]
    assert losses["v2 at 0"] == losses["v1"]
    assert losses["v2"] != losses["v1"]


def test_the_offset_is_of_the_forward_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(offset_noise="scalar", offset_scale=0.5, **VISIBLE)

    def refuse(*arguments: Any, **keywords: Any) -> Tensor:
        raise AssertionError("offset noise was drawn")

    monkeypatch.setattr(OffsetNoise, "normal", refuse)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        with_offset = model.full_sort_predict(batch)
        model.predict(batch)
        torch.testing.assert_close(with_offset, small_model(offset_noise="none", **VISIBLE).full_sort_predict(batch))
    with pytest.raises(AssertionError, match="offset noise"):
        model.calculate_loss(batch)


def packed_keys(key_softmax: Any, padding_seen: bool) -> tuple[CrossAttention, RowKeys, PackedHistory]:
    """A layer, the keys of ROWS' tokens and of two padding tokens, and the layout."""
    torch.manual_seed(0)
    lengths = torch.tensor([len(row) for row in ROWS])
    seq = interaction(ROWS, TARGETS)["item_id_list"]
    layout = pack(seq, lengths, padding_tokens=False, padded_length=8)
    layer = CrossAttention(16, 4, 0.0, key_softmax, "target")
    counts = (torch.arange(2) < 8 - lengths[:, None]).float()
    tokens, padding = torch.randn(len(layout.item_ids), 16), torch.randn(1, 2, 16)
    with torch.no_grad():
        keys = layer.keys(tokens, padding if padding_seen else None, counts, layout)
    return layer, keys, layout


def test_queries_and_keys_are_softmaxes() -> None:
    layer, keys, layout = packed_keys("heads", padding_seen=True)
    with torch.no_grad():
        queries = layer.ask(torch.randn(7, 16)).unflatten(-1, (4, -1))
    torch.testing.assert_close(queries.sum(-1), torch.ones(7, 4))  # over a head's features
    torch.testing.assert_close(keys.key.unflatten(-1, (4, -1)).sum(-2), torch.ones(len(layout.item_ids), 4))
    assert keys.padding is not None
    torch.testing.assert_close(keys.padding.key.unflatten(-1, (4, -1)).sum(-2), torch.ones(1, 2, 4))


@pytest.mark.parametrize("padding_seen", [False, True])
def test_seq_keys_sum_to_one_over_a_row(padding_seen: bool) -> None:
    _, keys, layout = packed_keys("seq", padding_seen)
    assert keys.query_scale is not None
    sums = torch.zeros(len(ROWS), 16).index_add(0, layout.row, keys.key) * keys.query_scale
    if keys.padding is not None and keys.padding.query_scale is not None:
        sums = sums + keys.padding.counts @ keys.padding.key[0] * keys.padding.query_scale
    torch.testing.assert_close(sums, torch.ones(len(ROWS), 16))


@pytest.mark.parametrize("far", [-1000.0, 1000.0])
def test_softmax_over_rows_survives_keys_far_apart(far: float) -> None:
    layout = pack(torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2]), padding_tokens=False, padded_length=2)
    key = torch.zeros(len(layout.item_ids), 1)
    key[layout.row == 1] = far
    key[layout.item_ids == 0] = 1e4  # unused places
    for counts in (torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([[0.0], [1.0]])):
        padding = PaddingKeys(torch.full((1, 1, 1), -far), torch.zeros(1, 1, 1), counts)
        keys = softmax_over_rows(RowKeys(key, key, 1, padding), layout)
        assert keys.query_scale is not None
        assert keys.padding is not None
        assert keys.padding.query_scale is not None
        items = torch.zeros(2, 1).index_add(0, layout.row, keys.key) * keys.query_scale
        total = items + counts * keys.padding.key[0] * keys.padding.query_scale
        torch.testing.assert_close(total, torch.ones(2, 1))


@pytest.mark.parametrize("mask_mode", ["query", "key"])
@pytest.mark.parametrize("stack", ["last_only", "sequential"])
@pytest.mark.parametrize("queries", ["target", "history"])
@pytest.mark.parametrize("key_softmax", ["heads", "seq", "standard"])
def test_history_is_a_set_plus_its_last_item(key_softmax: str, queries: str, stack: str, mask_mode: str) -> None:
    model = small_model(
        lambda_mean=0.5,
        lambda_std=0.0,
        key_softmax=key_softmax,
        cross_attention_queries=queries,
        stack=stack,
        mask_mode=mask_mode,
    )
    base = reconstruct(model, [[3, 9, 4, 7]])
    for order in itertools.permutations([3, 9, 4]):
        torch.testing.assert_close(reconstruct(model, [[*order, 7]]), base, rtol=1e-5, atol=1e-6)
    assert (reconstruct(model, [[3, 9, 7, 4]]) - base).abs().max() > 1e-2


def test_with_positions_the_order_counts() -> None:
    model = small_model(lambda_mean=0.5, lambda_std=0.0, use_positions=True)
    assert (reconstruct(model, [[9, 3, 4, 7]]) - reconstruct(model, [[3, 9, 4, 7]])).abs().max() > 1e-3


def test_reverse_steps_and_validation_steps() -> None:
    batch = interaction([[3, 4]], [9])

    def calls(validating: bool, **keys: Any) -> int:
        model = small_model(num_steps=8, **keys)
        found: list[int] = []
        model.denoiser.register_forward_pre_hook(lambda *_: found.append(1))
        model.validating = validating
        with torch.no_grad():
            model.user_vectors(batch)
        return len(found)

    both = {"reverse_steps": 4, "valid_reverse_steps": 1}
    assert (calls(False, **both), calls(True, **both)) == (4, 1)
    assert (calls(False, valid_reverse_steps=2), calls(True, valid_reverse_steps=2)) == (8, 2)
    assert (calls(False, reverse_steps=3), calls(True, reverse_steps=3)) == (3, 3)


@pytest.mark.parametrize("key_softmax", ["heads", "seq", "standard"])
def test_mask_mode_decides_whether_padding_is_seen(key_softmax: str) -> None:
    models = {
        (mode, length): small_model(
            lambda_mean=0.5, lambda_std=0.0, mask_mode=mode, MAX_ITEM_LIST_LENGTH=length, key_softmax=key_softmax
        )
        for mode, length in itertools.product(("query", "key"), (8, 13))
    }
    rows = [[3, 9, 4]]
    got = {(mode, length): reconstruct(model, rows, length=length) for (mode, length), model in models.items()}
    torch.testing.assert_close(got["key", 8], got["key", 13], rtol=1e-6, atol=1e-6)
    assert (got["query", 8] - got["query", 13]).abs().max() > 1e-3
    assert (got["query", 8] - got["key", 8]).abs().max() > 1e-3


def test_in_training_every_padding_token_has_a_dropout_of_its_own() -> None:
    model = small_model().train()
    batch = interaction(ROWS, TARGETS)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    assert condition.padding is not None
    assert condition.counts is not None
    assert condition.padding.shape == (7, 16)
    assert len(torch.unique(condition.padding, dim=0)) == 7
    assert condition.counts.sum(1).tolist() == [5, 7, 0, 6, 2]
    assert condition.counts[0].tolist() == [1, 1, 1, 1, 1, 0, 0]
    condition = model.eval().condition(batch["item_id_list"], batch["item_length"])
    assert condition.counts is not None
    assert condition.counts.tolist() == [[5], [7], [0], [6], [2]]


@pytest.mark.parametrize("queries", ["target", "history"])
@pytest.mark.parametrize("stack", ["last_only", "sequential"])
def test_a_prepared_history_gives_the_same(queries: str, stack: str) -> None:
    model = small_model(cross_attention_queries=queries, stack=stack, lambda_mean=0.5, lambda_std=0.0)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        condition = model.condition(batch["item_id_list"], batch["item_length"])
        prepared = model.denoiser.prepare(condition)
    assert model.denoiser.prepare(prepared) is prepared
    x_t, t = torch.randn(len(ROWS), 16), torch.full((len(ROWS),), 3)
    with torch.no_grad():
        expected = model.denoiser(x_t, t, condition, noise=ZeroNoise())
        assert torch.equal(model.denoiser(x_t, t, prepared, noise=ZeroNoise()), expected)


def test_the_chain_projects_the_history_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = CrossAttention.keys

    def counted(*arguments: Any) -> RowKeys:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(CrossAttention, "keys", counted)
    with torch.no_grad():
        small_model(num_steps=8).full_sort_predict(interaction(ROWS, TARGETS))
    assert len(calls) == 1


def test_several_seeds_are_averaged() -> None:
    one, three = small_model(**VISIBLE), small_model(n_eval_samples=3, **VISIBLE)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        chains = [one.sample_user_vectors(batch, one.evaluation_noise(batch, chain)) for chain in range(3)]
        scores = [vectors[:, 0] @ one.item_vectors().T for vectors in chains]
        torch.testing.assert_close(three.user_vectors(batch), torch.stack(chains).mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(three.full_sort_predict(batch), torch.stack(scores).mean(0), rtol=1e-4, atol=1e-4)
    assert (chains[0] - chains[1]).abs().max() > 1e-3


@pytest.mark.parametrize("score", ["dot", "neg_sq_dist", "cosine"])
def test_predict_is_an_entry_of_full_sort_predict(score: str) -> None:
    model = small_model(score=score, num_steps=4, **VISIBLE)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        full, single = model.full_sort_predict(batch), model.predict(batch)
    torch.testing.assert_close(single, full[torch.arange(5), torch.tensor(TARGETS)], rtol=1e-5, atol=1e-5)


def test_scores_belong_to_the_row_and_the_seed() -> None:
    model = small_model(**VISIBLE)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        first = model.full_sort_predict(batch)
        assert torch.equal(model.full_sort_predict(batch), first)
        alone = torch.cat([model.full_sort_predict(interaction([row], [1])) for row in ROWS])
        torch.testing.assert_close(alone, first, rtol=1e-5, atol=1e-5)
        assert (small_model(eval_seed=1, **VISIBLE).full_sort_predict(batch) - first).abs().max() > 1e-3
        batch.interaction[EVALUATION_ROW] = torch.arange(5)
        assert (model.full_sort_predict(batch) - first).abs().max() > 1e-3


def test_the_chain_ends_at_the_denoisers_output() -> None:
    model = small_model(**VISIBLE)
    last = []
    model.denoiser.register_forward_hook(lambda module, inputs, output: last.append(output))
    with torch.no_grad():
        x_0 = model.user_vectors(interaction(ROWS, TARGETS))
    order = torch.argsort(torch.tensor([len(row) for row in ROWS]), stable=True)
    torch.testing.assert_close(x_0[order, 0], last[-1], rtol=0, atol=0)


@pytest.mark.parametrize("stack", ["last_only", "sequential"])
def test_training_loss_overfits_a_few_rows(stack: str) -> None:
    model = small_model(stack=stack, item_init_std=0.1, dropout_prob=0.0, embedding_dropout_prob=0.0).train()
    batch = interaction(ROWS, TARGETS)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    model.eval()
    with torch.no_grad():
        assert model.full_sort_predict(batch).argmax(1).tolist() == TARGETS


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("key_softmax", ["heads", "seq", "standard"])
def test_half_precision(key_softmax: str, precision: torch.dtype) -> None:
    model = small_model(key_softmax=key_softmax, **VISIBLE)
    batch = interaction(ROWS, TARGETS)
    with torch.no_grad():
        expected = model.user_vectors(batch)
        with torch.autocast("cpu", dtype=precision):
            got = model.user_vectors(batch)
    assert float(torch.cosine_similarity(got[:, 0], expected[:, 0]).min()) > 0.999
    with torch.autocast("cpu", dtype=precision):
        loss = model.train().calculate_loss(batch)
    loss.backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize("rows", [[[1]], [[1, 2, 3, 4, 5, 6, 7, 8]], [[1], [2]]])
def test_small_batches_and_short_histories(rows: list[list[int]]) -> None:
    model = small_model(items=3 if max(map(max, rows)) < 3 else 51)
    batch = interaction(rows, [1] * len(rows))
    with torch.no_grad():
        assert bool(torch.isfinite(model.full_sort_predict(batch)).all())
    loss = model.train().calculate_loss(batch)
    loss.backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"n_heads": 3}, "hidden_size 16 is not a multiple of n_heads 3"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"stack": "last"}, "stack"),
        ({"key_softmax": "sequence"}, "key_softmax"),
        ({"cross_attention_queries": "items"}, "cross_attention_queries"),
        ({"offset_noise": "scaler"}, "offset_noise"),
        ({"offset_scale": -0.1}, "offset_scale"),
        ({"mask_mode": "none"}, "mask_mode"),
        ({"lambda_std": -1.0}, "lambda_std"),
        ({"dropout_prob": 1.0}, "dropout_prob"),
        ({"reverse_steps": 9}, "^reverse_steps is 9"),
        ({"valid_reverse_steps": 40}, r"^valid_reverse_steps is 40; it must lie in 1\.\.8"),
        ({"reverse_eta": 2.0}, "^reverse_eta is 2"),
    ],
)
def test_wrong_values_name_the_key(keys: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        small_model(**keys)
