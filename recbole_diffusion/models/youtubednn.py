"""YouTube DNN: the candidate generator of Covington, Adams, Sargin (RecSys 2016), on histories alone.

The mean of the history's embeddings, a tower, a sampled softmax:

    u = W (sum_j e_j / n) + b,   L = -log( exp(u . e_a) / sum_i exp(u . e_i) )

the sum over sampled items. The paper's tower has ReLU layers and reads more fields than the history; the baseline of
the multi-interest papers ("Y-DNN" in DMI) is one linear layer, the default here; `hidden_layers` are put before it.

Where the codes differ (THUDM/ComiRec in TensorFlow, its port in Tokkiu/REMI): `bias`, the loss (docs/decisions/070),
and `pad_leak`: the port divides the sum over the padded history, padding's embedding included, by n, so that short
histories drift towards the padding vector. That is a defect and off; on, it is computed from MAX_ITEM_LIST_LENGTH, not
from the batch.

Shapes: B rows, L history, D embedding, V items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_diffusion.interests.multi_interest import initialise, real_items
from recbole_diffusion.linear import Linear
from recbole_diffusion.models.base import VectorRecommender
from recbole_diffusion.models.ranking_options import RankingOptions


@dataclass(frozen=True)
class YouTubeDNNOptions(RankingOptions):
    """YouTube DNN's own keys; properties/model/YouTubeDNN.yaml holds the defaults and says what each means."""

    hidden_layers: list[int]
    bias: bool
    pad_leak: bool
    initialisation: Literal["kaiming", "glorot"]

    def __post_init__(self) -> None:
        """Refuse values that no network can have."""
        super().__post_init__()
        if any(width < 1 for width in self.hidden_layers):
            raise ValueError(f"hidden_layers is {self.hidden_layers}; every layer must have 1 unit or more")


def tower(sizes: Sequence[int], *, bias: bool, initialisation: str) -> nn.Sequential:
    """Linear layers from sizes[0] to sizes[-1] with ReLU between them."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        layer = Linear(wide, narrow, bias=bias)
        initialise(layer.weight, initialisation)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class YouTubeDNN(VectorRecommender):
    """YouTube DNN as a RecBole `SequentialRecommender`."""

    Options = YouTubeDNNOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: YouTubeDNNOptions = self.options
        self.item_embedding = self.new_item_table(o.item_init_std)
        sizes = (o.hidden_size, *o.hidden_layers, o.hidden_size)
        self.tower = tower(sizes, bias=o.bias, initialisation=o.initialisation)
        self.objective = self.new_objective(dataset)

    def mean_item(self, interaction: Interaction) -> Tensor:
        """The mean of each history's embeddings, (B, D)."""
        lengths = interaction[self.ITEM_SEQ_LEN]
        items = self.item_embedding(interaction[self.ITEM_SEQ])
        padding = ~real_items(lengths, items.shape[1])[:, :, None]
        total = items.masked_fill(padding, 0.0).sum(1)
        count = lengths[:, None].to(items.dtype)
        if self.options.pad_leak:
            padding_vector = self.item_embedding(lengths.new_zeros(()))
            total = total + (self.max_seq_length - count) * padding_vector
        return total / count

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Softmax over sampled items."""
        targets = interaction[self.POS_ITEM_ID]
        user = self.tower(self.mean_item(interaction))
        return {"ranking": self.objective(user, self.item_embedding.weight, targets).mean()}

    def user_vectors(self, interaction: Interaction) -> Tensor:
        """One vector a row, (B, 1, D)."""
        return self.tower(self.mean_item(interaction))[:, None]
