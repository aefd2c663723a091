"""The keys of models that train on cross-entropy over items, and what they choose for a catalogue.

    loss             full | chunked | sampled | gbce | auto        losses/objective.py
    item_optimizer   dense | row_wise | auto                       training/row_wise_adam.py

docs/large_catalogues.md says what each costs; docs/decisions/121 and 122 why `auto` chooses as it does.

Shapes: V items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from recbole.config import Config as RecBoleConfig

from recbole_diffusion.config_options import at_least
from recbole_diffusion.losses.objective import (
    FULL_ITEMS,
    SAMPLED,
    TERMS,
    ChosenLoss,
    Loss,
    RankingObjective,
    build_objective,
    chosen_loss,
)
from recbole_diffusion.models.item_counts import sampler_item_counts
from recbole_diffusion.models.item_table import TableGradient

ItemOptimizer = Literal["auto", "dense", "row_wise"]
ROW_WISE_ITEMS = 100_000
"""Items above which `item_optimizer: auto` updates rows, where the loss is sampled."""
ROW_WISE_LEARNERS = ("adam", "adamw")


@dataclass(frozen=True)
class LossChoice:
    """What the keys come to for a catalogue.

    Attributes:
        loss: one of the four.
        gradient: what the table of items gets for one.
        why: the same for the log.
    """

    loss: ChosenLoss = "full"
    gradient: TableGradient = "dense"
    why: str = ""

    @property
    def term(self) -> str:
        """What logs call the loss."""
        return TERMS[self.loss]


@dataclass(frozen=True)
class LossOptions:
    """The keys that all of them have."""

    loss: Loss
    negative_sampler: str
    n_negatives: int
    log_q_correction: bool
    remove_hits: bool
    calibration: float
    item_optimizer: ItemOptimizer

    def __post_init__(self) -> None:
        """Refuse what no sampler can have."""
        at_least(self, 1, ("n_negatives",))

    def choose(self, config: Any, n_items: int) -> LossChoice:
        """Which loss and which gradient of the table these keys name.

        Args:
            config: the run's, of which `learner`, `weight_decay`, `num_workers` and `device` are read.
            n_items: V.

        Raises:
            ValueError: rows cannot be updated with this loss or learner.
        """
        loss = chosen_loss(self.loss, n_items)
        why = f"loss: {loss}"
        if self.loss == "auto":
            why += f" (auto, {n_items - 1:,} items; full up to {FULL_ITEMS:,}, chunked above)"
        if loss not in SAMPLED:
            if self.item_optimizer == "row_wise":
                raise ValueError(
                    f"item_optimizer is row_wise, but loss: {loss} changes every item in every step; set loss: sampled "
                    "or gbce, or item_optimizer: dense"
                )
            joined = loss == "chunked" and self.reads_rows_alone and self.ranks
            return LossChoice(loss, "joined" if joined else "dense", why)
        row_wise = self._row_wise(config, n_items)
        why += f", item_optimizer: {'row_wise' if row_wise else 'dense'}"
        if self.item_optimizer == "auto":
            why += f" (auto; row_wise above {ROW_WISE_ITEMS:,} items, with adam or adamw and without weight_decay)"
        return LossChoice(loss, "rows" if row_wise else "dense", why)

    def _row_wise(self, config: Any, n_items: int) -> bool:
        learner, decay = str(config["learner"]).lower(), config["weight_decay"]
        on_gpus = (config["num_workers"] or 1) > 1 and config["device"].type == "cuda"
        recboles_trainer = type(config) is RecBoleConfig  # of run_recbole; its optimisers take dense gradients alone
        if self.item_optimizer == "auto":
            able = not (on_gpus or recboles_trainer or decay) and learner in ROW_WISE_LEARNERS
            return n_items - 1 > ROW_WISE_ITEMS and able and self.reads_rows_alone
        if self.item_optimizer == "dense":
            return False
        if learner not in ROW_WISE_LEARNERS:
            raise ValueError(
                f"item_optimizer is row_wise, but learner is {config['learner']}; set learner: adam or adamw, or "
                "item_optimizer: dense"
            )
        if recboles_trainer:
            raise ValueError(
                "item_optimizer is row_wise, which RecBole's own trainer cannot do; run recbole-diff, or set "
                "item_optimizer: dense"
            )
        if on_gpus:
            raise ValueError(
                f"item_optimizer is row_wise and num_workers {config['num_workers']}, but GPUs (nccl) do not exchange "
                "sparse gradients; set item_optimizer: dense or num_workers: 1"
            )
        if not self.reads_rows_alone:
            raise ValueError(
                "item_optimizer is row_wise, but normalise_items: True reads the whole table in every step; set "
                "normalise_items: False or item_optimizer: dense"
            )
        return True

    @property
    def reads_rows_alone(self) -> bool:
        """Whether a sampled loss of these keys reads no more of the table than the items that it compares."""
        return True

    @property
    def ranks(self) -> bool:
        """Whether the ranking loss is part of what is minimised at all."""
        return True

    def objective(self, dataset: Any, n_items: int, choice: LossChoice, **more: Any) -> RankingObjective:
        """The ranking loss that these keys name.

        Args:
            dataset: the training part of a dataset.
            n_items: V.
            choice: what `choose` said.
            more: further arguments of `build_objective`.
        """
        counts: Callable[[], Any] = lambda: sampler_item_counts(self.negative_sampler, dataset, n_items)  # noqa: E731
        return build_objective(
            choice.loss,
            self.negative_sampler,
            self.n_negatives,
            n_items=n_items,
            item_counts=counts,
            log_q_correction=self.log_q_correction,
            remove_hits=self.remove_hits,
            calibration=self.calibration,
            sparse=choice.gradient != "dense",
            **more,
        )


@dataclass(frozen=True)
class PlaceLossOptions(LossOptions):
    """The keys of models whose paper ranks over all items, DiffuRec's and SASRec's families, and of their negatives."""

    ce_include_padding: bool
    negatives_per_row: bool

    def __post_init__(self) -> None:
        """Refuse what no sampler can have."""
        super().__post_init__()
        if self.negatives_per_row and self.negative_sampler == "in_batch":
            raise ValueError(
                "negatives_per_row is True, but the negatives of in_batch are the batch's targets, the same for every "
                "place; set negatives_per_row: False or another negative_sampler"
            )

    def objective(self, dataset: Any, n_items: int, choice: LossChoice, **more: Any) -> RankingObjective:
        """As `LossOptions.objective`, with these two keys."""
        own = {"include_padding": self.ce_include_padding, "negatives_per_row": self.negatives_per_row}
        return super().objective(dataset, n_items, choice, **own, **more)
