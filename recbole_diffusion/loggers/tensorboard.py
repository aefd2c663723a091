"""TensorBoard: event files in the run's folder, with the configuration as text and the hyper-parameters beside the
result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from recbole_diffusion.loggers.records import LoggedRun


class TensorBoardLogger:
    """Event files in ``tensorboard/`` of the run's folder; a resumed run adds a file."""

    def open(self, run: LoggedRun, known: dict[str, Any]) -> None:
        """Begin an event file; the configuration is written once."""
        from torch.utils.tensorboard import SummaryWriter

        self.run = run
        self.writer: Any = SummaryWriter(str(run.folder / "tensorboard"))
        if not known.get("config"):
            text = yaml.safe_dump(dict(run.config), sort_keys=True, allow_unicode=True, default_flow_style=None)
            self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()))
        known["config"] = True

    def epoch(self, number: int, values: Mapping[str, float]) -> None:
        """A scalar for each value."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, number)

    def flush(self) -> None:
        """Write what waits."""
        self.writer.flush()

    def summary(self, values: Mapping[str, float], epoch: int) -> None:
        """Scalars at the best epoch, and a row of the hyper-parameters' table."""
        from torch.utils.tensorboard.summary import hparams

        plain = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value)
            for key, value in self.run.hyper_parameters.items()
        }
        for summary in hparams(plain, dict(values)):  # SummaryWriter.add_hparams would begin a run of its own
            self.writer.file_writer.add_summary(summary)
        self.epoch(epoch, values)
        self.flush()

    def close(self, status: str) -> None:
        """Close the file."""
        self.writer.close()
