"""Everything that a suite is to make, resolved and checked before any of it starts: searches, candidates, runs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.config_files import COMMAND_LINE
from recbole_diffusion.suites.candidates import Choice, plan_choice
from recbole_diffusion.suites.plan import PlannedRun, plan_run
from recbole_diffusion.suites.searching import PlannedSearch, plan_search
from recbole_diffusion.suites.suite import Suite, SuiteModel

logger = logging.getLogger(__name__)

Row = tuple[str, str]  # label of a model, dataset


class SuitePlan:
    """What a suite is to make.

    Attributes:
        suite, folder: the suite, and where everything lies.
        searches: by model and dataset, of models whose configuration a sweep chooses.
        choices: the same of models with candidates.
        chosen: what has been chosen so far.
    """

    def __init__(self, suite: Suite, folder: Path, given: Mapping[str, Any]) -> None:
        """Resolve and check.

        Args:
            suite: the suite.
            folder: where everything lies.
            given: keys of every run, which win over the suite's.

        Raises:
            UserError: a configuration is refused; with file and line.
        """
        self.suite, self.folder, self._given = suite, folder, given
        rows = [(model, dataset) for model in suite.models for dataset in model.datasets]
        self.searches: dict[Row, PlannedSearch] = {
            (model.label, dataset): plan_search(suite, model, dataset, output=folder, given=given)
            for model, dataset in rows
            if model.search is not None
        }
        self.choices: dict[Row, Choice] = {
            (model.label, dataset): plan_choice(suite, model, dataset, output=folder, given=given)
            for model, dataset in rows
            if model.candidates
        }
        self.chosen: dict[Row, dict[str, Any]] = {}
        self._failed: set[Path] = set()
        self._order = {
            (model.label, dataset, seed): number for number, (model, dataset, seed) in enumerate(suite.rows())
        }

    def given_candidates(self) -> list[str]:
        """Of every key that all runs are given although a model has candidates for it, one line that says so."""
        origin = getattr(self._given, "origin", COMMAND_LINE)
        return [
            f"{key} {self._given[key]} ({origin}) is that of all runs: the candidates of {model.label} do not vary it"
            for model in self.suite.models
            for key in (model.candidates[0] if model.candidates else ())
            if key in self._given
        ]

    def runs(self) -> tuple[PlannedRun, ...]:
        """Every run of the tables, with what has been chosen so far; of a model with candidates none before that.

        Raises:
            UserError: a configuration is refused; with file and line.
        """
        return tuple(
            self._run(model, dataset, seed)
            for model, dataset, seed in self.suite.rows()
            if (model.label, dataset) not in self.choices or (model.label, dataset) in self.chosen
        )

    def _run(self, model: SuiteModel, dataset: str, seed: int) -> PlannedRun:
        values = self.chosen.get((model.label, dataset))
        run = plan_run(self.suite, model, dataset, seed, output=self.folder, given=self._given, searched=values)
        choice = self.choices.get((model.label, dataset))
        if choice is None or values is None or seed != model.seeds[0]:
            return run
        candidate = choice.run_of(values)
        return run if candidate.place == run.place else dataclasses.replace(run, goes_on_from=candidate.place)

    def settled_runs(self) -> tuple[PlannedRun, ...]:
        """The runs of the tables that do not wait for a choice."""
        waiting = {*self.searches} - {*self.chosen}
        return tuple(run for run in self.runs() if (run.label, run.dataset) not in waiting)

    def ready_runs(self) -> list[PlannedRun]:
        """What can be made once the searches are: candidates, and the runs that wait for no choice."""
        return [run for run in self.settled_runs() if (run.label, run.dataset) not in self.choices] + self.candidates()

    def candidates(self) -> list[PlannedRun]:
        """The runs among which models are chosen."""
        return [run for choice in self.choices.values() for run in choice.runs]

    def first_runs(self) -> list[PlannedRun]:
        """What can be made before anything is chosen; of a model with a search its runs without what it chooses."""
        return [run for run in self.runs() if (run.label, run.dataset) not in self.choices] + self.candidates()

    def look(self) -> None:
        """Take what searches and candidates of earlier have chosen."""
        found = {row: search.chosen() for row, search in self.searches.items()}
        for row, choice in self.choices.items():
            found[row] = choice.chosen({run.place for run in choice.runs if run.failure is not None})
        self.chosen.update({row: values for row, values in found.items() if values is not None})

    def then(self, run: PlannedRun) -> Sequence[PlannedRun]:
        """Once the last candidate of a model has its result, or has failed: the model's runs with the best of them."""
        row = (run.label, run.dataset)
        if not run.finished:
            self._failed.add(run.place)
        values = self.choices[row].chosen(self._failed) if row in self.choices and row not in self.chosen else None
        if values is None:
            return ()
        self.chosen[row] = values
        logger.info("%s on %s: %s, of %d candidates", *row, values, len(self.choices[row].runs))
        return [run for run in self.runs() if (run.label, run.dataset) == row]

    def position(self, run: PlannedRun) -> int:
        """Where a run stands in the suite's order; candidates stand where their model's first seed does."""
        return self._order[run.label, run.dataset, run.seed]

    @property
    def total(self) -> int:
        """Runs and candidates."""
        return len(self._order) + len(self.candidates())

    @property
    def possible(self) -> int:
        """Those of them that do not wait for a search, which is over by the time they are made."""
        waiting = {*self.searches} - {*self.chosen}
        return self.total - sum((label, dataset) in waiting for label, dataset, _ in self._order)
