"""suite.json: what a suite was asked for and where each of its runs lies, for whoever reads its folder later."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.plan import PlannedRun
from recbole_diffusion.suites.suite import Suite
from recbole_diffusion.training.checkpoint import write_text_atomically

SUITE_FILE = "suite.json"


def write_plan(folder: Path, suite: Suite, runs: Sequence[PlannedRun], command: str = "") -> None:
    """Write suite.json into a suite's folder.

    Args:
        folder: of the suite.
        suite: the suite.
        runs: the planned ones.
        command: that makes them, for the report's readers.
    """
    facts = {
        "suite": suite.name,
        "about": suite.about,
        "reference": suite.reference,
        "command": command,
        "runs": [{**_facts(run), **_paths(run, folder)} for run in runs],
    }
    write_text_atomically(folder / SUITE_FILE, json.dumps(facts, indent=2, ensure_ascii=False, default=str) + "\n")


def read_reference(folder: Path | str) -> tuple[str, ...]:
    """The labels that a suite's others are tested against.

    Raises:
        UserError: there is no suite.json.
    """
    return tuple(_read(Path(folder)).get("reference") or ())


def read_command(folder: Path | str) -> str:
    """The command that the runs of a suite's folder were made with; empty where it is not known."""
    return str(_read(Path(folder)).get("command") or "") if (Path(folder) / SUITE_FILE).is_file() else ""


def _read(folder: Path) -> dict[str, Any]:
    file = folder / SUITE_FILE
    if not file.is_file():
        raise UserError(
            f"{folder} is no suite's folder: it has no {SUITE_FILE}; --suite must be a folder that recbole-diff "
            "benchmark made for a suite, such as benchmark_runs/quick"
        )
    facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return facts


def _facts(run: PlannedRun) -> dict[str, Any]:
    """What a run is, without where its keys were given."""
    return {key: value for key, value in dataclasses.asdict(run).items() if key != "origins"}


def _paths(run: PlannedRun, folder: Path) -> dict[str, str | None]:
    """A run's folders, from the suite's."""
    return {
        name: None if path is None else path.relative_to(folder).as_posix()
        for name, path in (("place", run.place), ("goes_on_from", run.goes_on_from))
    }


def read_plan(folder: Path | str) -> list[PlannedRun]:
    """The runs of a suite's folder, finished or not, in the suite's order.

    Raises:
        UserError: there is no suite.json, or it is none of a suite.
    """
    folder = Path(folder)
    file = folder / SUITE_FILE
    try:
        entries = _read(folder)["runs"]
        return [
            PlannedRun(
                **{**entry, **{name: folder / entry[name] for name in ("place", "goes_on_from") if entry.get(name)}}
            )
            for entry in entries
        ]
    except UserError:
        raise
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} is not what a suite writes ({error}); run the suite again") from error
