"""The folder of a sweep: Ray Tune's experiment, and beside it what the sweep is and what came out.

sweep.json                 what is searched, on which data, with which options: what a resumed sweep must agree with
trial_*/                   Ray's record of each trial (params.json, result.json, progress.csv) with checkpoint_*/, each
                           a run folder: config.yaml, run.log, metrics.csv, best/, last/
trials.csv, trials.parquet the ranked table
best.yaml                  the best configuration, for --config_files
best_run/                  the best trial's run folder with its test in result.json
tune_result.json           everything needed to repeat the best run
plots/                     metric against each key, learning curves
tuner.pkl, experiment_state-*, ...  Ray's own state, from which a sweep is resumed
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.training.checkpoint import write_text_atomically

SWEEP_FILE, RESULT_FILE, BEST_FILE, TUNER_FILE = "sweep.json", "tune_result.json", "best.yaml", "tuner.pkl"
FORMAT = 1
RESERVE = 2**20  # bytes


class SweepFolder:
    """Paths of a sweep, and its own files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, storage: Path, name: str) -> SweepFolder:
        """A new folder ``<name>-<date>-<time>`` in `storage`.

        Raises:
            UserError: `storage` cannot be written to.
        """
        stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        for number in range(1, 1000):
            path = storage / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if storage.exists() and not storage.is_dir():
                    raise UserError(f"storage_path {storage} is a file; give a folder") from None
                continue
            except OSError as error:
                raise UserError(
                    f"cannot create a sweep in {storage} ({error.strerror}); change storage_path"
                ) from error
            return cls(path)
        raise UserError(f"{storage} holds 999 sweeps named {stem}; change storage_path")

    @classmethod
    def find(cls, resume: Path | None, storage: Path) -> SweepFolder:
        """The sweep to resume.

        Args:
            resume: a sweep's folder, or one that holds some, of which the newest is meant; None for `storage`.
            storage: where sweeps are kept.

        Raises:
            UserError: there is none.
        """
        place = storage if resume is None else resume
        if (place / SWEEP_FILE).is_file():
            return cls(place)
        found = sorted(place.glob(f"*/{SWEEP_FILE}"), key=lambda file: (file.stat().st_mtime_ns, file.parent.name))
        if not found:
            raise UserError(
                f"no sweep to resume in {place}; give the sweep's folder: --resume=FOLDER (it has a {SWEEP_FILE})"
            )
        return cls(found[-1].parent)

    @property
    def reserve(self) -> Path:
        """A file that only takes room, so that Ray can write its state down when trials have filled the disk."""
        return self.path / ".reserve"

    def take_reserve(self) -> None:
        """Write the reserve.

        Raises:
            UserError: there is no room for it.
        """
        try:
            self.reserve.write_bytes(b"0" * RESERVE)
        except OSError as error:
            self.release_reserve()
            raise UserError(
                f"cannot write to {self.path} ({error.strerror}); make room and go on with --resume"
            ) from error

    def release_reserve(self) -> None:
        """Give the room back."""
        self.reserve.unlink(missing_ok=True)

    @property
    def full(self) -> bool:
        """Whether less room than the reserve is left on the disk."""
        return shutil.disk_usage(self.path).free < RESERVE

    @property
    def result(self) -> Path:
        """tune_result.json."""
        return self.path / RESULT_FILE

    @property
    def best(self) -> Path:
        """best.yaml."""
        return self.path / BEST_FILE

    @property
    def best_run(self) -> Path:
        """The run folder of the best trial."""
        return self.path / "best_run"

    @property
    def plots(self) -> Path:
        """Folder of the plots."""
        return self.path / "plots"

    def table(self, suffix: str) -> Path:
        """The ranked table as csv or parquet."""
        return self.path / f"trials.{suffix}"

    @property
    def started(self) -> bool:
        """Whether Ray Tune has recorded anything that a resumed sweep could go on with."""
        return (self.path / TUNER_FILE).is_file() and any(self.path.glob("experiment_state-*.json"))

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write sweep.json."""
        write_json(self.path / SWEEP_FILE, {"format": FORMAT, **facts})

    def facts(self) -> dict[str, Any]:
        """What sweep.json holds.

        Raises:
            UserError: it cannot be read, or is of another version.
        """
        facts = read_json(self.path / SWEEP_FILE)
        if facts.get("format") != FORMAT:
            raise UserError(
                f"{self.path / SWEEP_FILE} has format {facts.get('format')}, this version reads {FORMAT}; "
                "start a new sweep"
            )
        return facts


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: it is absent or none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content
