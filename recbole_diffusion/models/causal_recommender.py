"""SASRecCE, SASRecSampled and gSASRec: SASRec's encoder over one table of items, and which places train.

    L = mean over places j of  l(h_j, e_{j+1})

h_j is the state of SASRec's causal Transformer after item j (interests/causal_encoder.py); an item scores h_n . e. The
models differ in the defaults of their keys, l (key ``loss``) above all.

`train_positions: all` trains every place of a user's history in one row, as SASRec does; `last` takes one row for each
target, as RecBole does, and costs as many times more (docs/decisions/085).

Shapes: B rows, P trained places, D embedding, V items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.interests.causal_encoder import Activation, CausalEncoder, PositionOrder, TrainPositions
from recbole_diffusion.models.base import Score, VectorRecommender
from recbole_diffusion.models.loss_options import PlaceLossOptions


@dataclass(frozen=True)
class CausalOptions(PlaceLossOptions):
    """Their keys, which differ in defaults alone."""

    hidden_size: int
    n_layers: int
    n_heads: int
    inner_size: int | None
    dropout_prob: float
    hidden_act: Activation
    item_init_std: float
    scale_items: bool
    position_order: PositionOrder
    attention_output: bool
    train_positions: TrainPositions
    score: Score


class CausalRecommender(VectorRecommender):
    """Base of the models that train SASRec's encoder."""

    Options = CausalOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: CausalOptions = self.options
        self.item_embedding = self.new_item_table(o.item_init_std)
        self.encoder = CausalEncoder(
            o.hidden_size,
            o.n_layers,
            o.n_heads,
            o.hidden_size if o.inner_size is None else o.inner_size,
            o.dropout_prob,
            self.max_seq_length,
            activation=o.hidden_act,
            position_order=o.position_order,
            scale_items=o.scale_items,
            output_projection=o.attention_output,
            sparse_look_ups=self.item_embedding.sparse_look_ups,
        )
        self.objective = self.new_objective(dataset)

    def place_losses(self, states: Tensor, items: Tensor, places: Tensor | None) -> Tensor:
        """The loss of each trained place, (P,).

        Args:
            states: (P, D) h_j.
            items: (P,) the item that follows.
            places: (P, 2) row and place in its history; None for one a row.
        """
        losses: Tensor = self.objective(states, self.item_embedding.weight, items, places)
        return losses

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """The mean over all trained places."""
        states, items, places = self.encoder.placed_pairs(
            self.item_embedding.weight,
            interaction[self.ITEM_SEQ],
            interaction[self.ITEM_SEQ_LEN],
            interaction[self.POS_ITEM_ID],
            self.options.train_positions,
        )
        return {self.loss_choice.term: self.place_losses(states, items, places).mean()}

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """The trained places, which are as many as the histories have items."""
        if self.options.train_positions == "last":
            return {}
        return {self.loss_choice.term: int(interaction[self.ITEM_SEQ_LEN].sum())}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """The state after the latest item, (B, 1, D)."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.encoder.users(self.item_embedding.weight, item_seq, lengths)[:, None]
