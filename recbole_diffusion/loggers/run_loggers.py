"""The loggers of one run: told after every checkpoint, never in the way of the training.

What has been logged is kept in ``loggers.json`` of the run's folder with the logs' own ids. An epoch is logged once its
checkpoint is written, so a run that was cut and resumed goes on in the same log with every epoch once; what a logger
missed because its service was away is made up for when it is back, at the latest when the run ends or is resumed.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recbole_diffusion.loggers.choice import MLFLOW, TENSORBOARD, WANDB, chosen_loggers
from recbole_diffusion.loggers.records import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    LoggedRun,
    Logger,
    summary_of,
    values_of,
)
from recbole_diffusion.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

_CLASSES = {TENSORBOARD: "TensorBoardLogger", WANDB: "WandbLogger", MLFLOW: "MlflowLogger"}
_PATIENCE = 600.0  # seconds after a failure in which a logger is left alone
_EPOCH, _NAME = "epoch", "run_name"


def logger_class(name: str) -> Any:
    """The class of a logger; its module imports what only it needs."""
    return getattr(importlib.import_module(f"recbole_diffusion.loggers.{name}"), _CLASSES[name])


class RunLoggers:
    """What a run tells its loggers.

    Args:
        config: the run's `RunConfig`.
        folder: its folder; one that is only read along (a further worker's) has no loggers.
    """

    def __init__(self, config: Any, folder: RunFolder) -> None:
        names = chosen_loggers(config) if folder.writes else ()
        kept = folder.read_loggers() if names else {}
        asked = config["run_name"]
        if asked is not None and kept.get(_NAME, asked) != asked:
            kept = {}  # the folder is a copy of another run's, which goes on elsewhere
        self._folder = folder
        self._kept: dict[str, Any] = {_NAME: asked or kept.get(_NAME) or folder.path.name}
        self._guarded = [
            _Guarded(name, dict(kept.get(name, {})), lambda: self._run(config), self._keep) for name in names
        ]

    def _run(self, config: Any) -> LoggedRun:
        return LoggedRun(
            name=self._kept[_NAME],
            folder=self._folder.path,
            config=config.to_plain(),
            hyper_parameters=config.hyper_parameters(),
            project=config["wandb_project"],
            experiment=config["mlflow_experiment"],
            tracking_uri=config["mlflow_tracking_uri"],
        )

    def _keep(self) -> None:
        self._folder.write_loggers({**self._kept, **{one.name: one.known for one in self._guarded}})

    def epochs(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the epochs that were not logged yet; with the first call the logs begin.

        Args:
            history: rows of metrics.csv, all of them.
        """
        for one in self._guarded:
            one.epochs(history)

    def finish(
        self,
        history: Sequence[Mapping[str, Any]],
        best_epoch: int | None,
        valid_result: Mapping[str, float],
        test_result: Mapping[str, float],
    ) -> None:
        """Log what the run ends with, and end the logs.

        Args:
            history: rows of metrics.csv.
            best_epoch: from 1.
            valid_result: metrics of the best validation.
            test_result: metrics of the test rows.
        """
        for one in self._guarded:
            one.finish(history, summary_of(best_epoch, valid_result, test_result), best_epoch or 0)

    def end(self, error: BaseException | None = None) -> None:
        """End the logs before the run has its result, or without one.

        Args:
            error: what ended it; None, or a SystemExit (a scheduler's), is no failure.
        """
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        for one in self._guarded:
            one.end(FINISHED if error is None or isinstance(error, SystemExit) else status)


class _Guarded:
    """One logger, whose exceptions become one warning."""

    def __init__(
        self, name: str, known: dict[str, Any], run: Callable[[], LoggedRun], keep: Callable[[], None]
    ) -> None:
        self.name, self.known = name, known
        self._run, self._keep = run, keep
        self._logger: Logger | None = None
        self._failed: float | None = None  # when

    def epochs(self, history: Sequence[Mapping[str, Any]]) -> None:
        if self._failed is None or time.monotonic() - self._failed > _PATIENCE:
            self._try(lambda: self._deliver(history))

    def finish(self, history: Sequence[Mapping[str, Any]], summary: Mapping[str, float], epoch: int) -> None:
        def write() -> None:
            self._deliver(history)
            self._opened().summary(summary, epoch)

        self._try(write)
        self.end(FINISHED)

    def end(self, status: str) -> None:
        if self._logger is not None:
            log, self._logger = self._logger, None
            self._try(lambda: log.close(status))

    def _deliver(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Log the rows that are new, and remember it."""
        log = self._opened()
        new = [row for row in history if row["epoch"] > self.known.get(_EPOCH, 0)]
        try:
            for row in new:
                log.epoch(row["epoch"], values_of(row))
                self.known[_EPOCH] = row["epoch"]
            log.flush()
        finally:
            if new:
                self._keep()

    def _opened(self) -> Logger:
        """The logger, open."""
        if self._logger is None:
            opened: Logger = logger_class(self.name)()
            try:
                opened.open(self._run(), self.known)
            finally:
                self._keep()
            self._logger = opened
        return self._logger

    def _try(self, action: Callable[[], None]) -> None:
        """Do it; the first failure in a row is a warning, and no failure ends the run."""
        try:
            action()
            if self._failed is not None:
                logger.info("%s logs again", self.name)
            self._failed = None
        except Exception as error:
            if self._failed is None:
                reason = (str(error).strip().splitlines() or [""])[0]
                logger.warning(
                    "%s does not log (%s: %s); the run goes on, and metrics.csv has everything",
                    self.name,
                    type(error).__name__,
                    reason,
                )
            self._failed = time.monotonic()
