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

import torch
from torch import Tensor

from recbole_diffusion.counter_streams import draw_keys, folded, normal_rows
from recbole_diffusion.counter_streams import row_keys as keys_of_rows
from recbole_diffusion.keyed_draws import current_draws


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
    """One stream of normal numbers per row, keyed by (``seed``, row key) alone.

    A row's numbers are the same whatever the batch size, the order of the rows, the padding (when ``lengths`` is
    given) or the worker, and to float32's last places on every device: they are computed where they are asked for, in
    float32, from the row's key and the number of its draw (counter_streams.py), and then cast.

    Args:
        row_keys: (rows,) integers, what identifies a row in the whole evaluation set (its number there).
        seed: the evaluation's seed (key ``eval_seed``).

    Raises:
        ValueError: ``row_keys`` of another number of dimensions.
    """

    per_row = True

    def __init__(self, row_keys: Tensor | Sequence[int], seed: int) -> None:
        rows = torch.as_tensor(row_keys, dtype=torch.int64, device="cpu")
        if rows.dim() != 1:
            raise ValueError(f"row_keys has shape {tuple(rows.shape)}; it must have one dimension, one key per row")
        self._keys = keys_of_rows(folded(seed), rows)
        self._draws = torch.zeros_like(rows)  # how many each row of the whole batch has had; shared with selections
        self._places = torch.arange(rows.shape[0])  # of this source's rows in the whole batch

    def __len__(self) -> int:
        return len(self._places)

    def select(self, index: Tensor | Sequence[int]) -> RowNoise:
        """The source of these rows, sharing their streams: a draw here advances the row's stream there too.

        Args:
            index: (n,) positions of rows, or a boolean mask (rows,).

        Raises:
            ValueError: a mask of another length.
        """
        chosen = torch.as_tensor(index, device="cpu")
        if chosen.dtype == torch.bool and chosen.shape != (len(self),):
            raise ValueError(f"the mask has shape {tuple(chosen.shape)}; it must be ({len(self)},), one entry per row")
        part = RowNoise([], 0)
        part._keys, part._draws = self._keys, self._draws
        part._places = self._places[chosen if chosen.dtype == torch.bool else chosen.long()]
        return part

    @classmethod
    def joined(cls, sources: Sequence[RowNoise]) -> RowNoise:
        """One source for the rows of several, one after the other, each row at the beginning of its stream."""
        whole = cls([], 0)
        whole._keys = torch.cat([source._keys[source._places] for source in sources])
        whole._draws = torch.zeros(len(whole._keys), dtype=torch.int64)
        whole._places = torch.arange(len(whole._keys))
        return whole

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`NoiseSource.normal`; ``shape[0]`` must be the number of rows. A row of length 0 draws nothing.

        Raises:
            ValueError: another number of rows, or ``lengths`` that do not fit ``shape``.
        """
        shape = tuple(shape)
        if not shape or shape[0] != self._places.shape[0]:
            raise ValueError(
                f"asked for noise of shape {shape}; this source has {len(self)} rows, so shape[0] must be that"
            )
        if lengths is not None:
            lengths = _checked(lengths, shape)
        keys = draw_keys(self._keys[self._places], self._draws[self._places])
        self._draws[self._places] += 1 if lengths is None else (lengths > 0).long()
        return normal_rows(keys, shape, device=device, dtype=dtype, lengths=lengths)


def _checked(lengths: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`lengths` (rows,) on the CPU, if noise of `shape` can have them."""
    counts = lengths.detach().to(device="cpu", dtype=torch.int64)
    if len(shape) < 2 or counts.shape != shape[:1]:
        raise ValueError(
            f"lengths has shape {tuple(counts.shape)} for noise of shape {shape}; "
            "it must be (rows,) and the noise (rows, positions, ...)"
        )
    if torch.compiler.is_compiling():  # a traced program has no values to check
        return counts
    if bool(((counts < 0) | (counts > shape[1])).any()):
        raise ValueError(f"lengths must lie in 0..{shape[1]}, the positions of shape {shape}; got {counts.tolist()}")
    return counts
