"""Random numbers computed from a key and a counter, on any device, for many keys at once.

    z_j = mix(key + j gamma),   j = 1, 2, ...

is the stream of SplitMix64 (Steele, Lea, Flood 2014) that starts at `key`: 64 bits each, computed from the counter
alone. A uniform number takes the upper 53 bits, a pair of normal ones the halves of one z (Box and Muller 1958). The
bits are the same on every device; logarithm, sine and cosine of a device may differ in their last place.
Shapes: R keys, N positions of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1
_FEW = 2048
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


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser of int64 (any shape), in place; products wrap as they do for unsigned numbers."""
    if not torch.compiler.is_compiling() and z.device.type == "cpu" and z.numel() <= _FEW:
        _mix_few(z.numpy().view(np.uint64))
        return z
    for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        z ^= (z >> shift).bitwise_and_((1 << (64 - shift)) - 1)  # `>>` alone would copy the sign
        if factor != 1:
            z *= _signed(factor)
    return z


def _mix_few(z: np.ndarray) -> None:
    """The same of few numbers (uint64) in numpy, whose operations cost less to call."""
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)


def row_keys(base: int, rows: Tensor) -> Tensor:
    """(R,) int64 keys of rows (R,) int64 under a 64-bit `base`: different rows have different keys."""
    return mix((rows * _signed(_GAMMA)).add_(_signed(base)))


def single_key(base: int, device: torch.device | str) -> Tensor:
    """(1,) int64, the key that is `base` itself."""
    return torch.tensor([_signed(base)], device=device)


def draw_keys(keys: Tensor, draws: Tensor) -> Tensor:
    """(R,) keys of draw number `draws` (R,), from 0, of rows with `keys` (R,)."""
    return mix(((draws + 1) * _signed(_GAMMA)).add_(keys))


def part_keys(keys: Tensor, parts: Tensor) -> Tensor:
    """(R,) keys of part number `parts` (R,), from 0, of what `keys` (R,) belong to; or (R, N) of (R, 1) and (R, N)."""
    return mix(((parts + 1) * _signed(_FIRST)).add_(keys))


def _stream(keys: Tensor, width: int) -> Tensor:
    """z_1 .. z_width of each key: (R, width) int64 of keys (R,)."""
    steps = torch.arange(1, width + 1, device=keys.device).mul_(_signed(_GAMMA))
    return mix(keys[:, None] + steps)


def uniform_numbers(keys: Tensor, width: int) -> Tensor:
    """Uniform numbers in [0, 1) of keys (R,): (R, width) float64."""
    return (_stream(keys, width) >> 11).bitwise_and_((1 << 53) - 1).double().mul_(2.0**-53)


def normal_numbers(keys: Tensor, width: int) -> Tensor:
    """Standard normal numbers of keys (R,): (R, width) float32."""
    z = _stream(keys, (width + 1) // 2)
    first = (z >> 32).bitwise_and_((1 << 32) - 1).add_(1).float().mul_(2.0**-32)  # in (0, 1]: it has a logarithm
    angle = z.bitwise_and_((1 << 32) - 1).float().mul_(2.0 * math.pi * 2.0**-32)
    radius = first.log_().mul_(-2.0).sqrt_()
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=2).flatten(1)[:, :width]


def normal_rows(
    keys: Tensor,
    shape: Sequence[int],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    lengths: Tensor | None = None,
) -> Tensor:
    """Standard normal numbers of `shape` (R, ...) on `device`: float32, cast to `dtype`.

    Args:
        keys: (R,) int64, on any device.
        lengths: (R,) integers in 0..N for a shape (R, N, ...): only so many of a row's N positions are drawn, the
            others are zero. What a position gets depends neither on N nor on the row's length.
    """
    shape = tuple(shape)
    if lengths is None:
        return normal_numbers(keys.to(device), math.prod(shape[1:])).to(dtype).view(shape)
    lengths = lengths.detach().to(dtype=torch.int64)
    if torch.compiler.is_compiling():  # a traced program has no sizes that depend on values: all positions, then zeros
        place = torch.arange(shape[1], device=device).expand(shape[:2])
        each = part_keys(keys.to(device)[:, None], place)
        numbers = normal_numbers(each.flatten(), math.prod(shape[2:])).to(dtype).view(shape)
        beyond = (place >= lengths.to(device)[:, None]).view(*shape[:2], *(1 for _ in shape[2:]))
        return numbers.masked_fill(beyond, 0.0)
    # Counted where the lengths are: `nonzero` of a mask would make the host wait for the device.
    row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    position = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
    keys = part_keys(keys.to(row.device)[row], position).to(device)
    drawn = normal_numbers(keys, math.prod(shape[2:])).to(dtype).view(-1, *shape[2:])
    result = torch.zeros(shape, device=device, dtype=dtype)
    result[row.to(device), position.to(device)] = drawn
    return result
