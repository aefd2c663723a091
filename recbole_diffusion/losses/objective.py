"""A ranking loss with where its negatives come from, as a model's keys name them.

    loss: full_softmax      cross-entropy over all items, padding left out
    loss: sampled_softmax   cross-entropy over the target and what `negative_sampler` draws

Shapes: B rows, D embedding, V items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from recbole_diffusion.losses.negatives import NegativeSampler, build_negative_sampler
from recbole_diffusion.losses.ranking import full_softmax, sampled_softmax

Loss = Literal["sampled_softmax", "full_softmax"]


class RankingObjective(nn.Module):
    """`(user_vectors (B, D), item_vectors (V, D), targets (B,)) -> (B,)`.

    Args:
        sampler: draws negatives; None for the full softmax.
        log_q_correction, remove_hits, hardness, detach_weights, temperature: see `sampled_softmax`.
    """

    def __init__(
        self,
        sampler: NegativeSampler | None = None,
        *,
        log_q_correction: bool = False,
        remove_hits: bool = False,
        hardness: float = 0.0,
        detach_weights: bool = False,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.log_q_correction, self.remove_hits = log_q_correction, remove_hits
        self.hardness, self.detach_weights, self.temperature = hardness, detach_weights, temperature

    def forward(
        self, user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """Losses (B,) of the rows, not averaged; `places` as for :class:`NegativeSampler`."""
        if self.sampler is None:
            return full_softmax(user_vectors / self.temperature, item_vectors, targets, include_padding=False)
        return sampled_softmax(
            user_vectors,
            item_vectors,
            targets,
            self.sampler(targets, item_vectors.shape[0], places),
            log_q_correction=self.log_q_correction,
            remove_hits=self.remove_hits,
            hardness=self.hardness,
            detach_weights=self.detach_weights,
            temperature=self.temperature,
        )


def build_objective(
    loss: Loss,
    negative_sampler: str,
    n_negatives: int,
    *,
    item_counts: Callable[[], Tensor],
    log_q_correction: bool = False,
    remove_hits: bool = False,
    hardness: float = 0.0,
    detach_weights: bool = False,
    temperature: float = 1.0,
) -> RankingObjective:
    """The objective that keys ``loss``, ``negative_sampler``, ``n_negatives`` ... name.

    Args:
        loss: `sampled_softmax` or `full_softmax`, which reads only the temperature.
        negative_sampler: a name of `NEGATIVE_SAMPLERS`.
        n_negatives: M.
        item_counts: gives (V,), how often each item is a training target; see `build_negative_sampler`.
        log_q_correction, remove_hits, hardness, detach_weights, temperature: see `sampled_softmax`.

    Raises:
        ValueError: an unknown name, or a number that no loss can have.
    """
    if hardness < 0.0:
        raise ValueError(f"hardness is {hardness}; it must be 0 or more")
    if temperature <= 0.0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if loss == "full_softmax":
        return RankingObjective(temperature=temperature)
    if loss != "sampled_softmax":
        raise ValueError(f"loss '{loss}' does not exist; use sampled_softmax or full_softmax")
    return RankingObjective(
        build_negative_sampler(
            negative_sampler, n_negatives, item_counts=item_counts, log_q_correction=log_q_correction
        ),
        log_q_correction=log_q_correction,
        remove_hits=remove_hits,
        hardness=hardness,
        detach_weights=detach_weights,
        temperature=temperature,
    )
