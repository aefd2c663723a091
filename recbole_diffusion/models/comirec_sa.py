"""ComiRec-SA: controllable multi-interest recommendation by self-attention (Cen et al., KDD 2020, arXiv 2005.09347).

K vectors of one history, and the target picks one in training:

    A = softmax_items(W_2 tanh(W_1 (e + P)^T)),  V = A e
    u = V[argmax_k V_k . e_a],   L = -log( exp(u . e_a) / sum_i exp(u . e_i) )

the sum over sampled items. An item scores by the best of the K interests: max_k V_k . e_i.

Where the codes differ (THUDM/ComiRec in TensorFlow, its port in Tokkiu/REMI, which DMI's tables compare with), the
default is the port's and keys select the other (docs/decisions/070): negative_sampler, log_q_correction, remove_hits,
bias, initialisation, item_init_std.

Shapes: B rows, L history, K interests, D embedding, V items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.interests.multi_interest import Interests, SelfAttentiveInterests, select_interest
from recbole_diffusion.losses.objective import Loss, build_objective
from recbole_diffusion.models.base import Score, VectorRecommender
from recbole_diffusion.models.item_counts import sampler_item_counts
from recbole_diffusion.models.item_table import item_table


@dataclass(frozen=True)
class ComiRecSAOptions:
    """ComiRec-SA's own keys; properties/model/ComiRecSA.yaml holds the defaults and says what each means."""

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
    score: Score

    def __post_init__(self) -> None:
        """Refuse values that no network can have."""
        for key in ("hidden_size", "n_interests", "n_negatives"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 1 or more")


class ComiRecSA(VectorRecommender):
    """ComiRec-SA as a RecBole `SequentialRecommender`."""

    Options = ComiRecSAOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: ComiRecSAOptions = self.options
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
        )

    def interests(self, interaction: Interaction) -> Interests:
        """Interests of a batch of histories, with their weights over the items."""
        return self.extractor(self.item_embedding(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN])

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Softmax of the interest that the target picks."""
        targets = interaction[self.POS_ITEM_ID]
        _, user = select_interest(self.interests(interaction).vectors, self.item_embedding(targets))
        return {"ranking": self.objective(user, self.item_embedding.weight, targets).mean()}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """All interests (B, K, D)."""
        return self.interests(interaction).vectors

    def item_vectors(self) -> Tensor:
        """The item embedding table, (V, D)."""
        return self.item_embedding.weight
