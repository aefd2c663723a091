"""Offset noise: training noise whose mean is shifted (DiffuRecSys, Zolghadr et al. 2024, section 5.2, Eq. 17).

    epsilon = z + c eta,  z ~ N(0, I)

    scalar        eta ~ N(0, 1), one draw for all D entries of a row     (the common technique of image diffusion)
    elementwise   eta ~ N(0, I), a draw for every entry: variance 1 + c^2, no offset   (an earlier version of the code)
    constant      eta = 1: mean c                                        (the paper's words, read literally)
    none          epsilon = z

Used in the forward process alone; the reverse chain starts from and adds N(0, I). The paper gives no c.
docs/decisions/081-offset-noise.md says why `scalar` is the default. Shapes: B rows, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from recbole_diffusion.diffusion.noise import NoiseSource

OffsetKind = Literal["none", "scalar", "elementwise", "constant"]
OFFSET_KINDS: tuple[str, ...] = get_args(OffsetKind)


class OffsetNoise:
    """A noise source that adds an offset to another's numbers.

    With scale 0 or kind `none` nothing more is drawn, so that a run is bit for bit the one without offset.

    Args:
        base: where standard normal numbers come from.
        kind: which offset (key ``offset_noise``).
        scale: c (key ``offset_scale``).

    Raises:
        ValueError: an unknown kind, a negative scale.
    """

    def __init__(self, base: NoiseSource, kind: OffsetKind, scale: float) -> None:
        if kind not in OFFSET_KINDS:
            raise ValueError(f"offset_noise is {kind!r}; it must be one of {', '.join(OFFSET_KINDS)}")
        if scale < 0:
            raise ValueError(f"offset_scale is {scale}; it must be 0 or more")
        self.base = base
        self.kind = kind
        self.scale = scale

    @property
    def per_row(self) -> bool:
        """As the other source's."""
        return self.base.per_row

    def select(self, index: Tensor | Sequence[int]) -> OffsetNoise:
        """The source of these rows of the batch."""
        return OffsetNoise(self.base.select(index), self.kind, self.scale)

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`recbole_diffusion.diffusion.noise.NoiseSource.normal`; the offset is drawn after z."""
        drawn = self.base.normal(shape, device=device, dtype=dtype, lengths=lengths)
        if self.kind == "none" or self.scale == 0.0:
            return drawn
        if self.kind == "constant":
            return drawn + self.scale
        if self.kind == "elementwise":
            offset = self.base.normal(shape, device=device, dtype=dtype, lengths=lengths)
        else:
            one_each = (shape[0], *(1 for _ in shape[1:]))
            offset = self.base.normal(one_each, device=device, dtype=dtype)
        return torch.add(drawn, offset, alpha=self.scale)
