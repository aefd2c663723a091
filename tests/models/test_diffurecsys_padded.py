"""Packed DiffuRecSys against the padded computation it stands for, in every reading of its switches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import recbole_diffusion.interests.packing as packing
from recbole_diffusion.config import RunConfig
from recbole_diffusion.denoisers.efficient_attention import PaddedCondition
from recbole_diffusion.models.diffurecsys import DiffuRecSys

from .padded_diffurecsys import padded_denoiser
from .tiny import TINY, Items, interaction

ROWS = [[3, 9, 4], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12], [20, 21, 22, 23, 24, 25, 26]]
LENGTH = 8
SWITCHES = list(itertools.product(("heads", "seq", "standard"), ("target", "history"), ("query", "key")))


def small_model(items: int = 51, **keys: Any) -> DiffuRecSys:
    """A DiffuRecSys of two blocks in evaluation mode, its norms and biases away from where they start."""
    torch.manual_seed(0)
    config = RunConfig("DiffuRecSys", "tiny", (), {**TINY, "MAX_ITEM_LIST_LENGTH": LENGTH, **keys})
    model = DiffuRecSys(config, Items(items)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


class TokenDraws:
    """Fixed draws (B, N, D) for the tokens of every row."""

    per_row = True

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws

    def select(self, index: Tensor | Sequence[int]) -> TokenDraws:
        return TokenDraws(self.draws[index])

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        assert len(shape) == 3
        return self.draws[:, : shape[1]].to(device=device, dtype=dtype)


def lambda_of_positions(model: DiffuRecSys, draws: Tensor) -> Tensor:
    """Lambda at every padded position (B, L, D).

    At padding it is drawn like elsewhere, for each position of its own, where copies ask: it must not matter. Where
    copies answer it is the mean.
    """
    strength = model.options.lambda_mean + model.options.lambda_std * draws
    if model.options.cross_attention_queries == "history":
        for row, items in enumerate(ROWS):
            strength[row, len(items) :] = model.options.lambda_mean
    return strength


def both(model: DiffuRecSys, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x_0_hat (B, D), packed and padded, with the same draws; `padding` (L - 1, D) are unequal padding tokens."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randn(len(ROWS), LENGTH, 16, generator=generator).double()
    x_t = torch.randn(len(ROWS), 16, generator=generator).double()
    t = torch.tensor([0, 3, 7, 2, 5])
    batch = interaction(ROWS, [1] * len(ROWS), LENGTH)
    condition = model.condition(batch["item_id_list"], batch["item_length"])
    if padding is not None:
        counts = torch.arange(LENGTH - 1) < LENGTH - batch["item_length"][:, None]
        condition = PaddedCondition(condition.tokens, condition.layout, padding, counts.double())
    packed = model.denoiser(x_t, t, condition, noise=TokenDraws(draws))
    strength = lambda_of_positions(model, draws)
    return packed, padded_denoiser(model, batch["item_id_list"], x_t, t, strength, padding)


@pytest.mark.parametrize(("stack", "unequal"), [("last_only", True), ("sequential", False)])
@pytest.mark.parametrize(("key_softmax", "queries", "mask_mode"), SWITCHES)
def test_packed_is_padded(key_softmax: str, queries: str, mask_mode: str, stack: str, unequal: bool) -> None:
    model = small_model(
        key_softmax=key_softmax,
        cross_attention_queries=queries,
        mask_mode=mask_mode,
        stack=stack,
        lambda_mean=0.5,
        lambda_std=0.3,
    )
    model = model.double()
    padding = None
    if unequal and mask_mode == "query":
        padding = torch.randn(LENGTH - 1, 16, generator=torch.Generator().manual_seed(3)).double()
    packed, padded = both(model, padding)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-6)
    weights = torch.randn(packed.shape, generator=torch.Generator().manual_seed(2)).double()
    used = [p for n, p in model.named_parameters() if stack == "sequential" or "blocks.0" not in n]
    gradients = [torch.autograd.grad((result * weights).sum(), used) for result in (packed, padded)]
    for got, expected in zip(*gradients):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1))


@pytest.mark.parametrize(("key_softmax", "queries", "mask_mode"), SWITCHES)
def test_packing_does_not_show(monkeypatch: pytest.MonkeyPatch, key_softmax: str, queries: str, mask_mode: str) -> None:
    keys = {"key_softmax": key_softmax, "cross_attention_queries": queries, "mask_mode": mask_mode}
    model = small_model(lambda_mean=0.5, lambda_std=0.3, stack="sequential", **keys).double()
    with torch.no_grad():
        together, _ = both(model)
        for widths in ((), (3,), (4, 7)):
            monkeypatch.setitem(packing.pack.__kwdefaults__, "widths", widths)
            torch.testing.assert_close(both(model)[0], together, rtol=1e-5, atol=1e-6)
