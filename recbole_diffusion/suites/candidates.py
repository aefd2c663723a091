"""A model's configuration, chosen among listed ones: each is a run with the first seed, the best on validation wins.

The winner's run is the first seed's run of the table, or where candidates had less time that run goes on from it, so
nothing is trained twice. The test rows decide nothing: a candidate's test metrics lie in its folder and are not read.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.metric_names import bigger_is_better
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.plan import PlannedRun, plan_run
from recbole_diffusion.suites.suite import Suite, SuiteModel

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The candidates of one model on one dataset.

    Attributes:
        label, dataset: whose.
        runs: one a candidate, in their order; of those that keys of the command line make alike, the first.
        values: what each candidate is.
    """

    label: str
    dataset: str
    runs: tuple[PlannedRun, ...]
    values: tuple[dict[str, Any], ...]

    def scores(self) -> list[float | None]:
        """The best validation score of each candidate; None where it has none (yet)."""
        return [_score(run) for run in self.runs]

    def chosen(self, failed: Collection[Path] = ()) -> dict[str, Any] | None:
        """The best candidate, the first of equal ones; None while one is still to be made, or where all have failed.

        Args:
            failed: the folders of those that failed; they are not waited for.

        Raises:
            UserError: no candidate has a validation score.
        """
        made = [bool(_result(run)) for run in self.runs]
        settled = all(done or run.place in failed for done, run in zip(made, self.runs, strict=True))
        if not settled or not any(made):
            return None
        best: tuple[float, dict[str, Any]] | None = None
        for run, score, values in zip(self.runs, self.scores(), self.values, strict=True):
            if score is None or not math.isfinite(score):
                continue
            merit = score if bigger_is_better(str(_result(run)["valid_metric"])) else -score
            if best is None or merit > best[0]:
                best = (merit, values)
        if best is None:
            raise UserError(
                f"no candidate of {self.label} on {self.dataset} has a validation score; give the suite validation rows"
            )
        return best[1]

    def run_of(self, values: Mapping[str, Any]) -> PlannedRun:
        """The run of a candidate."""
        return self.runs[self.values.index(dict(values))]


def plan_choice(suite: Suite, model: SuiteModel, dataset: str, *, output: Path, given: Mapping[str, Any]) -> Choice:
    """Resolve and check the candidates of a model on a dataset.

    Raises:
        UserError: a candidate's configuration is refused; with file and line.
    """
    found: dict[Path, tuple[PlannedRun, dict[str, Any]]] = {}
    limit = suite.candidates_time_limit
    for values in model.candidates:
        run = plan_run(
            suite, model, dataset, model.seeds[0], output=output, given=given, searched=values, time_limit=limit
        )
        words = ", ".join(f"{key} {value}" for key, value in values.items())
        # what is not chosen is not ranked again
        found.setdefault(run.place, (dataclasses.replace(run, evaluations={}, candidate=words), values))
    runs, different = zip(*found.values(), strict=True)
    return Choice(model.label, dataset, runs, different)


def _result(run: PlannedRun) -> dict[str, Any]:
    folder = run.run_folder
    if folder is None or not (folder / "result.json").is_file():
        return {}
    facts: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return facts


def _score(run: PlannedRun) -> float | None:
    score = _result(run).get("best_valid_score")
    return None if score is None else float(score)
