"""Where standard normal numbers come from: the global stream, one stream per evaluation row, or nowhere.

    epsilon ~ N(0, I)        (DDPM, Ho et al. 2020, algorithms 1 and 2)

Training draws from the global stream, or from numbers keyed by step and row (`train_noise: keyed`, keyed_draws.py).
Evaluation draws from a stream that belongs to the row, so that what a row gets does not depend on the batch it happens
to sit in (docs/decisions/012-row-noise.md).
Shapes: B batch (= rows), N positions of a row, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_diffusion.keyed_draws import current_draws

_MASK64 = (1 << 64) - 1


class NoiseSource(Protocol):
    """Anything that hands out standard normal numbers; ``shape[0]`` counts the rows of the batch."""

    @property
    def per_row(self) -> bool:
        """Whether a row has its own stream, so that draws must be asked for row by row."""
        ...

    def select(self, index: Tensor | Sequence[int]) -> NoiseSource:
        """The source of these rows of the batch."""
        ...

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Standard normal tensor of ``shape`` on ``device``.

        Args:
            shape: (rows, ...); (rows, N, D) when ``lengths`` is given.
            lengths: (rows,) integers in 0..N. Only the first ``lengths[i]`` of the N positions of row i need to be
                drawn, and a source whose streams belong to rows draws exactly these and returns zeros in the rest: what
                a row gets must not depend on how far its batch is padded. A source without row streams may ignore it.
        """
        ...


class GlobalNoise:
    """Noise from one stream for the whole batch: torch's global one, or that of ``generator``.

    With a generator the numbers are drawn on the generator's own device and then moved.
    ``lengths`` is ignored: padded positions get noise too. Where a training batch has keyed draws, these are asked
    instead, row by row, and ``lengths`` counts.
    """

    def __init__(self, generator: torch.Generator | None = None) -> None:
        self.generator = generator

    @property
    def per_row(self) -> bool:
        """Whether the batch at hand has keyed draws."""
        return self.generator is None and current_draws() is not None

    def select(self, index: Tensor | Sequence[int]) -> GlobalNoise:
        """Itself: its stream belongs to no row."""
        return self

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`NoiseSource.normal`."""
        draws = current_draws() if self.generator is None else None
        if draws is not None:
            return draws.normal(shape, device=device, dtype=dtype, lengths=lengths)
        where = device if self.generator is None else self.generator.device
        return torch.randn(tuple(shape), generator=self.generator, device=where, dtype=dtype).to(device)


class ZeroNoise:
    """All zeros: the reverse chain then follows its means."""

    per_row = False

    def select(self, index: Tensor | Sequence[int]) -> ZeroNoise:
        """Itself."""
        return self

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`NoiseSource.normal`."""
        return torch.zeros(tuple(shape), device=device, dtype=dtype)


def build_noise(name_or_class: str | Callable[[], NoiseSource]) -> NoiseSource:
    """The noise that training draws, by the value of key ``noise``: ``gaussian``, or a user's own class.

    Raises:
        ValueError: an unknown name.
    """
    if not isinstance(name_or_class, str):
        return name_or_class()
    if name_or_class != "gaussian":
        raise ValueError(
            f"noise '{name_or_class}' does not exist; use gaussian or give a class as package.module:Class"
        )
    return GlobalNoise()


