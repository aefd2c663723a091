"""Ray Tune's sampler of integers that are multiples of q, all of them drawn alike, both ends included.

    x = q k,   k drawn (evenly, or evenly in its logarithm) from low / q .. high / q

Ray draws so since 2.58 or later; before, it rounded integers, which drew the ends less often than the others, or never.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ray.tune.search.sample import Integer, Quantized


class Multiples(Quantized):
    """Ray's `Quantized`, with another way to draw: searchers see it as that.

    Args:
        sampler: draws the place of a multiple.
        q: what the values are multiples of, as are both ends of the domain.
    """

    def sample(self, domain: Any, config: Any = None, size: int = 1, random_state: Any = None) -> Any:
        """Draw values of a domain, as Ray's samplers do: one, or a list of `size`."""
        places = copy.copy(domain)
        places.lower, places.upper = round(domain.lower / self.q), round(domain.upper / self.q) + 1
        drawn = self.sampler.sample(places, config, size, random_state=random_state)
        values = [int(place) * self.q for place in np.atleast_1d(drawn)]
        return values if size > 1 else values[0]


def integer_multiples(low: int, high: int, q: int, *, logarithmic: bool) -> Any:
    """Ray's domain of the multiples of q between two of them.

    Args:
        low, high: both included.
        q: 2 or more.
        logarithmic: draw evenly in the logarithm.
    """
    domain = Integer(low, high).loguniform() if logarithmic else Integer(low, high).uniform()
    sampler = domain.get_sampler()
    domain.set_sampler(Multiples(sampler, q), allow_override=True)
    return domain
