"""What ComiRec-SA, ComiRec-DR and REMI share: K interests of a history, of which the target picks one in training.

    V = extractor(e_1 .. e_n),   u = V[argmax_k V_k . e_a],   L a softmax of u . e_a

An item scores by the best of the K interests: max_k V_k . e_i. The models differ in the extractor and in what they add
to the loss.

Shapes: B rows, L history, K interests, D embedding, V items.
"""

from __future__ import annotations

from typing import Any

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.interests.multi_interest import Interests, select_interest
from recbole_diffusion.losses.objective import RankingObjective
from recbole_diffusion.models.base import VectorRecommender


class MultiInterestRecommender(VectorRecommender):
    """Base of the models whose user vectors are what an `extractor` takes from a history."""

    extractor: Any
    objective: RankingObjective

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.item_embedding = self.new_item_table(self.options.item_init_std)

    def interests(self, interaction: Interaction) -> Interests:
        """Interests of a batch of histories, with their weights over the items."""
        return self.extractor(self.item_embedding(interaction[self.ITEM_SEQ]), interaction[self.ITEM_SEQ_LEN])

    def ranking_loss(self, interests: Interests, targets: Tensor) -> Tensor:
        """Softmax of the interest that each row's target (B,) picks, a scalar."""
        _, user = select_interest(interests.vectors, self.item_embedding(targets))
        return self.objective(user, self.item_embedding.weight, targets).mean()

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Softmax of the interest that the target picks."""
        return {"ranking": self.ranking_loss(self.interests(interaction), interaction[self.POS_ITEM_ID])}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """All interests (B, K, D)."""
        return self.interests(interaction).vectors
