"""What extracts a diffusion's guidance from a history, by name (DimeRec, Eq. 15 to 17 and Table 3).

    sa      ComiRec-SA's self-attention, K vectors               (Eq. 16, 17; the paper's own)
    dr      ComiRec-DR's dynamic routing, K vectors
    rule    the K latest items                                    (Eq. 15)
    sasrec  a causal Transformer's state at the last item, one vector
    mlp     a perceptron of the history's mean, one vector

Shapes: B rows, L history, K interests, D embedding.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from recbole_diffusion.interests.history_encoder import HistoryEncoder, LastStateInterest, MeanMLPInterest
from recbole_diffusion.interests.multi_interest import SelfAttentiveInterests
from recbole_diffusion.interests.routing import DynamicRouting, RoutingSoftmax
from recbole_diffusion.interests.rules import LatestItems

Guidance = Literal["sa", "dr", "rule", "sasrec", "mlp"]
Initialisation = Literal["kaiming", "glorot", "kaiming_per_item", "normal"]


def guidance_count(guidance: Guidance, n_interests: int) -> int:
    """How many vectors an extractor gives a history: K, or 1."""
    return 1 if guidance in ("sasrec", "mlp") else n_interests


def build_guidance_extractor(
    guidance: Guidance,
    dim: int,
    n_interests: int,
    max_length: int,
    *,
    positions: bool = True,
    bias: bool = False,
    routing_softmax: RoutingSoftmax = "interest",
    routing_iterations: int = 3,
    initialisation: Initialisation = "kaiming",
    n_layers: int = 2,
    n_heads: int = 1,
    dropout: float = 0.0,
) -> nn.Module:
    """The extractor called ``guidance``: `(items (B, L, D), lengths (B,)) -> Interests`.

    Args:
        guidance: its name.
        dim: D.
        n_interests: K, for sa, dr and rule.
        max_length: longest history.
        positions, bias: sa alone; see `SelfAttentiveInterests`.
        routing_softmax, routing_iterations: dr alone; see `DynamicRouting`.
        initialisation: of sa (kaiming, glorot) and dr (kaiming, kaiming_per_item, normal).
        n_layers, n_heads, dropout: sasrec alone; see `HistoryEncoder`.

    Raises:
        ValueError: an unknown name, or one of its numbers is not possible.
    """
    if guidance == "sa":
        attention = SelfAttentiveInterests(dim, n_interests, max_length, positions=positions, bias=bias)
        attention.reset_parameters(initialisation)
        return attention
    if guidance == "dr":
        routing = DynamicRouting(dim, n_interests, max_length, routing_softmax, routing_iterations)
        routing.reset_parameters(initialisation)
        return routing
    if guidance == "rule":
        return LatestItems(n_interests)
    if guidance == "sasrec":
        return LastStateInterest(HistoryEncoder(dim, max_length, n_layers, n_heads, dropout, None))
    if guidance == "mlp":
        return MeanMLPInterest(dim)
    raise ValueError(f"guidance '{guidance}' does not exist; use one of {', '.join(get_args(Guidance))}")
