"""Keys that change while a model trains: population based training gives a trial another's weights and new keys.

`schedule.json` in a trial's run folder says from which epoch which drawn values held, also through the trials that it
took its weights from. It is what repeats such a run (`repeat.py`); of a run whose keys never change it has one entry.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_diffusion.training.checkpoint import write_text_atomically

FILE = "schedule.json"

# Keys that a model can change between two epochs: no weight depends on them in number or shape.
CHANGEABLE: tuple[str, ...] = (
    # the optimiser
    "learning_rate",
    "weight_decay",
    "clip_grad_norm",
    # regularisation
    "dropout_prob",
    "embedding_dropout_prob",
    "hidden_dropout_prob",
    "attn_dropout_prob",
    "condition_dropout",
    "mask_ratio",
    "ft_ratio",
    # losses
    "lambda_mean",
    "lambda_std",
    "offset_scale",
    "guidance_weight",
    "reconstruction_weight",
    "ranking_weight",
    "routing_weight",
    "hardness",
    "temperature",
    "calibration",
    "n_negatives",
    # inference
    "fusion_weight",
    "guidance_scale",
    "keep_ratio",
    "reverse_eta",
)


@dataclass
class Schedule:
    """From which epoch which values held, in order.

    Attributes:
        parts: (epochs done before, values) each.
    """

    parts: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Schedule:
        """The schedule in a run folder; empty where there is none."""
        path = folder / FILE
        if not path.is_file():
            return cls()
        return cls([(part["epoch"], part["values"]) for part in json.loads(path.read_text(encoding="utf-8"))])

    def begin(self, epoch: int, values: Mapping[str, Any]) -> bool:
        """`values` hold after `epoch` epochs; whether they differ from those before."""
        plain = json.loads(json.dumps(dict(values)))
        if self.parts and self.parts[-1][1] == plain:
            return False
        changed = bool(self.parts)
        self.parts = [part for part in self.parts if part[0] < epoch]
        self.parts.append((epoch, plain))
        return changed

    def plain(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [{"epoch": epoch, "values": values} for epoch, values in self.parts]

    def write(self, folder: Path) -> None:
        """Write schedule.json."""
        write_text_atomically(folder / FILE, json.dumps(self.plain(), indent=2) + "\n")


def apply_values(trainer: Any, config: Mapping[str, Any]) -> None:
    """Give a resumed trainer the learning rate and weight decay of its configuration instead of the checkpoint's.

    Everything else that may change is read when the model is built.

    Args:
        trainer: after `resume`.
        config: the configuration with the new values.
    """
    rate, decay = float(config["learning_rate"]), float(config["weight_decay"])
    scheduler = trainer.lr_scheduler
    factor = 1.0
    if scheduler is not None:  # a step decay: closed form of the epochs that are done
        factor = scheduler.gamma ** (scheduler.last_epoch // scheduler.step_size)
        scheduler.base_lrs = [rate] * len(scheduler.base_lrs)
        scheduler._last_lr = [rate * factor] * len(scheduler.base_lrs)
    for group in trainer.optimizer.param_groups:
        group["lr"] = rate * factor
        group["weight_decay"] = decay
        if "initial_lr" in group:
            group["initial_lr"] = rate
