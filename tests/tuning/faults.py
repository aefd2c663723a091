"""A model that fails in the ways that a sweep must survive; it trains in processes of Ray's."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import torch
from recbole.model.sequential_recommender.sasrec import SASRec


class Faulty(SASRec):
    """SASRec that does what the key `fault` says in its third epoch, the first time or always."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.fault = config["fault"]
        self.marker = Path(str(config["marker"])) / str(self.fault)
        self.delay = float(config["delay"] or 0)
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        self.batches += 1
        time.sleep(self.delay)
        loss = super().calculate_loss(interaction)
        if int(self.batches) < 6:
            return loss
        if self.fault == "nan":
            return loss * float("nan")
        if self.fault == "raise":
            raise ArithmeticError("made to fail")
        if self.fault in ("memory", "kill") and not self.marker.exists():
            self.marker.touch()
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_AS, (2**36, resource.RLIM_INFINITY))
            torch.zeros(2**36)
        return loss
