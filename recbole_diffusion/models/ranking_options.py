"""The keys of the multi-interest models, and what these keys build; their loss: docs/decisions/070.

`RoutedOptions` adds REMI's two: negatives weighted by how hard they are, and the penalty on peaked attention.

Shapes: B rows, K interests, L history, V items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from recbole_diffusion.config_options import at_least
from recbole_diffusion.interests.multi_interest import Interests, real_items
from recbole_diffusion.losses.regularisers import routing_regulariser
from recbole_diffusion.models.base import Score
from recbole_diffusion.models.loss_options import LossOptions


@dataclass(frozen=True)
class RankingOptions(LossOptions):
    """The keys that all of them have."""

    hidden_size: int
    item_init_std: float | None
    score: Score

    def __post_init__(self) -> None:
        """Refuse values that no network can have."""
        super().__post_init__()
        at_least(self, 1, ("hidden_size",))


@dataclass(frozen=True)
class RoutedOptions(RankingOptions):
    """The keys of REMI and of what is built on it."""

    n_interests: int
    hardness: float
    detach_weights: bool
    routing_weight: float
    routing_reduction: Literal["sum", "mean"]
    routing_centre: Literal["padded", "items"]

    def __post_init__(self) -> None:
        """Refuse values that no network or loss can have."""
        super().__post_init__()
        at_least(self, 1, ("n_interests",))
        at_least(self, 0, ("hardness", "routing_weight"))

    def routing_loss(self, interests: Interests, lengths: Tensor, padded_length: int) -> dict[str, Tensor]:
        """REMI's penalty on peaked attention, times its weight; no term where the weight is 0 (docs/decisions/073).

        Args:
            interests: with weights (B, K, L).
            lengths: (B,) real lengths.
            padded_length: the length that histories count as padded to.
        """
        if not self.routing_weight:
            return {}
        over_items = self.routing_centre == "items"
        penalty = routing_regulariser(
            interests.weights,
            real_items(lengths, interests.weights.shape[-1]) if over_items else None,
            dim=self.hidden_size,
            padded_length=None if over_items else padded_length,
            reduction=self.routing_reduction,
        )
        return {"routing": self.routing_weight * penalty}

    def summed_terms(self) -> dict[str, int | None]:
        """The published penalty is a sum over rows, not a mean; for `averaged_over`."""
        return {"routing": None} if self.routing_reduction == "sum" else {}