class RowNoise:
    """One stream of normal numbers per row, seeded from (``seed``, row key) alone.

    A row's numbers are the same whatever the batch size, the order of the rows, the padding (when ``lengths`` is
    given), the worker or the device: they are drawn on the CPU in float32, row by row, and then moved and cast.
    They do depend on the sizes of the row's own draws, in their order.

    Args:
        row_keys: (rows,) integers, what identifies a row in the whole evaluation set (its number there).
        seed: the evaluation's seed (key ``eval_seed``).
    """

    per_row = True

    def __init__(self, row_keys: Tensor | Sequence[int], seed: int) -> None:
        keys = torch.as_tensor(row_keys, dtype=torch.int64, device="cpu")
        if keys.dim() != 1:
            raise ValueError(f"row_keys has shape {tuple(keys.shape)}; it must have one dimension, one key per row")
        self._generators = [torch.Generator() for _ in range(len(keys))]
        for generator, row_seed in zip(self._generators, row_seeds(keys.numpy(), seed).tolist(), strict=True):
            generator.manual_seed(row_seed)

    def __len__(self) -> int:
        return len(self._generators)

    def select(self, index: Tensor | Sequence[int]) -> RowNoise:
        """The source of these rows, sharing their streams: a draw here advances the row's stream there too.

        Args:
            index: (n,) positions of rows, or a boolean mask (rows,).
        """
        chosen = torch.as_tensor(index, device="cpu")
        if chosen.dtype == torch.bool:
            if chosen.shape != (len(self),):
                raise ValueError(
                    f"the mask has shape {tuple(chosen.shape)}; it must be ({len(self)},), one entry per row"
                )
            chosen = chosen.nonzero().squeeze(1)
        part = RowNoise([], 0)
        part._generators = [self._generators[row] for row in chosen.tolist()]
        return part

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`NoiseSource.normal`; ``shape[0]`` must be the number of rows."""
        shape = tuple(shape)
        if not shape or shape[0] != len(self):
            raise ValueError(
                f"asked for noise of shape {shape}; this source has {len(self)} rows, so shape[0] must be that"
            )
        if lengths is not None:
            return self._ragged(shape, lengths).to(device=device, dtype=dtype)
        buffer = torch.empty(shape)
        for row, generator in zip(buffer.unbind(0), self._generators, strict=True):
            row.normal_(generator=generator)
        return buffer.to(device=device, dtype=dtype)

    def _ragged(self, shape: tuple[int, ...], lengths: Tensor) -> Tensor:
        """(rows, N, ...) with the first ``lengths[i]`` positions of row i drawn and zeros after them."""
        counts = lengths.detach().to(device="cpu", dtype=torch.int64)
        if len(shape) < 2 or counts.shape != shape[:1]:
            raise ValueError(
                f"lengths has shape {tuple(counts.shape)} for noise of shape {shape}; "
                "it must be (rows,) and the noise (rows, positions, ...)"
            )
        if bool(((counts < 0) | (counts > shape[1])).any()):
            raise ValueError(
                f"lengths must lie in 0..{shape[1]}, the positions of shape {shape}; got {counts.tolist()}"
            )
        packed = torch.empty(int(counts.sum()), *shape[2:])
        # Splitting once is several times faster than slicing buffer[i, :n] row by row.
        for row, generator in zip(torch.split(packed, counts.tolist()), self._generators, strict=True):
            row.normal_(generator=generator)
        buffer = torch.zeros(shape)
        buffer[torch.arange(shape[1]) < counts[:, None]] = packed
        return buffer


def _splitmix64(value: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection of 64-bit integers."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)


def _scramble32(value: np.ndarray) -> np.ndarray:
    """The 32-bit finaliser of MurmurHash3 (Appleby 2011), a bijection of uint32, entry by entry."""
    value = (value ^ (value >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    value = (value ^ (value >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    scrambled: np.ndarray = value ^ (value >> np.uint32(16))
    return scrambled


def row_seeds(row_keys: np.ndarray, seed: int) -> np.ndarray:
    """(rows,) uint32 generator seeds.

    torch's CPU generator keeps only the low 32 bits of its seed, so hashing (seed, row) to 64 bits would let rows
    collide (with 22,000 rows: in one evaluation of 18). For one ``seed`` this map is a bijection of the 32-bit row
    keys: rows never share a stream.
    """
    first, second = _splitmix64(seed & _MASK64), _splitmix64(_splitmix64(seed & _MASK64))
    keys = row_keys.astype(np.uint64)
    low = (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32)
    high = (keys >> np.uint64(32)).astype(np.uint32) * np.uint32(0x9E3779B1)  # zero for every key below 2^32
    mixed = _scramble32(low ^ high ^ np.uint32(first & 0xFFFFFFFF))
    return _scramble32((mixed ^ np.uint32(first >> 32)) + np.uint32(second & 0xFFFFFFFF))
