"""MIND: multi-interest network with dynamic routing (Li et al., CIKM 2019, arXiv 1904.08030).

Routing as in ComiRec-DR, with one matrix S shared by all items and interests, and b at the start random, since equal
interests would stay equal:

    u_j = S e_j,  b ~ N(0, 1);   c = softmax(b),  s_k = sum_j c_kj u_j,  v_k = squash(s_k),  b_kj += u_j . v_k

In training label-aware attention reads out u = sum_k softmax_k((v_k . e_a)^p) v_k; the published codes and the
default pick the best interest, p without bound. A row may have max(1, min(K, log2 n)) interests, `adaptive_interests`.
An item scores by the best interest. The paper's user profile is left out: a history is all there is.

There is no code of the authors'; THUDM/ComiRec and Tokkiu/REMI hold ports. At inference b belongs to the row, keyed by
`eval_seed`, or is drawn once and kept (`routing_init: fixed`): docs/decisions/072. Loss: docs/decisions/070.

Shapes: B rows, L history, K interests, D embedding, V items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.config_options import at_least
from recbole_diffusion.diffusion.noise import GlobalNoise, NoiseSource, RowNoise
from recbole_diffusion.interests.multi_interest import Interests, label_attention
from recbole_diffusion.interests.routing import RoutingSoftmax, SharedRouting
from recbole_diffusion.models.base import VectorRecommender
from recbole_diffusion.models.ranking_options import RankingOptions


@dataclass(frozen=True)
class MINDOptions(RankingOptions):
    """MIND's own keys; properties/model/MIND.yaml holds the defaults and says what each means."""

    n_interests: int
    routing_softmax: RoutingSoftmax
    routing_iterations: int
    routing_init: Literal["random", "fixed"]
    adaptive_interests: bool
    relu_layer: bool
    label_attention_power: float | Literal["max"]
    initialisation: Literal["kaiming", "glorot"]
    eval_seed: int | None

    def __post_init__(self) -> None:
        """Refuse values that no network can have."""
        super().__post_init__()
        at_least(self, 1, ("n_interests", "routing_iterations"))
        if not (self.power == 0.0 or self.power >= 1.0):
            raise ValueError(f"label_attention_power is {self.power}; it must be 0, at least 1, or max")

    @property
    def power(self) -> float:
        """p, infinite for `max`."""
        return math.inf if self.label_attention_power == "max" else self.label_attention_power


class MIND(VectorRecommender):
    """MIND as a RecBole `SequentialRecommender`."""

    Options = MINDOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: MINDOptions = self.options
        self.item_embedding = self.new_item_table(o.item_init_std)
        self.extractor = SharedRouting(
            o.hidden_size,
            o.n_interests,
            self.max_seq_length,
            o.routing_softmax,
            o.routing_iterations,
            init=o.routing_init,
            adaptive=o.adaptive_interests,
            relu_layer=o.relu_layer,
        )
        self.extractor.reset_parameters(o.initialisation)
        self.objective = self.new_objective(dataset)

    def interests(self, interaction: Interaction, noise: NoiseSource) -> Interests:
        """Interests of a batch of histories; `noise` gives b at the start."""
        return self.extractor(self.item_embedding(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN], noise)

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Softmax of what label-aware attention reads out."""
        targets = interaction[self.POS_ITEM_ID]
        interests = self.interests(interaction, GlobalNoise())
        user = label_attention(interests.vectors, self.item_embedding(targets), self.options.power, interests.valid)
        return {"ranking": self.objective(user, self.item_embedding.weight, targets).mean()}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """All interests (B, K, D); b at the start belongs to the row."""
        if self.options.routing_init == "fixed" or self.options.eval_seed is None:
            return self.interests(interaction, GlobalNoise()).vectors
        return self.interests(interaction, RowNoise(self._row_keys(interaction), self.options.eval_seed)).vectors
