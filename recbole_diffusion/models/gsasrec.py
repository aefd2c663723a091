"""gSASRec: SASRec with many negatives and generalised binary cross-entropy (Petrov and Macdonald, RecSys 2023).

    L = mean over places j of  -( beta log sigma(h_j . e_{j+1}) + sum_m log(1 - sigma(h_j . e_m)) ) / (M + 1)
    beta = alpha (t (1 - 1/alpha) + 1/alpha),   alpha = M / (N - 1)

h_j is the state of SASRec's causal Transformer after item j (interests/causal_encoder.py), m runs over M uniform
negatives of each place. With few negatives the sigmoid is overconfident: each item is seen as a negative alpha times as
often as it should. The power beta of the positive's probability takes that back, in full for the calibration t = 1 (the
sigmoid is then a probability), not at all for t = 0 (with M = 1 SASRec's own loss). An item scores h_n . e.

Defaults are the paper's (arXiv 2308.07192) and its code's (asash/gSASRec-pytorch; docs/decisions/086): every place of a
history is trained (`train_positions: all`), places count from the latest item, attention has no output map, negatives
may be the target.

Shapes: B rows, L history, P trained places, M negatives, D embedding, V items, N = V - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from recbole_diffusion.losses.ranking import gbce, gbce_power
from recbole_diffusion.models.causal_recommender import CausalRecommender, SampledCausalOptions


@dataclass(frozen=True)
class GSASRecOptions(SampledCausalOptions):
    """gSASRec's own keys; properties/model/gSASRec.yaml holds the defaults and says what each means."""

    calibration: float

    def __post_init__(self) -> None:
        """Refuse negatives whose rate the calibration does not know (docs/decisions/086)."""
        super().__post_init__()
        if self.negative_sampler == "in_batch" or (self.negative_sampler == "log_uniform" and self.calibration != 0.0):
            raise ValueError(
                f"negative_sampler is {self.negative_sampler}, but gSASRec is calibrated for n_negatives uniform "
                "items; set negative_sampler: uniform (log_uniform goes with calibration: 0.0 alone)"
            )


class gSASRec(CausalRecommender):  # noqa: N801 (the model's name)
    """gSASRec as a RecBole `SequentialRecommender`."""

    Options = GSASRecOptions
    term = "gbce"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: GSASRecOptions = self.options
        gbce_power(o.n_negatives, self.n_items, o.calibration)  # refuses a calibration that is none
        self.sampler = o.sampler(dataset, self.n_items)

    def place_losses(self, states: Tensor, items: Tensor, places: Tensor | None) -> Tensor:
        """gBCE of the next item and the negatives, (P,)."""
        table = self.item_embedding.weight
        o: GSASRecOptions = self.options
        negatives = self.sampler(items, self.n_items, places)
        return gbce(states, table, items, negatives, calibration=o.calibration, remove_hits=o.remove_hits)
