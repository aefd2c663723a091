"""What came out of a sweep: the trials in order of their best validation score, as table, CSV and parquet."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recbole_diffusion.training.checkpoint import write_text_atomically
from recbole_diffusion.tuning.reasons import short_reason
from recbole_diffusion.tuning.sweep_folder import SweepFolder
from recbole_diffusion.tuning.trial import (
    BEST_EPOCH,
    BEST_SCORE,
    FINISHED,
    NO_BETTER,
    REASON,
    REFUSED,
    RUNNING,
    STATE,
    TIME_ATTRIBUTE,
)

FAILED, STOPPED, UNFINISHED = "failed", "stopped", "unfinished"
ELIGIBLE = (FINISHED, NO_BETTER, STOPPED)  # what the best may be chosen from


@dataclass(frozen=True)
class TrialRow:
    """One trial as a row of the table.

    Attributes:
        rank: 1 for the best; None where the trial cannot be chosen.
        trial: its identifier, as in the folder's name.
        state: finished | no better epoch (early stopping) | stopped (by the scheduler or the time budget) | failed |
            refused | unfinished.
        score: the best validation score.
        best_epoch, epochs: the epoch of that score, and how many were trained.
        seconds: of training and validation, over all starts.
        values: the drawn keys.
        reason: of a failed or refused trial.
        failures: how often it was lost or raised.
        checkpoint: folder of its last checkpoint, inside the sweep's.
    """

    rank: int | None
    trial: str
    state: str
    score: float | None
    best_epoch: int | None
    epochs: int
    seconds: float
    values: dict[str, Any]
    reason: str = ""
    failures: int = 0
    checkpoint: str | None = None
    valid: dict[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def collect(grid: Any, trials: Sequence[Any], bigger: bool, cut: Collection[str] = ()) -> list[TrialRow]:
    """Rows of Ray Tune's results, ranked; ties go to the trial that began first.

    Args:
        grid: the `ResultGrid`.
        trials: the experiment's trials as its end left them, for their states.
        bigger: whether a higher score is better.
        cut: trials that were at work when the sweep was interrupted.
    """
    states = {str(trial.trial_id): trial for trial in trials}
    rows = []
    for result in grid:
        trial = Path(result.path).name.removeprefix("trial_")
        rows.append(_row(trial, result, states.get(trial), trial in cut))
    order = {trial: place for place, trial in enumerate(states)}
    sign = -1.0 if bigger else 1.0

    def key(row: TrialRow) -> tuple[Any, ...]:
        place = order.get(row.trial, len(order))
        return (0, sign * float(row.score or 0.0), place) if _chosen_from(row) else (1, 0.0, place)

    rows.sort(key=key)
    ranked = []
    for place, row in enumerate(rows, start=1):
        ranked.append(TrialRow(**{**vars(row), "rank": place if _chosen_from(row) else None}))
    return ranked


def _chosen_from(row: TrialRow) -> bool:
    return row.state in ELIGIBLE and row.score is not None and math.isfinite(row.score) and row.checkpoint is not None


def _row(trial: str, result: Any, ended: Any, cut: bool) -> TrialRow:
    facts: Mapping[str, Any] = result.metrics or {}
    state, reason = facts.get(STATE, UNFINISHED), ""
    status = ended.status if ended is not None else None
    if result.error is not None:
        state, reason = FAILED, short_reason(str(result.error))
    elif state == REFUSED:
        reason = str(facts.get(REASON, ""))
    elif cut or status != "TERMINATED":
        state = UNFINISHED
    elif state in (RUNNING, UNFINISHED):
        state = STOPPED
    checkpoint = result.checkpoint
    return TrialRow(
        rank=None,
        trial=trial,
        state=state,
        score=facts.get(BEST_SCORE),
        best_epoch=facts.get(BEST_EPOCH),
        epochs=int(facts.get(TIME_ATTRIBUTE) or 0),
        seconds=float(facts.get("train_seconds") or 0.0),
        values=dict(result.config or {}),
        reason=reason,
        failures=int(getattr(getattr(ended, "run_metadata", None), "num_failures", 0)),
        checkpoint=f"{Path(result.path).name}/{Path(checkpoint.path).name}" if checkpoint is not None else None,
        valid={name: value for name, value in facts.items() if name.startswith("valid_")},
    )


def write_tables(folder: SweepFolder, rows: Sequence[TrialRow]) -> None:
    """Write trials.csv and trials.parquet."""
    flat = [_flat(row) for row in rows]
    columns = list(dict.fromkeys(column for row in flat for column in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    write_text_atomically(folder.table("csv"), stream.getvalue())

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({column: _column([row.get(column) for row in flat]) for column in columns})
    target = folder.table("parquet")
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        pyarrow.parquet.write_table(table, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _flat(row: TrialRow) -> dict[str, Any]:
    facts = row.plain()
    values, valid = facts.pop("values"), facts.pop("valid")
    return {**facts, **{f"config/{key}": _cell(value) for key, value in values.items()}, **valid}


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value)


def _column(values: list[Any]) -> list[Any]:
    """Values of one type: integers among floats become floats, anything else mixed becomes text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]


def text_table(rows: Sequence[TrialRow], metric: str, most: int = 20) -> str:
    """The ranked table for a terminal."""
    keys = list(dict.fromkeys(key for row in rows for key in row.values))
    header = ["rank", "trial", metric, "best epoch", "epochs", "state", *keys]
    lines = [header]
    for row in rows[:most]:
        lines.append(
            [
                str(row.rank or "-"),
                row.trial,
                "-" if row.score is None else f"{row.score:.6f}",
                str(row.best_epoch or "-"),
                str(row.epochs),
                row.state,
                *(_short(row.values.get(key)) for key in keys),
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    if len(rows) > most:
        text.append(f"... and {len(rows) - most} more in trials.csv")
    text += [f"{row.state}: trial {row.trial}: {row.reason}" for row in rows if row.reason]
    return "\n".join(text)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
