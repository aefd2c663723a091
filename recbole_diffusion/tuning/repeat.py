"""The best run of a sweep again, from its tune_result.json alone; compared with what that file says, bit for bit.

A run whose keys changed while it trained (population based training) is trained in parts, one for each entry of its
schedule: each ends where the trial's did, and the next goes on from its checkpoint with the next keys.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.config import RunConfig
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.errors import UserError
from recbole_diffusion.session import RunResult, TrainingSession
from recbole_diffusion.training.run_folder import RunFolder, RunLog
from recbole_diffusion.tuning.schedule import Schedule, apply_values
from recbole_diffusion.tuning.sweep_folder import read_json
from recbole_diffusion.tuning.testing import weights_digest
from recbole_diffusion.tuning.trial import opened

logger = logging.getLogger(__name__)


class _PartEnds(Exception):
    """Raised after the last epoch of a part."""


@dataclass(frozen=True)
class Repeated:
    """A repeated run beside what it repeats.

    Attributes:
        result: of the run.
        same_weights, same_valid, same_test: whether it is the same bit for bit.
        versions: packages whose version differs, with both.
    """

    result: RunResult
    same_weights: bool
    same_valid: bool
    same_test: bool
    versions: dict[str, tuple[str | None, str | None]]

    @property
    def same(self) -> bool:
        """Whether everything is the same."""
        return self.same_weights and self.same_valid and self.same_test

    def text(self) -> str:
        """What to print."""
        words = {True: "the same", False: "DIFFERENT"}
        lines = [
            f"weights: {words[self.same_weights]}",
            f"validation metrics: {words[self.same_valid]}",
            f"test metrics: {words[self.same_test]}",
        ]
        lines += [f"{name}: was {was}, is {now}" for name, (was, now) in self.versions.items()]
        return "\n".join([*lines, f"folder: {self.result.folder}"])


def repeat(
    file: str | Path, *, output: str | Path = "runs", data_path: str | Path | None = None, show_progress: bool = True
) -> Repeated:
    """Train and test the best configuration of a sweep once more.

    Args:
        file: tune_result.json, or the sweep's folder.
        output: where the run's folder is made.
        data_path: folder of the datasets, where it is no longer that of the sweep.
        show_progress: progress bars and the log on standard error.

    Raises:
        UserError: the file cannot be read, or the data are others.
    """
    path = Path(file)
    facts = read_json(path / "tune_result.json" if path.is_dir() else path)
    best = _best_of(facts, path)
    values = {**best["config"], "show_progress": show_progress, "loggers": [], "log_wandb": False}
    if data_path is not None:
        values["data_path"] = str(data_path)
    folder = RunFolder.create(Path(output), f"{facts['model'].rpartition(':')[2]}-{facts['dataset']}")
    schedule = best["schedule"] or [{"epoch": 0, "values": {}}]
    ends = [part["epoch"] for part in schedule[1:]]
    for number, part in enumerate(schedule):
        config = _config(values, part["values"], str(path))
        end = ends[number] if number < len(ends) else None
        session = _train_part(config, folder, facts["data"], path, part["epoch"], end, part["values"], show_progress)
    result = session.finish()
    versions = _different(facts["versions"])
    return Repeated(
        result=result,
        same_weights=weights_digest(folder.best) == best["weights_sha256"],
        same_valid=result.valid_result == best["valid_result"],
        same_test=result.test_result == best["test_result"],
        versions=versions,
    )


def _best_of(facts: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """What a tune_result.json says of the best trial.

    Raises:
        UserError: the file is another one.
    """
    best = facts.get("best")
    parts: list[tuple[str, Any, tuple[str, ...]]] = [
        ("", facts, ("model", "dataset", "data", "versions", "best")),
        ("best", best, ("config", "schedule", "weights_sha256", "valid_result", "test_result")),
        ("best.config", best.get("config") if isinstance(best, Mapping) else None, ("model", "dataset")),
    ]
    for name, part, keys in parts:
        if not isinstance(part, Mapping):
            raise UserError(f"{path} is no tune_result.json: its {name} is {part!r}, not an object")
        for key in keys:
            if key not in part:
                raise UserError(f"{path} is no tune_result.json: it has no {f'{name}.{key}'.lstrip('.')}")
    assert isinstance(best, Mapping)
    return best


def _config(values: Mapping[str, Any], changed: Mapping[str, Any], origin: str) -> RunConfig:
    given = {key: value for key, value in {**values, **changed}.items() if key not in ("model", "dataset")}
    return RunConfig(values["model"], values["dataset"], (), Overrides(given, origin=origin))


def _train_part(
    config: RunConfig,
    folder: RunFolder,
    data: Mapping[str, Any],
    source: Path,
    begin: int,
    end: int | None,
    values: Mapping[str, Any],
    show: bool,
) -> TrainingSession:
    """Train from epoch `begin` to `end`; the last part, with no end, to the run's own, and test it."""
    if begin == 0:
        folder.write_config(config.to_plain())
    with opened(config), RunLog(folder.log, config["state"] or "INFO", terminal=show):
        session = TrainingSession(config, folder)
        if session.fingerprint != data:
            raise UserError(f"{source} is of other data than {config['data_path']}; give its own with data_path")
        if begin:
            session.trainer.resume()
            apply_values(session.trainer, config)
        schedule = Schedule.read(folder.path)
        schedule.begin(begin, values)
        schedule.write(folder.path)

        def after(epoch: int, score: float) -> None:
            if end is not None and epoch + 1 >= end:
                raise _PartEnds

        try:
            session.train(callback_fn=after)
        except _PartEnds:
            return session
        session.choose_reverse_steps()
        session.test()
        return session


def _different(stored: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    from recbole_diffusion.provenance import package_versions

    now = package_versions()
    names = sorted({*stored, *now})
    return {name: (stored.get(name), now.get(name)) for name in names if stored.get(name) != now.get(name)}
