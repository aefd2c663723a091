"""GRU approximator of DiffuRec ("w GRU" of its Table 3): the last state of a GRU over the mixed history.

    z_i = h_i + lambda_i * (x_t + d_t)                                                (DiffuRec, Eq. 13)
    x_0_hat = LN(Drop(GRU([z_1 .. z_n])_n))

The paper gives no more than "the representation derived at the last step"; the read-out (Drop, LN) is the
Transformer's. The GRU reads real items only, in order; a row's padding token, where the layout has one, is skipped.

Shapes: B rows, M packed tokens, D embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recbole_diffusion.denoisers.dropout import dropout
from recbole_diffusion.denoisers.transformer import NORM_EPSILON, HistoryMixing
from recbole_diffusion.diffusion.noise import NoiseSource
from recbole_diffusion.interests.condition import Condition


class GRUDenoiser(nn.Module):
    """The GRU approximator.

    Args:
        mixing: how the noised target enters the history.
        dim: D.
        layers: stacked GRU layers.
        probability: dropout before the final norm.
    """

    def __init__(self, mixing: HistoryMixing, dim: int, layers: int, probability: float) -> None:
        super().__init__()
        self.mixing = mixing
        self.dim = dim
        self.probability = probability
        self.gru = nn.GRU(dim, dim, num_layers=layers, batch_first=True)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPSILON)

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition, *, noise: NoiseSource) -> Tensor:
        """Predict x_0 (B, D) from x_t (B, D) at slots t (B,)."""
        layout = condition.layout
        mixed = self.mixing(x_t, t, condition, noise)
        tokens = layout.lengths.to(mixed.device)
        if layout.query_keep is not None:
            first_place = layout.last - tokens + 1
            skipped = (layout.query_keep[first_place, 0] == 0).long()
        else:
            skipped = torch.zeros_like(tokens)
        real = tokens - skipped
        longest = int(real.max()) if layout.row_width is None else layout.row_width
        offset = torch.arange(longest, device=mixed.device)
        first = layout.last - real + 1
        places = torch.minimum(first[:, None] + offset, layout.last[:, None])  # (B, longest), the last item repeated
        states, _ = self.gru(mixed[places])
        x = states[torch.arange(layout.rows, device=mixed.device), real - 1]
        return self.norm(dropout(x, self.probability, self.training))
