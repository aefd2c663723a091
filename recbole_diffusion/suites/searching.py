"""A model's configuration, chosen on validation by a sweep before its runs, so that rivals get the same effort.

The sweep lies in the suite's folder, named by a digest of all that it depends on: it is made once, gone on with when it
was cut, and made anew when something has changed. One that fails leaves its model without runs and no other; failed.txt
says why. The test rows decide nothing here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.config import COMMAND_LINE, Overrides, RunConfig
from recbole_diffusion.config_keys import LOGGER_KEYS
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.performing import LOG, Outcome, Processes, as_word, reason
from recbole_diffusion.suites.plan import (
    FAILED,
    data_files,
    layered,
    note_failure,
    plan_run,
    read_failure,
    results_of,
    slug,
)
from recbole_diffusion.suites.suite import Suite, SuiteModel
from recbole_diffusion.training.checkpoint import write_text_atomically
from recbole_diffusion.tuning.search_space import read


@dataclass(frozen=True)
class PlannedSearch:
    """A search of one model on one dataset.

    Attributes:
        model, dataset: what is searched.
        keys: of every trial.
        place: its folder.
        given: those of them that win over what the space fixes.
    """

    model: SuiteModel
    dataset: str
    keys: dict[str, Any]
    place: Path
    given: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In words."""
        return f"search for {self.model.label} on {self.dataset}"

    @property
    def failure(self) -> str | None:
        """Why its last attempt failed; None where it did not."""
        return read_failure(self.place)

    def sweep(self) -> Path | None:
        """The sweep's folder; None before it has one."""
        return max((path.parent for path in self.place.glob("*/sweep.json")), default=None)

    def chosen(self) -> dict[str, Any] | None:
        """What the best trial drew, and what the search space fixes for all trials; None before there is one."""
        sweep = self.sweep()
        if sweep is None or not (sweep / "tune_result.json").is_file():
            return None
        facts = json.loads((sweep / "tune_result.json").read_text(encoding="utf-8"))
        best = facts["best"]["trial"]
        values: dict[str, Any] = next(row["values"] for row in facts["trials"] if row["trial"] == best)
        fixed = {key: value for key, value in facts["space"].items() if key not in values}
        return {**fixed, **values}


def plan_search(
    suite: Suite, model: SuiteModel, dataset: str, *, output: Path, given: Mapping[str, Any]
) -> PlannedSearch:
    """Resolve and check a model's search on a dataset.

    Raises:
        UserError: the configuration without what is searched is refused, or, before the sweep has begun, its space; a
            key is given to all runs and drawn.
    """
    assert model.search is not None
    seed = model.seeds[0]
    run = plan_run(suite, model, dataset, seed, output=output, given=given)
    keys = dict(layered(suite, model, dataset, given))
    keys.update(model.search.settings, seed=seed)
    space = _plain(model.search.space)
    data = data_files(str(run.config()["data_path"]))
    facts = [model.model, model.preset, dataset, results_of(keys), space, model.search.num_trials, data]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
    place = output / "searches" / slug(dataset) / f"{slug(model.label)}-{digest}"
    searched = read(model.search.space)
    for key in searched.domains:
        if key in given:
            raise UserError(
                f"{key} is given ({run.origins.get(key, COMMAND_LINE)}) and drawn ({searched.origins[key]}) by the "
                f"search for {model.label}; leave one of them out"
            )
    search = PlannedSearch(model, dataset, keys, place, tuple(key for key in searched.fixed if key in given))
    searched = replace(searched, fixed={key: value for key, value in searched.fixed.items() if key not in given})
    if search.sweep() is None:
        preset = {"preset": model.preset} if model.preset is not None and "preset" not in keys else {}
        base = Overrides({**keys, **preset}, origin=str(suite.file))
        searched.check(lambda values: _refusal(search, base, values))
    return search


def _plain(space: Path) -> Any:
    """What a search space's file says, whatever its comments; its text where it is no plain YAML."""
    text = space.read_text(encoding="utf-8")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _refusal(search: PlannedSearch, base: Overrides, values: Mapping[str, Any]) -> UserError | None:
    """What a trial with these values is refused with; None where it is taken."""
    tried = Overrides({**base, **values}, origin=base.origin)
    tried.origins = {**base.origins, **getattr(values, "origins", {})}
    try:
        RunConfig(search.model.model, search.dataset, (), tried)
    except UserError as error:
        return error
    return None


def make(
    search: PlannedSearch,
    place: Mapping[str, Any],
    processes: Processes,
    *,
    keep: Sequence[int] = (),
    ray_address: str | None = None,
) -> Outcome:
    """Make what is missing of a search. Its trials are logged only where the search's own settings say so.

    Args:
        search: the planned search.
        place: keys that say where and how its trials run.
        processes: where its process is known.
        keep: file descriptors that it keeps open.
        ray_address: of a cluster; None for this machine.

    Raises:
        KeyboardInterrupt: it was told to stop.
    """
    assert search.model.search is not None
    began = time.monotonic()
    search.place.mkdir(parents=True, exist_ok=True)
    (search.place / FAILED).unlink(missing_ok=True)
    sweep, log = search.sweep(), search.place / LOG
    if sweep is None:
        asked = search.place / "asked.yaml"
        own = search.model.search.settings
        keys = {key: value for key, value in {**search.keys, **place}.items() if key not in LOGGER_KEYS or key in own}
        text = yaml.safe_dump({**keys, "num_threads": None}, sort_keys=False)
        write_text_atomically(asked, f"# {search.name}\n{text}")
        words = ["tune", f"--model={search.model.model}", f"--dataset={search.dataset}"]
        words += [f"--config_files='{asked}'", f"--tune={search.model.search.space}", "--scheduler=none"]
        words += [f"--num_trials={search.model.search.num_trials}", f"--storage_path={search.place}"]
        words += [f"--{key}={as_word(search.keys[key])}" for key in search.given]
        if search.model.preset and "preset" not in search.keys:
            words.append(f"--preset={search.model.preset}")
    else:
        words = ["tune", f"--resume={sweep}"]
    if place.get("num_threads"):
        words += [f"--cpus_per_trial={place['num_threads']}"] if sweep is None else []
    words += [f"--ray_address={ray_address}"] if ray_address else []
    code = processes.call(words, log, environment={}, keep=keep)
    if processes.stopped:
        raise KeyboardInterrupt
    why = reason(code, log) if code else None if search.chosen() is not None else f"it has chosen nothing; see {log}"
    if why is not None:
        note_failure(search.place, why)
    return Outcome(search.name, time.monotonic() - began, why)
