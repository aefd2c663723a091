"""SASRecCE: SASRec trained by the cross-entropy over all items (Klenitskiy and Vasilev, RecSys 2023, arXiv 2309.07602).

    L = mean over places j of  -log( exp(h_j . e_{j+1}) / sum_v exp(h_j . e_v) )

h_j is the state of SASRec's causal Transformer after item j (interests/causal_encoder.py); an item scores h_n . e.
SASRec itself (Kang and McAuley, ICDM 2018) has a binary cross-entropy with one negative; this loss is what makes it the
rival that an honest table needs ("SASRec+" in that paper).

`train_positions: all` trains every place of a user's history in one row, as SASRec and that paper do; `last` takes one
row for each target, as RecBole does, and costs as many times more (docs/decisions/085).

Shapes: B rows, L history, P trained places, D embedding, V items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_diffusion.interests.causal_encoder import Activation, CausalEncoder, PositionOrder, TrainPositions
from recbole_diffusion.losses.ranking import full_softmax
from recbole_diffusion.models.base import Score, VectorRecommender


@dataclass(frozen=True)
class SASRecCEOptions:
    """SASRecCE's own keys; properties/model/SASRecCE.yaml holds the defaults and says what each means."""

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
    ce_include_padding: bool
    score: Score


class SASRecCE(VectorRecommender):
    """SASRec with full cross-entropy as a RecBole `SequentialRecommender`."""

    Options = SASRecCEOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: SASRecCEOptions = self.options
        self.item_embedding = nn.Embedding(self.n_items, o.hidden_size)
        nn.init.normal_(self.item_embedding.weight, std=o.item_init_std)
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
        )

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Cross-entropy of the next item at every trained place, over all items."""
        states, items = self.encoder.pairs(
            self.item_embedding.weight,
            interaction[self.ITEM_SEQ],
            interaction[self.ITEM_SEQ_LEN],
            interaction[self.POS_ITEM_ID],
            self.options.train_positions,
        )
        include_padding = self.options.ce_include_padding
        row_losses = full_softmax(states, self.item_embedding.weight, items, include_padding=include_padding)
        return {"cross_entropy": row_losses.mean()}

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """The trained places, which are as many as the histories have items."""
        if self.options.train_positions == "last":
            return {}
        return {"cross_entropy": int(interaction[self.ITEM_SEQ_LEN].sum())}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """The state after the latest item, (B, 1, D)."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.encoder.users(self.item_embedding.weight, item_seq, lengths)[:, None]

    def item_vectors(self) -> Tensor:
        """The item embedding table, (V, D)."""
        return self.item_embedding.weight
