"""What a searched key is drawn from: the distributions of a search space, as plain numbers.

Ray is imported only when a domain becomes one of Ray's (`to_ray`), so that a search space is read, checked and compared
without it.

    loguniform(a, b): exp(u), u ~ U(ln a, ln b);  q-forms: q * round(x / q);  integer forms include both ends
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "uniform": ("low", "high"),
    "quniform": ("low", "high", "q"),
    "loguniform": ("low", "high"),
    "qloguniform": ("low", "high", "q"),
    "randint": ("low", "high"),
    "qrandint": ("low", "high", "q"),
    "lograndint": ("low", "high"),
    "qlograndint": ("low", "high", "q"),
}
LISTED = ("choice", "grid")
KINDS = (*LISTED, *ARGUMENTS)


class DomainError(ValueError):
    """A domain that cannot be: the message follows "must be"."""


@dataclass(frozen=True)
class Domain:
    """Where one key's values come from.

    Attributes:
        kind: a name in :data:`KINDS`.
        values: of `choice` and `grid` what there is to choose from; of the others low, high and, for q-forms, q.
    """

    kind: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if self.kind in LISTED:
            if not self.values:
                raise DomainError(f"{self.kind}: [value, value, ...] with at least one value")
            return
        names = ARGUMENTS[self.kind]
        form = f"{self.kind}: [{', '.join(names)}]"
        if len(self.values) != len(names):
            raise DomainError(f"{form}, {len(names)} numbers")
        whole = "int" in self.kind
        for value in self.values:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
                raise DomainError(f"{form} with finite numbers")
            if whole and not isinstance(value, int):
                raise DomainError(f"{form} with integers")
        low, high = self.values[:2]
        if not low < high:
            raise DomainError(f"{form} with low below high")
        if "log" in self.kind and low <= 0:
            raise DomainError(f"{form} with low above 0, since it is drawn on a logarithmic scale")
        if len(names) == 3:
            q = self.values[2]
            if q <= 0 or q > high - low:
                raise DomainError(f"{form} with q above 0 and at most high - low")
            if any(abs(end / q - round(end / q)) > 1e-6 for end in (low, high)):
                raise DomainError(f"{form} with low and high multiples of q")

    @property
    def finite(self) -> bool:
        """Whether the values are listed one by one."""
        return self.kind in LISTED

    def ends(self) -> tuple[Any, ...]:
        """The values that a check tries, as a trial would get them: all that are listed, else both ends.

        Ends of what draws fractions are fractions, even where a file writes `[16, 64]`: a key that takes integers alone
        refuses every draw.
        """
        if self.finite:
            return self.values
        return self.values[:2] if "int" in self.kind else tuple(map(float, self.values[:2]))

    def plain(self) -> dict[str, list[Any]]:
        """As in a search space file."""
        return {self.kind: list(self.values)}

    def to_ray(self, *, as_grid: bool = False) -> Any:
        """Ray Tune's domain.

        Args:
            as_grid: list `choice` completely, too.
        """
        from ray import tune

        if self.kind == "grid" or (as_grid and self.kind == "choice"):
            return tune.grid_search(list(self.values))
        if self.kind == "choice":
            return tune.choice(list(self.values))
        low, high, *q = self.values
        kind = self.kind
        if kind.endswith("randint"):
            if q and q[0] > 1:
                from recbole_diffusion.tuning.integer_multiples import integer_multiples

                return integer_multiples(low, high, q[0], logarithmic="log" in kind)
            kind, high, q = kind.removeprefix("q"), high + 1, []  # Ray leaves the upper end out
        make: Callable[..., Any] = getattr(tune, kind)
        return make(low, high, *q)
