"""DiffuRecSys: DiffuRec with cross-attention and offset noise (Zolghadr, Winther, Jeha; ROEGEN@RecSys 2024).

As in DiffuRec the target's embedding x_0 = e_a is noised, x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) eps (Eq. 20), x_0 is
predicted at the history's last item and trained by the cross-entropy over all items (Eq. 24, 25), and inference
reverses T steps from N(0, I) (Eq. 21 to 23, Algorithm 2). Two things are new:

    V1  x_t and the step meet the history in cross-attention (Eq. 16) instead of being added to it (Eq. 15):
        denoisers/efficient_attention.py;
    V2  eps of the forward process has an offset (Eq. 17): diffusion/offset_noise.py. `offset_noise: none` is V1.

Algorithm 3 averages the predictions of several seeds: `n_eval_samples` (x_0 is averaged, which for the inner product
averages the scores).

Where paper and released code (shararezr/DiffuRecSys) differ, the default is the code's behaviour and a key selects the
other (docs/decisions/082-diffurecsys-paper-or-code.md): stack, key_softmax, cross_attention_queries,
offset_noise, hidden_act, sizes; the rest as for DiffuRec.

Shapes: B rows, L history, M packed tokens, D embedding, V items, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from recbole_diffusion.config_options import at_least
from recbole_diffusion.denoisers.efficient_attention import (
    CrossAttentionDenoiser,
    KeySoftmax,
    PaddedCondition,
    Queries,
    Stack,
)
from recbole_diffusion.diffusion.offset_noise import OffsetKind, OffsetNoise
from recbole_diffusion.interests.condition import Condition
from recbole_diffusion.models.history_diffusion import HistoryDiffusion, HistoryDiffusionOptions
from recbole_diffusion.models.packed_history import share_padding


@dataclass(frozen=True)
class DiffuRecSysOptions(HistoryDiffusionOptions):
    """DiffuRecSys's own keys; properties/model/DiffuRecSys.yaml holds the defaults and says what each means."""

    stack: Stack
    key_softmax: KeySoftmax
    cross_attention_queries: Queries
    offset_noise: OffsetKind
    offset_scale: float

    def __post_init__(self) -> None:
        """Refuse values that no network or chain can have."""
        super().__post_init__()
        at_least(self, 0, ("offset_scale",))


class DiffuRecSys(HistoryDiffusion):
    """DiffuRecSys as a RecBole `SequentialRecommender`."""

    Options = DiffuRecSysOptions

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        o: DiffuRecSysOptions = self.options
        self.noise = OffsetNoise(self.noise, o.offset_noise, o.offset_scale)
        self.denoiser = CrossAttentionDenoiser(
            o.mixing(),
            o.hidden_size,
            o.n_layers,
            o.n_heads,
            o.dropout_prob,
            o.hidden_act,
            stack=o.stack,
            key_softmax=o.key_softmax,
            queries=o.cross_attention_queries,
        )

    def condition(self, item_seq: Tensor, item_seq_len: Tensor) -> PaddedCondition:
        """Histories (B, L) embedded and packed, with the padding that all rows share if `mask_mode: query` sees it."""
        items = self.embedded(item_seq, item_seq_len, padding_tokens=False)
        if self.options.mask_mode == "key":
            return PaddedCondition(items.tokens, items.layout, None, None)
        return share_padding(
            items,
            item_seq_len,
            self.item_embedding,
            self.history_norm,
            dropout_prob=self.options.embedding_dropout_prob,
            padded_length=self.max_seq_length,
        )

    def prepared(self, condition: Condition) -> Condition:
        """Also the history's side of cross-attention and all of padding, which no step changes."""
        return self.denoiser.prepare(super().prepared(condition))
