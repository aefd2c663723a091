"""REMI: rethinking multi-interest learning for candidate matching (Xie et al., RecSys 2023, arXiv 2302.14532).

ComiRec-SA's extractor, V = A e with A = softmax_items(W_2 tanh(W_1 (e + P)^T)), the target picking v = V_k with the
largest V_k . e_a in training, and two additions:

    IHN  L = -log( exp(v . e_a) / (exp(v . e_a) + sum_j w_j exp(v . e_j)) ),
         w_j = exp(beta v . e_j) / mean_m exp(beta v . e_m)
    RR   L_RR = sum_rows sum_k Cov_kk^2,   Cov = C C^T / D,   C_k = A_k - mean(A_k)

over M uniform negatives shared by the batch; hard negatives count more, and attention to single items is punished. The
loss is L + lambda L_RR. An item scores by the best of the K interests.

The published code (Tokkiu/REMI) is the default: gradients flow through w (detach_weights), L_RR is a sum over the
batch, so its weight grows with train_batch_size (routing_reduction), and attention is centred over padding too
(routing_centre): docs/decisions/073. Padding is never drawn as a negative; the code draws it once in N + 1.

Shapes: B rows, L history, K interests, D embedding, V items, M negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.interests.multi_interest import (
    Interests,
    SelfAttentiveInterests,
    real_items,
    select_interest,
)
from recbole_diffusion.losses.objective import Loss, build_objective
from recbole_diffusion.losses.regularisers import routing_regulariser
from recbole_diffusion.models.base import Score, VectorRecommender
from recbole_diffusion.models.item_counts import sampler_item_counts
from recbole_diffusion.models.item_table import item_table


@dataclass(frozen=True)
class REMIOptions:
    """REMI's own keys; properties/model/REMI.yaml holds the defaults and says what each means."""

    hidden_size: int
    n_interests: int
    use_positions: bool
    bias: bool
    initialisation: Literal["kaiming", "glorot"]
    item_init_std: float | None
    loss: Loss
    negative_sampler: str
    n_negatives: int
    log_q_correction: bool
    remove_hits: bool
    hardness: float
    detach_weights: bool
    routing_weight: float
    routing_reduction: Literal["sum", "mean"]
    routing_centre: Literal["padded", "items"]
    score: Score

    def __post_init__(self) -> None:
        """Refuse values that no network or loss can have."""
        for key in ("hidden_size", "n_interests", "n_negatives"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        for key in ("hardness", "routing_weight"):
            if getattr(self, key) < 0.0:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 0 or more")


class REMI(VectorRecommender):
    """REMI as a RecBole `SequentialRecommender`."""

    Options = REMIOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: REMIOptions = self.options
        self.item_embedding = item_table(self.n_items, o.hidden_size, o.item_init_std)
        self.extractor = SelfAttentiveInterests(
            o.hidden_size, o.n_interests, self.max_seq_length, positions=o.use_positions, bias=o.bias
        )
        self.extractor.reset_parameters(o.initialisation)
        self.objective = build_objective(
            o.loss,
            o.negative_sampler,
            o.n_negatives,
            item_counts=lambda: sampler_item_counts(o.negative_sampler, dataset, self.n_items),
            log_q_correction=o.log_q_correction,
            remove_hits=o.remove_hits,
            hardness=o.hardness,
            detach_weights=o.detach_weights,
        )

    def interests(self, interaction: Interaction) -> Interests:
        """Interests of a batch of histories, with their weights over the items."""
        return self.extractor(self.item_embedding(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN])

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Softmax with hard negatives (IHN) and the routing regulariser (RR), weighted by lambda."""
        o: REMIOptions = self.options
        targets = interaction[self.POS_ITEM_ID]
        interests = self.interests(interaction)
        _, user = select_interest(interests.vectors, self.item_embedding(targets))
        terms = {"ranking": self.objective(user, self.item_embedding.weight, targets).mean()}
        if o.routing_weight:
            over_items = o.routing_centre == "items"
            width = interests.weights.shape[-1]
            terms["routing"] = o.routing_weight * routing_regulariser(
                interests.weights,
                real_items(interaction[self.ITEM_SEQ_LEN], width) if over_items else None,
                dim=o.hidden_size,
                padded_length=None if over_items else self.max_seq_length,
                reduction=o.routing_reduction,
            )
        return terms

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """The published regulariser is a sum over rows."""
        return {"routing": None} if self.options.routing_reduction == "sum" else {}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """All interests (B, K, D)."""
        return self.interests(interaction).vectors

    def item_vectors(self) -> Tensor:
        """The item embedding table, (V, D)."""
        return self.item_embedding.weight
