"""SASRecSampled: SASRec and a softmax over sampled items (Klenitskiy and Vasilev, RecSys 2023, arXiv 2309.07602).

    L = mean over places j of  -log( exp(h_j . e_{j+1}) / (exp(h_j . e_{j+1}) + sum_m exp(h_j . e_m)) )

h_j is the state of SASRec's causal Transformer after item j (interests/causal_encoder.py), m runs over `n_negatives`
sampled items; an item scores h_n . e. With thousands of negatives it comes close to the full softmax ("SASRec+ 3000" in
that paper) at a cost that does not grow with the catalogue.

The paper's code draws one set of uniform negatives for each user, among items that are not in the user's history; here
the batch shares one set and a place's own target is left out (docs/decisions/085). `train_positions` as for SASRecCE.

Shapes: B rows, L history, P trained places, M negatives, D embedding, V items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_diffusion.interests.causal_encoder import Activation, CausalEncoder, PositionOrder, TrainPositions
from recbole_diffusion.losses.negatives import build_negative_sampler
from recbole_diffusion.losses.objective import RankingObjective
from recbole_diffusion.models.base import Score, VectorRecommender
from recbole_diffusion.models.item_counts import sampler_item_counts


@dataclass(frozen=True)
class SASRecSampledOptions:
    """SASRecSampled's own keys; properties/model/SASRecSampled.yaml holds the defaults and says what each means."""

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
    negative_sampler: str
    n_negatives: int
    negatives_per_row: bool
    log_q_correction: bool
    remove_hits: bool
    score: Score


class SASRecSampled(VectorRecommender):
    """SASRec with a sampled softmax as a RecBole `SequentialRecommender`."""

    Options = SASRecSampledOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: SASRecSampledOptions = self.options
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
        sampler = build_negative_sampler(
            o.negative_sampler,
            o.n_negatives,
            item_counts=None
            if o.negative_sampler == "uniform"
            else sampler_item_counts(o.negative_sampler, dataset, self.n_items),
            per_row=o.negatives_per_row,
        )
        self.objective = RankingObjective(sampler, log_q_correction=o.log_q_correction, remove_hits=o.remove_hits)

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Cross-entropy of the next item at every trained place, over it and the negatives."""
        states, items, places = self.encoder.placed_pairs(
            self.item_embedding.weight,
            interaction[self.ITEM_SEQ],
            interaction[self.ITEM_SEQ_LEN],
            interaction[self.POS_ITEM_ID],
            self.options.train_positions,
        )
        return {"sampled_softmax": self.objective(states, self.item_embedding.weight, items, places).mean()}

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """The trained places, which are as many as the histories have items."""
        if self.options.train_positions == "last":
            return {}
        return {"sampled_softmax": int(interaction[self.ITEM_SEQ_LEN].sum())}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """The state after the latest item, (B, 1, D)."""
        item_seq, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.encoder.users(self.item_embedding.weight, item_seq, lengths)[:, None]

    def item_vectors(self) -> Tensor:
        """The item embedding table, (V, D)."""
        return self.item_embedding.weight
