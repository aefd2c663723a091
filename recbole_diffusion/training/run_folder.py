"""The folder that a run leaves: what was run, how it went, the best and the last checkpoint, and the result.

config.yaml             every key as the run used it; give it back with --config_files to repeat the run
run.log                 what was logged
metrics.csv             one line an epoch: training loss and its terms, learning rate, seconds, validation metrics
best/model.safetensors  weights of the best validation; best/model.json says the same facts for people
best/items.parquet      the items of the data, for recommending without them
best/index/             what `recbole-diff index` builds of the best checkpoint's item vectors
last/checkpoint.state   weights, optimiser, scheduler and generators at the end of the last epoch, to resume from
per_user/               valid.parquet and test.parquet: results row by row, with save_per_user
reverse_steps.json      with reverse_steps: auto: validation metric by number of steps, as far as it is measured
result.json             metrics, data fingerprint, versions, wall time, device
loggers.json            with loggers: where each one logs, and the last epoch that it has
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.errors import UserError
from recbole_diffusion.training.checkpoint import BEST_FILE, LAST_FILE, write_text_atomically

_LOCK_PATIENCE = 5.0  # seconds in which a process that was told to end does
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def took_lock(descriptor: int, patience: float) -> bool:
    """Lock an open file or folder for this process; True, too, on a file system without locks.

    Args:
        descriptor: of what is locked until it is closed (POSIX alone).
        patience: seconds after which another process has it for good.
    """
    import fcntl

    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        except OSError:
            return True


class PlainFormatter(logging.Formatter):
    """Log lines without terminal colour codes, which RecBole's messages carry."""

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        return _COLOUR.sub("", super().format(record))


class RunFolder:
    """Paths inside a run's folder, and its text files.

    Args:
        path: the folder.
        writes: False for a process that reads along while another one writes: nothing it is told to write is written.
    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes

    @classmethod
    def create(cls, output: Path, name: str) -> RunFolder:
        """Make a new folder ``<name>-<date>-<time>`` under `output`; a number follows where that exists.

        Raises:
            UserError: `output` cannot be written to.
        """
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for number in range(1, 1000):
            path = output / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if output.exists() and not output.is_dir():
                    raise UserError(f"output {output} is a file; give a folder with --output") from None
                continue
            except OSError as error:
                raise UserError(
                    f"cannot create a run folder in {output} ({error.strerror}); change --output"
                ) from error
            return cls(path)
        raise UserError(f"{output} holds 999 runs named {stem}; change --output")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that an earlier run made.

        Raises:
            UserError: there is no such folder or it is no run's.
        """
        if not path.is_dir():
            raise UserError(f"no run folder at {path}")
        folder = cls(path)
        if not folder.config.is_file():
            raise UserError(f"{path} is not a run folder: it has no config.yaml")
        return folder

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder for one training; a second process would write older epochs over newer ones.

        Raises:
            UserError: another process trains in it.
        """
        if os.name != "posix":  # no such lock there
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            if not took_lock(descriptor, _LOCK_PATIENCE):
                raise UserError(f"another process trains in {self.path}; wait until it ends, or stop it, then resume")
            yield
        finally:
            os.close(descriptor)

    def remove_unfinished(self) -> None:
        """Remove temporary files that a killed process left."""
        for file in self.path.rglob(".*.tmp") if self.writes else ():
            file.unlink(missing_ok=True)

    def remove_result(self) -> None:
        """Remove the result of a run that trains on, and the rows of its test: they will be of earlier weights.

        `per_user/valid.parquet` stays: it is of the best epoch, which may stay the best.
        """
        for file in (self.result, self.per_user("test")) if self.writes else ():
            file.unlink(missing_ok=True)  # the result first: without it the run is not finished, whatever else is there

    def discard_unless_trained(self) -> None:
        """Remove the folder of a run that ended before it had anything to keep; the output folder too if empty."""
        if not self.writes or self.last.exists() or self.best.exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / "run.log"

    @property
    def metrics(self) -> Path:
        """The table of epochs."""
        return self.path / "metrics.csv"

    @property
    def best(self) -> Path:
        """The best checkpoint."""
        return self.path / "best" / BEST_FILE

    @property
    def last(self) -> Path:
        """The checkpoint to resume from."""
        return self.path / "last" / LAST_FILE

    def per_user(self, split: str) -> Path:
        """Results of the rows of valid or test."""
        return self.path / "per_user" / f"{split}.parquet"

    @property
    def reverse_steps(self) -> Path:
        """What the choice of reverse steps has measured."""
        return self.path / "reverse_steps.json"

    @property
    def result(self) -> Path:
        """The result."""
        return self.path / "result.json"

    @property
    def loggers(self) -> Path:
        """What the loggers keep."""
        return self.path / "loggers.json"

    def read_loggers(self) -> dict[str, Any]:
        """What loggers.json holds; nothing without one, or where it cannot be read."""
        try:
            kept = json.loads(self.loggers.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def write_loggers(self, facts: Mapping[str, Any]) -> None:
        """Write loggers.json."""
        if self.writes:
            write_text_atomically(self.loggers, json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def read_config(self) -> dict[str, Any]:
        """What config.yaml holds."""
        values: dict[str, Any] = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        return values

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        if not self.writes:
            return
        text = yaml.safe_dump(dict(values), sort_keys=True, allow_unicode=True, default_flow_style=None)
        write_text_atomically(self.config, "# Every key as this run used it.\n" + text)

    def write_metrics(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Write metrics.csv, one row an epoch."""
        if not self.writes:
            return
        columns = list(dict.fromkeys(column for row in epochs for column in row))
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(epochs)
        write_text_atomically(self.metrics, stream.getvalue())

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write result.json."""
        if not self.writes:
            return
        write_text_atomically(self.result, json.dumps(result, indent=2, ensure_ascii=False) + "\n")


class RunLog:
    """Sends log messages to the run's file and to standard error while a run lasts."""

    def __init__(self, file: Path, level: str, *, terminal: bool = True) -> None:
        self.file = file
        self.level = level
        self.terminal = terminal
        self.handlers: list[logging.Handler] = []
        self.previous = logging.WARNING

    def __enter__(self) -> RunLog:
        root = logging.getLogger()
        self.previous = root.level
        level = logging.getLevelName(self.level.upper())
        root.setLevel(level if isinstance(level, int) else logging.INFO)
        self.handlers = [logging.FileHandler(self.file, encoding="utf-8")]
        self.handlers[0].setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        if self.terminal:
            self.handlers.append(logging.StreamHandler(sys.stderr))
            self.handlers[1].setFormatter(PlainFormatter("%(message)s"))
        for handler in self.handlers:
            root.addHandler(handler)
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        for handler in self.handlers:
            root.removeHandler(handler)
            handler.close()
        root.setLevel(self.previous)
