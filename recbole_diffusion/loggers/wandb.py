"""Weights & Biases: a run of the project `wandb_project`, as RecBole's `log_wandb` makes one.

Its files lie in ``wandb/`` of the run's folder unless WANDB_DIR says otherwise. Every variable of wandb's counts:
WANDB_MODE=offline logs without a server, WANDB_ENTITY, WANDB_RUN_GROUP and WANDB_TAGS say whose run it is and what it
belongs to. A run that is active in the process already is used, and left open.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from recbole_diffusion.loggers.choice import WANDB, import_logger
from recbole_diffusion.loggers.records import FAILED, INTERRUPTED, LoggedRun

logger = logging.getLogger(__name__)

_EXIT_CODES = {FAILED: 1, INTERRUPTED: 255}
_SECONDS_TO_FINISH = 120  # that the end of a run waits for a server which does not answer; the files stay


class WandbLogger:
    """A run of wandb's; a resumed run goes on with the same one."""

    def open(self, run: LoggedRun, known: dict[str, Any]) -> None:
        """Begin a run, go on with the one that is `known`, or use the active one."""
        wandb = import_logger(WANDB, "loggers")
        logging.getLogger("wandb").propagate = False  # what it says of itself goes to its own files
        self.own = wandb.run is None
        if self.own:
            settings = {"silent": True, "console": "off", "finish_timeout": _SECONDS_TO_FINISH}
            fields = getattr(wandb.Settings, "model_fields", settings)
            self.run = wandb.init(
                project=known.get("project") or run.project,
                entity=known.get("entity"),
                id=known.get("id"),
                name=run.name,
                config=dict(run.config),
                dir=os.environ.get("WANDB_DIR") or str(run.folder),
                resume="allow" if known.get("id") else None,
                allow_val_change=True,
                settings=wandb.Settings(**{key: value for key, value in settings.items() if key in fields}),
            )
        else:
            self.run = wandb.run
            self.run.config.update(dict(run.config), allow_val_change=True)
        known.update(id=self.run.id, project=self.run.project, entity=self.run.entity or None)
        for split in ("train", "valid"):
            self.run.define_metric(f"{split}/*", step_metric="epoch")
        logger.info("wandb run %s%s", self.run.id, f", {self.run.url}" if self.run.url else f" in {self.run.dir}")

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """One step of the history, drawn over `epoch`."""
        self.run.log({"epoch": number, **values})

    def flush(self) -> None:
        """Nothing: wandb's own process writes."""

    def summary(self, values: Mapping[str, float], epoch: int) -> None:
        """The run's summary."""
        self.run.summary.update(dict(values))

    def close(self, status: str) -> None:
        """End the run, unless it was active before."""
        if self.own:
            self.run.finish(exit_code=_EXIT_CODES.get(status, 0))
