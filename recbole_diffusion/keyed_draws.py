"""Random numbers of training that belong to a row and a step, whatever the process that asks for them.

    key = mix(mix(seed, epoch, batch, draw) + row gamma),   z_j = mix(key + j gamma),   j = 1, 2, ...

z_1, z_2, ... is the stream of SplitMix64 (Steele, Lea, Flood 2014) that starts at `key`: 64 bits each, computed from
the counter alone. A uniform number takes the upper 53 bits, a pair of normal ones the halves of one z (Box and Muller
1958). So a row's numbers depend on its place in the whole batch and on how many draws went before, and on nothing else:
not on which worker has the row, which rows lie beside it, or how far it is padded.

Training asks torch's global generator unless :func:`drawing` says otherwise (key ``train_noise: keyed``).
Shapes: B rows of this process, P parts of rows (such as trained places), N positions of a row, D embedding.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_GAMMA, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def folded(*numbers: int) -> int:
    """One 64-bit number of several, each of which changes all of it; 0 .. 2^64 - 1."""
    value = 0
    for number in numbers:
        value = (value + (number & _MASK64) + _GAMMA) & _MASK64
        value = ((value ^ (value >> 30)) * _FIRST) & _MASK64
        value = ((value ^ (value >> 27)) * _SECOND) & _MASK64
        value ^= value >> 31
    return value


def _signed(value: int) -> int:
    """The int64 with the bits of a 64-bit number."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 (any shape), in place; products wrap as they do for unsigned numbers."""
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        z ^= (z >> shift).bitwise_and_((1 << (64 - shift)) - 1)  # `>>` alone would copy the sign
        if factor != 1:
            z *= _signed(factor)
    return z


def _stream(keys: Tensor, width: int) -> Tensor:
    """z_1 .. z_width of each key: (R, width) int64 of keys (R,)."""
    steps = torch.arange(1, width + 1, device=keys.device).mul_(_signed(_GAMMA))
    return _mix(keys[:, None] + steps)


def _uniform(z: Tensor) -> Tensor:
    """Float64 in [0, 1) of 64 random bits."""
    return (z >> 11).bitwise_and_((1 << 53) - 1).double().mul_(2.0**-53)


def _normal(keys: Tensor, width: int) -> Tensor:
    """Standard normal numbers (R, width), float32."""
    z = _stream(keys, (width + 1) // 2)
    first = (z >> 32).bitwise_and_((1 << 32) - 1).add_(1).float().mul_(2.0**-32)  # in (0, 1]: it has a logarithm
    angle = z.bitwise_and_((1 << 32) - 1).float().mul_(2.0 * math.pi * 2.0**-32)
    radius = first.log_().mul_(-2.0).sqrt_()
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=2).flatten(1)[:, :width]


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
        self._draws += 1
        base = _signed(folded(self._base, self._draws))
        keys = _mix((self.places * _signed(_GAMMA)).add_(base)).to(device)
        if parts is None:
            return keys
        row, part = parts.to(device).unbind(1)
        return _mix(keys[row] + (part + 1) * _signed(_FIRST))

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
        return _uniform(_stream(self._keys(device, parts), width))

    def shared_uniform(self, width: int, *, device: torch.device | str) -> Tensor:
        """Uniform numbers in [0, 1) that all rows of the whole batch share, (width,) float64."""
        self._draws += 1
        key = torch.tensor([_signed(folded(self._base, self._draws))], device=device)
        return _uniform(_stream(key, width))[0]

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
        keys = self._keys(device)
        if lengths is None:
            return _normal(keys, math.prod(shape[1:])).to(dtype).view(shape)
        drawn = torch.arange(shape[1], device=device) < lengths.to(device)[:, None]
        row, position = drawn.nonzero().unbind(1)
        keys = _mix(keys[row] + (position + 1) * _signed(_FIRST))
        result = torch.zeros(shape, device=device, dtype=dtype)
        result[drawn] = _normal(keys, math.prod(shape[2:])).to(dtype).view(-1, *shape[2:])
        return result


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
