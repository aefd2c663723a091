"""A ranking loss with where its negatives come from, as a model's keys name them.

    loss: full      cross-entropy over all items
    loss: chunked   the same, block by block: no logits (B, V) in memory
    loss: sampled   cross-entropy over the target and what `negative_sampler` draws
    loss: gbce      generalised binary cross-entropy over the same
    loss: auto      full for catalogues of up to FULL_ITEMS items, chunked for larger ones

`full_softmax` and `sampled_softmax` are other names of full and sampled.

Shapes: B rows, D embedding, V items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from recbole_diffusion.losses.linear_cross_entropy import chunked_softmax
from recbole_diffusion.losses.negatives import Negatives, NegativeSampler, build_negative_sampler
from recbole_diffusion.losses.ranking import full_softmax, gbce, gbce_power, sampled_softmax

Loss = Literal["auto", "full", "chunked", "sampled", "gbce", "full_softmax", "sampled_softmax"]
ChosenLoss = Literal["full", "chunked", "sampled", "gbce"]

FULL_ITEMS = 100_000
"""Items up to which `auto` holds the logits."""
SAMPLED: frozenset[str] = frozenset({"sampled", "gbce"})
"""Losses that read the rows of some items alone."""
TERMS: dict[ChosenLoss, str] = {
    "full": "cross_entropy",
    "chunked": "cross_entropy",
    "sampled": "sampled_softmax",
    "gbce": "gbce",
}
"""What logs call each."""
_OTHER_NAMES: dict[str, ChosenLoss] = {"full_softmax": "full", "sampled_softmax": "sampled"}


def chosen_loss(loss: str, n_items: int) -> ChosenLoss:
    """The loss that key ``loss`` stands for with V = `n_items`, padding included.

    Raises:
        ValueError: it is none.
    """
    if loss == "auto":
        return "full" if n_items - 1 <= FULL_ITEMS else "chunked"
    chosen = _OTHER_NAMES.get(loss, loss)
    if chosen not in TERMS:
        raise ValueError(f"loss '{loss}' does not exist; use one of auto, {', '.join(TERMS)}")
    return chosen


class RankingObjective(nn.Module):
    """`(user_vectors (B, D), item_vectors (V, D), targets (B,)) -> (B,)`.

    Args:
        sampler: draws negatives; None for the softmax over all items.
        loss: which of the four; None for `sampled`, or `full` where there is no sampler.
        include_padding: see `full_softmax`; of the losses over all items.
        log_q_correction, remove_hits, hardness, detach_weights: see `sampled_softmax`.
        calibration: t, see `gbce`.
        temperature: user vectors are divided by this; not of `gbce`.
        sparse: the table's look-ups give sparse gradients: see `candidate_scores`, and `joined` of `chunked_softmax`.

    Raises:
        ValueError: a loss over sampled items without sampler, or one over all items with one.
    """

    def __init__(
        self,
        sampler: NegativeSampler | None = None,
        *,
        loss: ChosenLoss | None = None,
        include_padding: bool = False,
        log_q_correction: bool = False,
        remove_hits: bool = False,
        hardness: float = 0.0,
        detach_weights: bool = False,
        calibration: float = 0.75,
        temperature: float = 1.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.loss: ChosenLoss = loss or ("full" if sampler is None else "sampled")
        if (self.loss in SAMPLED) == (sampler is None):
            raise ValueError(f"loss is {self.loss}, and {'no' if sampler is None else 'a'} sampler of negatives")
        self.sampler = sampler
        self.include_padding, self.sparse = include_padding, sparse
        self.log_q_correction, self.remove_hits = log_q_correction, remove_hits
        self.hardness, self.detach_weights = hardness, detach_weights
        self.calibration, self.temperature = calibration, temperature

    def forward(
        self, user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Losses (B,) of the rows, not averaged; `places` as for :class:`NegativeSampler`."""
        negatives = None if self.sampler is None else self.sampler(targets, item_vectors.shape[0], places)
        return self.against(user_vectors, item_vectors, targets, negatives)

    def against(
        self, user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, negatives: Negatives | None
    ) -> Tensor:
        """Losses (B,) with negatives that were drawn; None for a loss over all items."""
        if negatives is None:
            users, padding = user_vectors / self.temperature, self.include_padding
            if self.loss == "full":
                return full_softmax(users, item_vectors, targets, include_padding=padding)
            joined = self.sparse and item_vectors.is_leaf
            return chunked_softmax(users, item_vectors, targets, include_padding=padding, joined=joined)
        if self.loss == "gbce":
            return gbce(
                user_vectors,
                item_vectors,
                targets,
                negatives,
                calibration=self.calibration,
                remove_hits=self.remove_hits,
                sparse=self.sparse,
            )
        return sampled_softmax(
            user_vectors,
            item_vectors,
            targets,
            negatives,
            log_q_correction=self.log_q_correction,
            remove_hits=self.remove_hits,
            hardness=self.hardness,
            detach_weights=self.detach_weights,
            temperature=self.temperature,
            sparse=self.sparse,
        )


def build_objective(
    loss: ChosenLoss,
    negative_sampler: str,
    n_negatives: int,
    *,
    n_items: int,
    item_counts: Callable[[], Tensor],
    negatives_per_row: bool = False,
    include_padding: bool = False,
    log_q_correction: bool = False,
    remove_hits: bool = False,
    hardness: float = 0.0,
    detach_weights: bool = False,
    calibration: float = 0.75,
    temperature: float = 1.0,
    sparse: bool = False,
) -> RankingObjective:
    """The objective that keys ``loss``, ``negative_sampler``, ``n_negatives`` ... name.

    Args:
        loss: one of the four; a loss over all items reads `include_padding` and `temperature` alone.
        negative_sampler: a name of `NEGATIVE_SAMPLERS`.
        n_negatives: M.
        n_items: V.
        item_counts: gives (V,), how often each item is a training target; see `build_negative_sampler`.
        negatives_per_row: each row its own negatives.
        include_padding, log_q_correction, remove_hits, hardness, detach_weights, calibration, temperature, sparse: see
            :class:`RankingObjective`.

    Raises:
        ValueError: an unknown name, a number that no loss can have, or negatives whose rate gBCE does not know.
    """
    if hardness < 0.0:
        raise ValueError(f"hardness is {hardness}; it must be 0 or more")
    if temperature <= 0.0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    sampler = None
    if loss == "gbce":
        _check_gbce(negative_sampler, n_negatives, n_items, calibration)
    if loss in SAMPLED:
        sampler = build_negative_sampler(
            negative_sampler,
            n_negatives,
            item_counts=item_counts,
            log_q_correction=log_q_correction and loss == "sampled",
            per_row=negatives_per_row,
        )
    return RankingObjective(
        sampler,
        loss=loss,
        include_padding=include_padding,
        log_q_correction=log_q_correction,
        remove_hits=remove_hits,
        hardness=hardness,
        detach_weights=detach_weights,
        calibration=calibration,
        temperature=temperature,
        sparse=sparse,
    )


def _check_gbce(negative_sampler: str, n_negatives: int, n_items: int, calibration: float) -> None:
    """Refuse a calibration that is none, and negatives whose rate it does not know (docs/decisions/086)."""
    gbce_power(n_negatives, n_items, calibration)
    if negative_sampler == "in_batch" or (negative_sampler == "log_uniform" and calibration != 0.0):
        raise ValueError(
            f"negative_sampler is {negative_sampler}, but gBCE is calibrated for n_negatives uniform items; set "
            "negative_sampler: uniform (log_uniform goes with calibration: 0.0 alone)"
        )
