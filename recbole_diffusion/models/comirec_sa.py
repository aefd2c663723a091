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

from recbole_diffusion.config_options import at_least
from recbole_diffusion.interests.multi_interest import SelfAttentiveInterests
from recbole_diffusion.models.multi_interest_recommender import MultiInterestRecommender
from recbole_diffusion.models.ranking_options import RankingOptions


@dataclass(frozen=True)
class ComiRecSAOptions(RankingOptions):
    """ComiRec-SA's own keys; properties/model/ComiRecSA.yaml holds the defaults and says what each means."""

    n_interests: int
    use_positions: bool
    bias: bool
    initialisation: Literal["kaiming", "glorot"]

    def __post_init__(self) -> None:
        """Refuse values that no network can have."""
        super().__post_init__()
        at_least(self, 1, ("n_interests",))


class ComiRecSA(MultiInterestRecommender):
    """ComiRec-SA as a RecBole `SequentialRecommender`."""

    Options = ComiRecSAOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: ComiRecSAOptions = self.options
        self.extractor = SelfAttentiveInterests(
            o.hidden_size, o.n_interests, self.max_seq_length, positions=o.use_positions, bias=o.bias
        )
        self.extractor.reset_parameters(o.initialisation)
        self.objective = self.new_objective(dataset)
