"""Runs as the lines of a table: how far each is, its figures, what it took, and where it lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from recbole_diffusion.benchmarking.printed import NOTHING
from recbole_diffusion.benchmarking.tables import ResultTable
from recbole_diffusion.reporting.result_tables import Figure, run_figure
from recbole_diffusion.reporting.suite_report import RunState

ASKED, LOG = "asked.yaml", "log.txt"


@dataclass(frozen=True)
class RunLine:
    """A run.

    Attributes:
        label, seed: which one.
        state, reason: how far it is, and why it failed.
        figures: in the columns of its table.
        epochs: trained; with the best one where it is known.
        seconds, time: that it took, to sort by and in words.
        parameters: how many are trained.
        ended, device, code: when, on what, by which code.
        links: names and addresses of its folder and files.
        asked: address of its `asked.yaml`; empty where it was not begun.
    """

    label: str
    seed: int
    state: str
    reason: str
    figures: Sequence[Figure]
    epochs: str
    seconds: str
    time: str
    parameters: str
    ended: str
    device: str
    code: str
    links: Sequence[tuple[str, str]]
    asked: str


def run_line(run: RunState, table: ResultTable, folder: Path) -> RunLine:
    """A run in a table of runs.

    Args:
        run: planned, and perhaps begun.
        table: whose columns its figures stand in.
        folder: of the page.
    """
    record = run.record
    places = [(name, run.place / file) for name, file in (("asked", ASKED), ("log", LOG))]
    links = [(name, link(path, folder)) for name, path in places if path.is_file()]
    asked = next((address for name, address in links if name == "asked"), "")
    if record is not None:
        links.insert(0, ("folder", link(record.folder, folder) + "/"))
    return RunLine(
        label=run.label,
        seed=run.seed,
        state=run.state,
        reason=run.reason,
        figures=[run_figure(record, metric, table.decimals) for metric in table.metrics],
        epochs=NOTHING if record is None else _epochs(record.epochs, record.best_epoch),
        seconds="" if record is None or record.seconds is None else repr(record.seconds),
        time=NOTHING if record is None or record.seconds is None else duration(record.seconds),
        parameters=NOTHING if record is None or record.parameters is None else f"{record.parameters:,}",
        ended=(record.ended if record else "") or NOTHING,
        device=(record.device if record else "") or NOTHING,
        code=(record.code_version if record else "") or NOTHING,
        links=links,
        asked=asked,
    )


def _epochs(epochs: int, best: int | None) -> str:
    return f"{epochs}, best {best}" if best else str(epochs)


def link(path: Path, folder: Path) -> str:
    """The address of a file as seen from a page in `folder`."""
    if path.is_relative_to(folder):
        return quote(path.relative_to(folder).as_posix())
    return quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
