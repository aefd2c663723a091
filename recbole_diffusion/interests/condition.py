"""What a denoiser may look at besides the noised target: the embedded history."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from recbole_diffusion.interests.packing import PackedHistory


@dataclass(frozen=True)
class Condition:
    """An embedded batch of histories in packed form."""

    tokens: Tensor
    """(M, D) embedded history items."""
    layout: PackedHistory
    """Which row, place and segment each of the M tokens has."""
    steps: Tensor | None = field(default=None, kw_only=True)
    """(T, D) the step vectors, where they are computed once for all steps of a chain."""
