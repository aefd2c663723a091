"""Random numbers of training that belong to a row and a step, whatever the process that asks for them.

    key = mix(fold(seed, epoch, batch, draw) + row gamma)        (the stream of a key: counter_streams.py)

So a row's numbers depend on its place in the whole batch and on how many draws went before, and on nothing else: not on
which worker has the row, which rows lie beside it, or how far it is padded.

Training asks torch's global generator unless :func:`drawing` says otherwise (key ``train_noise: keyed``).
Shapes: B rows of this process, P parts of rows (such as trained places), N positions of a row, D embedding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

from recbole_diffusion.counter_streams import (
    folded,
    normal_rows,
    part_keys,
    row_keys,
    single_key,
    uniform_numbers,
)


class KeyedDraws:
    """What one process draws for its rows of one training batch.

    Args:
        seed: the run's.
        epoch, batch: which batch of which epoch, from 0.
        places: (B,) int64, where this process's rows stand in the whole batch, from 0.
    """

    def __init__(self, seed: int, epoch: int, batch: int, places: Tensor) -> None:
        self.places = places.to(device="cpu", dtype=torch.int64)
        self._base = folded(seed, epoch, batch)
        self._draws = 0

    def __len__(self) -> int:
        return len(self.places)

    def _keys(self, device: torch.device | str, parts: Tensor | None = None) -> Tensor:
        """(B,) the keys of the next draw of every row, or (P,) of every part."""
        keys = row_keys(self._next_base(), self.places).to(device)
        if parts is None:
            return keys
        row, part = parts.to(device).unbind(1)
        return part_keys(keys[row], part)

    def _next_base(self) -> int:
        """What the keys of the next draw start from."""
        self._draws += 1
        return folded(self._base, self._draws)

    def _checked(self, rows: int) -> None:
        if rows != len(self):
            raise ValueError(
                f"asked for random numbers of {rows} rows in a batch of {len(self)}; with train_noise: keyed they "
                "belong to rows: ask for (rows, ...), or set train_noise: generator"
            )

    def uniform(self, rows: int, width: int, *, device: torch.device | str, parts: Tensor | None = None) -> Tensor:
        """Uniform numbers in [0, 1), (rows, width) float64.

        Args:
            rows: B, or P with `parts`.
            width: how many a row gets.
            device: where they are computed.
            parts: (P, 2) the row of each part, among this process's, and its number in the row.

        Raises:
            ValueError: another number of rows than the batch has.
        """
        if parts is None:
            self._checked(rows)
        return uniform_numbers(self._keys(device, parts), width)

    def shared_uniform(self, width: int, *, device: torch.device | str) -> Tensor:
        """Uniform numbers in [0, 1) that all rows of the whole batch share, (width,) float64."""
        return uniform_numbers(single_key(self._next_base(), device), width)[0]

    def normal(
        self,
        shape: Sequence[int],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Standard normal numbers of `shape` (rows, ...).

        Args:
            shape: (B, ...); (B, N, ...) with `lengths`.
            device: where they are computed.
            dtype: what they are cast to.
            lengths: (B,) integers: only so many of a row's N positions are drawn, the others are zero.

        Raises:
            ValueError: another number of rows than the batch has.
        """
        shape = tuple(shape)
        self._checked(shape[0] if shape else -1)
        keys = row_keys(self._next_base(), self.places)
        return normal_rows(keys, shape, device=device, dtype=dtype, lengths=lengths)


_current: ContextVar[KeyedDraws | None] = ContextVar("keyed_draws", default=None)


def current_draws() -> KeyedDraws | None:
    """What the batch at hand draws from; None for torch's global generator."""
    return _current.get()


@contextlib.contextmanager
def drawing(draws: KeyedDraws | None) -> Iterator[None]:
    """Let everything inside that would ask torch's global generator draw from `draws`; None changes nothing."""
    token = _current.set(draws)
    try:
        yield
    finally:
        _current.reset(token)
