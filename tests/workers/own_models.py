"""A user's own models for workers: one that dies when it is told to, one that sums over rows, one with NaN."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_diffusion.models.diffurec import DiffuRec
from recbole_diffusion.training.worker_group import WorkerGroup

FOLDER = "RECBOLE_DIFFUSION_TEST_DEATHS"
"""Environment variable: a folder; `order` in it names the worker and its batch, from the start of the process."""


class Mortal(DiffuRec):
    """DiffuRec whose process is killed in mid-epoch when there is an order, each time that it gets there."""

    batches = 0

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """As DiffuRec's."""
        order = Path(os.environ[FOLDER]) / "order"
        if self.training:
            self.batches += 1
            if order.is_file():
                told = json.loads(order.read_text())
                if told["rank"] == WorkerGroup.joined().rank and told["batch"] == self.batches:
                    if told["once"]:
                        order.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().losses(interaction)


class Summed(DiffuRec):
    """A loss that grows with the batch."""

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """DiffuRec's, summed over rows."""
        return {name: term * len(interaction) for name, term in super().losses(interaction).items()}


class Declared(Summed):
    """The same, and says so."""

    def averaged_over(self, interaction: Interaction) -> dict[str, int | None]:
        """A sum over rows."""
        return {"cross_entropy": None}


class Broken(DiffuRec):
    """A bug."""

    def losses(self, interaction: Interaction) -> dict[str, Tensor]:
        """Divides by zero in training."""
        if self.training:
            raise ZeroDivisionError("a bug of mine")
        return super().losses(interaction)
