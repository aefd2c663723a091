"""Popularity: every history is answered with the items that are asked for most often in training.

What any model must beat. RecBole's Pop ranks users it knows, so it cannot answer protocols whose test users are new,
and counts an item once a batch; this one counts every training row and reads no user:

    score_i = a log(1 + n_i),   L = -log( exp(score_target) / sum_i exp(score_i) ),   a learned, 1 at the start

n_i the training rows that ask for item i. The order of items is that of n_i for any a > 0; L is the cross-entropy that
a model which ignores histories reaches, to compare other models' losses with.

Shapes: B rows, V items (row 0 is padding).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_diffusion.models.base import Score, VectorRecommender
from recbole_diffusion.models.item_counts import training_item_counts


@dataclass(frozen=True)
class PopularityOptions:
    """Popularity has no keys of its own."""

    @property
    def score(self) -> Score:
        """The product of the exponent and the logarithm."""
        return "dot"


class Popularity(VectorRecommender):
    """The most popular items for everybody, as a RecBole `SequentialRecommender`."""

    Options = PopularityOptions
    log_counts: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.register_buffer("log_counts", training_item_counts(dataset, self.n_items).float().log1p())
        self.exponent = nn.Parameter(torch.ones(()))

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Cross-entropy of the items' shares; padding is no item."""
        log_shares = (self.exponent * self.log_counts[1:]).log_softmax(0)
        return {"ranking": -log_shares[interaction[self.POS_ITEM_ID] - 1].mean()}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """The same number for every row, (B, 1, 1)."""
        return self.exponent.expand(interaction[self.ITEM_SEQ].shape[0], 1, 1)

    def item_vectors(self) -> Tensor:
        """log(1 + n_i), (V, 1)."""
        return self.log_counts[:, None]
