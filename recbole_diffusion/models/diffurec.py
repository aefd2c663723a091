"""DiffuRec: a diffusion model for sequential recommendation (Li, Sun, Li; ACM TOIS 2023, arXiv 2304.00686).

The target item's embedding x_0 = e_a is noised, x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps (Eq. 2, 15), mixed into the
embedded history (Eq. 13), and a Transformer predicts x_0 from the last item's state (Eq. 12). Training minimises the
cross-entropy of x_0_hat over all items (Eq. 18, 19); inference reverses T steps from pure noise (Algorithm 1) and ranks
by inner product (Eq. 20).

Where paper and published code (WHUIR/DiffuRec) differ, the default is the code's behaviour and a key selects the other;
docs/decisions/ has a page for each:
  noise_schedule (Eq. 14 has unnamed constants), reverse_noise (Eq. 17), lambda_std (variance or deviation), mask_mode
  (the code masks padded queries, not padded keys), hidden_act (ReLU in the paper), score (Eq. 21), use_positions,
  ce_include_padding, step_sampler, rescale_steps, item_init_std.

Shapes: B rows, L history, M packed tokens, D embedding, V items, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from recbole_diffusion.denoisers.gru import GRUDenoiser
from recbole_diffusion.denoisers.transformer import TransformerDenoiser
from recbole_diffusion.models.history_diffusion import HistoryDiffusion, HistoryDiffusionOptions
from recbole_diffusion.models.loss_options import LossChoice


@dataclass(frozen=True)
class DiffuRecOptions(HistoryDiffusionOptions):
    """DiffuRec's own keys; properties/model/DiffuRec.yaml holds the defaults and says what each means."""

    approximator: Literal["transformer", "gru"]
    activation_checkpointing: Literal["auto", "always", "never"]

    def __post_init__(self) -> None:
        """Refuse what no network can do."""
        super().__post_init__()
        if self.activation_checkpointing == "always" and self.approximator == "gru":
            raise ValueError(
                "activation_checkpointing is always, but approximator gru has no blocks to compute again; set "
                "activation_checkpointing: auto or approximator: transformer"
            )

    def recompute(self, choice: LossChoice) -> bool:
        """Whether blocks are computed again in the backward pass; `auto` where the loss spares memory, too."""
        if self.activation_checkpointing == "auto":
            return choice.loss == "chunked"
        return self.activation_checkpointing == "always"


class DiffuRec(HistoryDiffusion):
    """DiffuRec as a RecBole `SequentialRecommender`."""

    Options = DiffuRecOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: DiffuRecOptions = self.options
        if o.approximator == "gru":
            self.denoiser = GRUDenoiser(o.mixing(), o.hidden_size, o.n_layers, o.dropout_prob)
        else:
            self.denoiser = TransformerDenoiser(
                o.mixing(),
                o.hidden_size,
                o.n_layers,
                o.n_heads,
                o.dropout_prob,
                o.hidden_act,
                recompute=o.recompute(self.loss_choice),
            )
