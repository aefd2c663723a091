"""Geometry of the unit sphere S^(D-1): tangent projection, exponential and logarithm, distance.

    T_x S      = { v : v . x = 0 },   proj_x(v) = v - (v . x) x
    exp_x(v)   = cos(|v|) x + sin(|v|) v / |v|                                       (DimeRec, Algorithm 1, line 6)
    log_x(y)   = theta (y - cos(theta) x) / sin(theta),   theta = d(x, y)
    d(x, y)    = 2 atan2(|x - y|, |x + y|)                                                  (Kahan 2006, section 12)

exp_x(log_x(y)) = y for every y but the antipode, where each direction leads there and none is chosen: log_x(-x) = 0.
Values and gradients are finite everywhere, at v = 0, y = x and y = -x too: |v| is only differentiated where v is not
zero, and sin(a) / a near zero is its series. Arithmetic is float32 at least, whatever autocast says about the inputs.

Shapes: (..., D); the last axis holds the vector.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ZERO = 1e-12
"""Vectors shorter than this have no direction."""
_SERIES = 1e-4
"""Squared angles below this use the series, whose error is then below 1e-14."""


def normalise(x: Tensor) -> Tensor:
    """x / |x|; a zero vector has no direction and stays zero, with no gradient.

    Args:
        x: (..., D).
    """
    x = _exact(x)
    length, is_zero = _length(x)
    return (x / length).masked_fill(is_zero, 0.0)


def project(x: Tensor, v: Tensor) -> Tensor:
    """The part of v that is tangent at x: v - (v . x) x.

    Args:
        x: (..., D) unit vectors.
        v: (..., D).
    """
    x, v = _exact(x), _exact(v)
    return v - (v * x).sum(-1, keepdim=True) * x


def exponential(x: Tensor, v: Tensor) -> Tensor:
    """exp_x(v): where the geodesic from x in direction v is after the length |v|.

    Args:
        x: (..., D) unit vectors.
        v: (..., D) tangent at x. For any other v the formula is applied as it stands, and its result is not a unit
            vector: |exp_x(v)|^2 = 1 + sin(2 |v|) cos(v, x).
    """
    x, v = _exact(x), _exact(v)
    squared = v.square().sum(-1, keepdim=True)
    cosine, ratio = _cosine_and_sine_ratio(squared)
    return cosine * x + ratio * v


def logarithm(x: Tensor, y: Tensor) -> Tensor:
    """log_x(y): the tangent vector at x that leads to y, as long as their distance; zero for y = x and y = -x.

    Args:
        x: (..., D) unit vectors.
        y: (..., D) unit vectors.
    """
    x, y = _exact(x), _exact(y)
    towards = project(x, y)  # sin(theta) times the unit direction
    sine, no_direction = _length(towards)
    angle = torch.atan2(sine, (x * y).sum(-1, keepdim=True))
    return (angle / sine * towards).masked_fill(no_direction, 0.0)


def distance(x: Tensor, y: Tensor) -> Tensor:
    """The angle between unit vectors in radians, 0 .. pi, accurate at both ends.

    Args:
        x: (..., D) unit vectors.
        y: (..., D) unit vectors.

    Returns:
        (...).
    """
    x, y = _exact(x), _exact(y)
    apart, same = _length(x - y)
    together, opposite = _length(x + y)
    apart, together = apart.masked_fill(same, 0.0), together.masked_fill(opposite, 0.0)
    return 2.0 * torch.atan2(apart, together).squeeze(-1)


def _exact(x: Tensor) -> Tensor:
    """x in float32, or float64 where it has it."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _length(x: Tensor) -> tuple[Tensor, Tensor]:
    """|x| (..., 1), 1 where x is zero, and where that is: the gradient of a norm at zero is never asked for."""
    squared = x.square().sum(-1, keepdim=True)
    is_zero = squared <= _ZERO**2
    return squared.masked_fill(is_zero, 1.0).sqrt(), is_zero


def _cosine_and_sine_ratio(squared: Tensor) -> tuple[Tensor, Tensor]:
    """cos(a) and sin(a) / a as smooth functions of a^2, both like ``squared``."""
    small = squared < _SERIES
    angle = squared.masked_fill(small, 1.0).sqrt()
    cosine = torch.where(small, 1.0 - squared / 2 * (1.0 - squared / 12), angle.cos())
    ratio = torch.where(small, 1.0 - squared / 6 * (1.0 - squared / 20), angle.sin() / angle)
    return cosine, ratio
