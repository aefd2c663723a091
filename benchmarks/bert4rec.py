"""RecBole's BERT4Rec with the same training loss at less cost on a CPU.

    PYTHONPATH=benchmarks recbole-diff run --model=bert4rec:BERT4Rec --dataset=... --valid_metric=...

RecBole computes the logits of `mask_ratio` x `MAX_ITEM_LIST_LENGTH` places of every row, weighs those that hold no
masked item with 0, and pads all histories to the longest of the batch. Here the logits of masked items alone are
computed, and a batch's rows go through the Transformer in groups of similar length. The loss is the same sum in
another order; which values dropout draws is not the same. Parameters have the same names, so a checkpoint's weights
are RecBole's. It is meant for runs on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.sequential_recommender import bert4rec

GROUPS = 8


class BERT4Rec(bert4rec.BERT4Rec):  # type: ignore[misc]
    """RecBole's model; `calculate_loss` alone differs."""

    fixed_width = False

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Mean cross-entropy of the masked items.

        As in RecBole, index 0 of MASK_INDEX means "no masked item", so one masked at the first place does not count.

        Args:
            interaction: a training batch with MASK_ITEM_SEQ (B, L), POS_ITEMS and MASK_INDEX (B, M).
        """
        if self.loss_type != "CE":
            loss: torch.Tensor = super().calculate_loss(interaction)
            return loss
        histories, places = interaction[self.MASK_ITEM_SEQ], interaction[self.MASK_INDEX]
        lengths = (histories != 0).sum(1)
        vectors, targets = [], []
        for rows in torch.argsort(lengths).chunk(GROUPS):
            longest = max(int(lengths[rows].max()), int(places[rows].max()) + 1)
            encoded = self.forward(histories[rows, :longest])
            row, place = torch.nonzero(places[rows] > 0, as_tuple=True)
            vectors.append(encoded[row, places[rows][row, place]])
            targets.append(interaction[self.POS_ITEMS][rows][row, place])
        logits = torch.cat(vectors) @ self.item_embedding.weight[: self.n_items].T + self.output_bias
        return torch.nn.functional.cross_entropy(logits, torch.cat(targets))
