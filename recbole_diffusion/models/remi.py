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

from recbole_diffusion.interests.multi_interest import SelfAttentiveInterests
from recbole_diffusion.models.multi_interest_recommender import MultiInterestRecommender
from recbole_diffusion.models.ranking_options import RoutedOptions


@dataclass(frozen=True)
class REMIOptions(RoutedOptions):
    """REMI's own keys; properties/model/REMI.yaml holds the defaults and says what each means."""

    use_positions: bool
    bias: bool
    initialisation: Literal["kaiming", "glorot"]


class REMI(MultiInterestRecommender):
    """REMI as a RecBole `SequentialRecommender`."""

    Options = REMIOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: REMIOptions = self.options
        self.extractor = SelfAttentiveInterests(
            o.hidden_size, o.n_interests, self.max_seq_length, positions=o.use_positions, bias=o.bias
        )
        self.extractor.reset_parameters(o.initialisation)
        self.objective = self.new_objective(dataset, hardness=o.hardness, detach_weights=o.detach_weights)

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Softmax with hard negatives (IHN) and the routing regulariser (RR), weighted by lambda."""
        interests = self.interests(interaction)
        ranking = self.ranking_loss(interests, interaction[self.POS_ITEM_ID])
        routing = self.options.routing_loss(interests, interaction[self.ITEM_SEQ_LEN], self.max_seq_length)
        return {"ranking": ranking} | routing

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """The published regulariser is a sum over rows."""
        return self.options.summed_terms()
