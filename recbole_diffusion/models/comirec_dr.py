"""ComiRec-DR: controllable multi-interest recommendation by dynamic routing (Cen et al., KDD 2020, arXiv 2005.09347).

K vectors of one history by three rounds of routing between capsules (interests/routing.py),

    u_kj = W_kj e_j,  b = 0;   c = softmax(b),  s_k = sum_j c_kj u_kj,  v_k = squash(s_k),  b_kj += u_kj . v_k

and the target picks one in training: u = v_k with the largest v_k . e_a, L a softmax over sampled items. An item scores
by the best of the K interests: max_k v_k . e_i.

Every place of the history has matrices of its own, as in both codes: index 0 is the oldest item. The paper, ComiRec's
TensorFlow code and capsule theory normalise c over interests; the port in REMI's code, which DMI's tables compare with,
over items (docs/decisions/071). Keys: routing_softmax, initialisation; for the loss as ComiRecSA (decision 070).

Shapes: B rows, L history, K interests, D embedding, V items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recbole_diffusion.config_options import at_least
from recbole_diffusion.interests.routing import DynamicRouting, RoutingSoftmax
from recbole_diffusion.models.multi_interest_recommender import MultiInterestRecommender
from recbole_diffusion.models.ranking_options import RankingOptions


@dataclass(frozen=True)
class ComiRecDROptions(RankingOptions):
    """ComiRec-DR's own keys; properties/model/ComiRecDR.yaml holds the defaults and says what each means."""

    n_interests: int
    routing_softmax: RoutingSoftmax
    routing_iterations: int
    initialisation: Literal["kaiming", "kaiming_per_item", "normal"]

    def __post_init__(self) -> None:
        """Refuse values that no network can have."""
        super().__post_init__()
        at_least(self, 1, ("n_interests", "routing_iterations"))


class ComiRecDR(MultiInterestRecommender):
    """ComiRec-DR as a RecBole `SequentialRecommender`."""

    Options = ComiRecDROptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: ComiRecDROptions = self.options
        self.extractor = DynamicRouting(
            o.hidden_size, o.n_interests, self.max_seq_length, o.routing_softmax, o.routing_iterations
        )
        self.extractor.reset_parameters(o.initialisation)
        self.objective = self.new_objective(dataset)
