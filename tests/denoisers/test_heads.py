"""Numbers of heads that no attention can have, asked of each of the four layers itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from recbole_diffusion.denoisers import cross_attention, efficient_attention
from recbole_diffusion.denoisers.transformer import SelfAttention
from recbole_diffusion.interests.history_encoder import CausalBlock

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "SelfAttention": lambda heads: SelfAttention(16, heads, 0.0),
    "CrossAttention of DMI": lambda heads: cross_attention.CrossAttention(16, heads, 0.0),
    "CrossAttention of DiffuRecSys": lambda heads: efficient_attention.CrossAttention(
        16, heads, 0.0, "heads", "target"
    ),
    "CausalBlock": lambda heads: CausalBlock(16, heads, 0.0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_heads_are_one_or_more_and_divide_the_width(name: str) -> None:
    for heads in (0, -2):
        with pytest.raises(ValueError, match=f"n_heads is {heads}; it must be 1 or more"):
            LAYERS[name](heads)
    with pytest.raises(ValueError, match="hidden_size 16 is not a multiple of n_heads 3"):
        LAYERS[name](3)
    LAYERS[name](4)
