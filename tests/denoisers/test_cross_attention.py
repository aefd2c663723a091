"""The denoisers of DMI: against equations written out, and what may and may not reach the result."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.denoisers.cross_attention import CrossAttentionDenoiser
from recbole_diffusion.denoisers.pooled_mlp import PooledMLPDenoiser
from recbole_diffusion.denoisers.transformer import activate
from recbole_diffusion.diffusion.noise import ZeroNoise

B, Q, L, D, T, H = 3, 4, 6, 16, 5, 2
NO_NOISE = ZeroNoise()


def cross_attention(**keywords: Any) -> CrossAttentionDenoiser:
    given: dict[str, Any] = {"layers": 1, "heads": H, "probability": 0.0, "activation": "gelu_tanh", **keywords}
    return randomised(CrossAttentionDenoiser(D, T, **given))


def pooled() -> PooledMLPDenoiser:
    return randomised(PooledMLPDenoiser(D, T, probability=0.0, activation="gelu_tanh"))


def randomised(model: Any) -> Any:
    """Norms and biases away from where they start, so that a swapped pair shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def some_input() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_t, t, tokens and a mask with at least one item a query."""
    keep = torch.rand(B, Q, L) < 0.5
    keep[..., 0] = True
    return torch.randn(B, Q, D), torch.tensor([0, 4, 2]), torch.randn(B, L, D), keep


def written_out(model: CrossAttentionDenoiser, x: Tensor, t: int, tokens: Tensor) -> Tensor:
    """One query (D,) and its kept tokens (N, D), layer by layer with plain arithmetic."""
    step = model.step_embedding(torch.tensor([t]))[0]
    if model.step_input == "add_to_query":
        x = x + step
        seen = tokens
    else:
        seen = torch.cat([step[None], tokens])
    for block in model.blocks:
        attention = block.attention
        query = attention.query(block.attention_norm(x)[None] if block.norm == "pre" else x[None])[0]
        keys, values = seen @ attention.key.weight.T, seen @ attention.value.weight.T
        heads = []
        for head in range(H):
            part = slice(head * D // H, (head + 1) * D // H)
            weights = torch.softmax(keys[:, part] @ query[part] / math.sqrt(D // H), dim=0)
            heads.append(weights @ values[:, part])
        attended = torch.cat(heads) @ attention.output.weight.T + attention.output.bias
        x = x + attended if block.query_residual else attended
        if block.norm == "post":
            x = block.attention_norm(x)
        inner = block.feed_forward_norm(x) if block.norm == "pre" else x
        expand, contract = block.feed_forward.expand, block.feed_forward.contract
        hidden = functional.gelu(inner @ expand.weight.T + expand.bias, approximate="tanh")
        x = x + hidden @ contract.weight.T + contract.bias
        if block.norm == "post":
            x = block.feed_forward_norm(x)
    return model.final_norm(x)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"norm": "post"},
        {"layers": 2},
        {"query_residual": False},
        {"final_norm": True},
        {"step_input": "add_to_query"},
        {"norm": "post", "query_residual": False, "layers": 2, "step_input": "add_to_query"},
    ],
    ids=lambda keywords: ",".join(f"{key}={value}" for key, value in keywords.items()) or "default",
)
def test_every_query_is_equation_11_on_its_own_items(keywords: dict[str, Any]) -> None:
    model = cross_attention(**keywords)
    x_t, t, tokens, keep = some_input()
    with torch.no_grad():
        result = model(x_t, t, model.prepare(tokens, keep), noise=NO_NOISE)
        for row in range(B):
            for query in range(Q):
                alone = written_out(model, x_t[row, query], int(t[row]), tokens[row, keep[row, query]])
                torch.testing.assert_close(result[row, query], alone, rtol=1e-5, atol=1e-5)


def test_mlp_sees_the_mean_of_the_kept_items() -> None:
    model = pooled()
    x_t, t, tokens, keep = some_input()
    with torch.no_grad():
        result = model(x_t, t, model.prepare(tokens, keep), noise=NO_NOISE)
        for row in range(B):
            for query in range(Q):
                mean = tokens[row, keep[row, query]].mean(0)
                step = model.step_embedding(t[row : row + 1])[0]
                weight = torch.cat([model.noisy.weight, model.step.weight, model.guide.weight], dim=1)
                hidden = weight @ torch.cat([x_t[row, query], step, mean]) + model.step.bias
                alone = model.contract.weight @ activate(hidden, "gelu_tanh") + model.contract.bias
                torch.testing.assert_close(result[row, query], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("build", [cross_attention, pooled], ids=["attention", "mlp"])
def test_items_that_are_not_kept_reach_nothing(build: Any) -> None:
    model = build()
    x_t, t, tokens, keep = some_input()
    tokens.requires_grad_()
    result = model(x_t, t, model.prepare(tokens, keep), noise=NO_NOISE)
    (result[1, 2].square().sum()).backward()
    assert tokens.grad is not None
    moved = tokens.grad.abs().sum(-1) > 0
    assert torch.equal(moved[1], keep[1, 2])
    assert not moved[[0, 2]].any()
    other = torch.where(keep[:, 2, :, None], tokens.detach(), torch.tensor(1e6))
    with torch.no_grad():
        again = model(x_t, t, model.prepare(other, keep), noise=NO_NOISE)
    torch.testing.assert_close(again[:, 2], result[:, 2].detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("build", [cross_attention, pooled], ids=["attention", "mlp"])
def test_padding_changes_nothing(build: Any) -> None:
    model = build()
    x_t, t, tokens, keep = some_input()
    wider = functional.pad(tokens, (0, 0, 0, 5), value=3.0)
    with torch.no_grad():
        short = model(x_t, t, model.prepare(tokens, keep), noise=NO_NOISE)
        long = model(x_t, t, model.prepare(wider, functional.pad(keep, (0, 5))), noise=NO_NOISE)
    torch.testing.assert_close(long, short, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step_input", ["token", "add_to_query"])
def test_the_step_reaches_the_result(step_input: str) -> None:
    model = cross_attention(step_input=step_input)
    x_t, _, tokens, keep = some_input()
    with torch.no_grad():
        prepared = model.prepare(tokens, keep)
        results = [model(x_t, torch.full((B,), t), prepared, noise=NO_NOISE) for t in range(T)]
    for other in results[1:]:
        assert (other - results[0]).abs().max() > 1e-3


def test_without_the_residual_of_the_query_it_cannot_be_copied() -> None:
    """One item and one step token: the result is a mixture of two vectors whatever x_t is."""
    x_t, t, tokens, keep = some_input()
    for residual, copies in ((True, True), (False, False)):
        model = cross_attention(query_residual=residual)
        for block in model.blocks:
            torch.nn.init.zeros_(block.attention.output.weight)
            torch.nn.init.zeros_(block.attention.output.bias)
            torch.nn.init.zeros_(block.feed_forward.contract.weight)
            torch.nn.init.zeros_(block.feed_forward.contract.bias)
        with torch.no_grad():
            result = model(x_t, t, model.prepare(tokens, keep), noise=NO_NOISE)
        assert torch.equal(result, x_t if copies else torch.zeros_like(x_t))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradients_are_finite_at_zero_and_reach_every_parameter(norm: str) -> None:
    for model in (cross_attention(norm=norm, layers=2), pooled()):
        x_t, t, tokens, keep = some_input()
        model(torch.zeros_like(x_t), t, model.prepare(tokens, keep), noise=NO_NOISE).square().sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        model.zero_grad()
        model(x_t, t, model.prepare(tokens, keep), noise=NO_NOISE).sin().sum().backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert without == []


def test_bf16_autocast_and_dropout() -> None:
    for model in (cross_attention(probability=0.5, layers=2), pooled()):
        x_t, t, tokens, keep = some_input()
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = model(x_t, t, model.prepare(tokens, keep), noise=NO_NOISE)
        assert bool(result.isfinite().all())
        result.float().square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="n_layers is 0"):
        cross_attention(layers=0)
    with pytest.raises(ValueError, match="not a multiple of n_heads 3"):
        cross_attention(heads=3)
