"""The runs of a suite: each one's whole configuration, checked before anything starts, and the folder it has.

A run's folder is named by a digest of what it is given and of its data, so what is unchanged is found again and what
has changed gets a folder of its own; so it does when a default that it was made with has changed since:

    <output>/<suite>/runs/<dataset>/<label>/seed-<seed>-<digest>[-2]/     asked.yaml, log.txt, the run's own folder;
                                                                          failed.txt after a failure
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from recbole_diffusion.config import COMMAND_LINE, Overrides, RunConfig, read_yaml
from recbole_diffusion.config_keys import LOGGER_KEYS
from recbole_diffusion.config_protocols import refuse_other_training_rows
from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import file_digest
from recbole_diffusion.suites.suite import Suite, SuiteModel
from recbole_diffusion.training.checkpoint import write_text_atomically

# Where and how a run runs: the same result is expected whatever they are.
PLACE_KEYS = (
    "data_path",
    "cache",
    "cache_dir",
    "checkpoint_dir",
    "num_threads",
    "reuse_memory",
    "use_gpu",
    "gpu_id",
    "worker",
    "show_progress",
    "state",
    "rank_memory",
    "ray_address",
    "worker_restarts",
    "save_per_user",
    *LOGGER_KEYS,
)
FAILED = "failed.txt"
ATOMIC_SUFFIXES = (".inter", ".user", ".item")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite.

    Attributes:
        label, dataset, seed: which one.
        model: name or reference.
        preset: `paper` or None.
        keys: what its configuration is given, above defaults and preset.
        place: its folder.
        evaluations: names and keys, as they are resolved, of the further evaluations of its checkpoint.
        candidate: what it is as one of several configurations; empty where it is not.
        goes_on_from: the folder of the shorter run, same in all but its time_limit, that this one continues.
        origins: where its keys were given, for messages.
    """

    label: str
    dataset: str
    seed: int
    model: str
    preset: str | None
    keys: dict[str, Any]
    place: Path
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    candidate: str = ""
    goes_on_from: Path | None = None
    origins: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def config(self, place: Mapping[str, Any] | None = None, *, origin: str = COMMAND_LINE) -> RunConfig:
        """Its configuration.

        Args:
            place: keys that say where and how it runs.
            origin: where they were given.
        """
        overrides = Overrides({**self.keys, **(place or {}), "preset": self.preset}, origin=origin)
        overrides.origins = {key: where for key, where in self.origins.items() if key not in (place or {})}
        return RunConfig(self.model, self.dataset, (), overrides)

    @property
    def name(self) -> str:
        """In words."""
        candidate = f", candidate {self.candidate}" if self.candidate else ""
        return f"{self.label} on {self.dataset}, seed {self.seed}{candidate}"

    @property
    def run_folder(self) -> Path | None:
        """The folder that the run made; None before it has one."""
        return newest_run(self.place)

    @property
    def finished(self) -> bool:
        """Whether the run has its result and so has every evaluation."""
        folder = self.run_folder
        return folder is not None and (folder / "result.json").is_file() and not self.missing_evaluations()

    @property
    def failure(self) -> str | None:
        """Why its last attempt failed; None where it did not."""
        return read_failure(self.place)

    def evaluation_place(self, name: str) -> Path:
        """Where an evaluation's folder is made."""
        return self.place / "evaluations" / slug(name)

    def evaluation_folder(self, name: str) -> Path | None:
        """The folder of a finished evaluation with the keys that it has now, the newest; None before."""
        wanted = results_of(self.evaluations[name])
        made = (path.parent for path in self.evaluation_place(name).glob("*/result.json"))
        for folder in sorted(made, key=lambda path: path.name, reverse=True):
            stored = _stored(folder / "config.yaml")
            if all(key in stored and stored[key] == value for key, value in wanted.items()):
                return folder
        return None

    def missing_evaluations(self) -> list[str]:
        """Names of the evaluations that are still to be made."""
        return [name for name in self.evaluations if self.evaluation_folder(name) is None]


def plan_run(
    suite: Suite,
    model: SuiteModel,
    dataset: str,
    seed: int,
    *,
    output: Path,
    given: Mapping[str, Any],
    searched: Mapping[str, Any] | None = None,
    time_limit: float | None = None,
) -> PlannedRun:
    """Resolve and check one run.

    Args:
        suite: the suite.
        model, dataset, seed: which run.
        output: the suite's folder.
        given: keys of the command line, which win.
        searched: what a search chose.
        time_limit: a shorter one than it would have.

    Raises:
        UserError: the configuration, or that of an evaluation, is refused; with file and line.
    """
    overrides = layered(suite, model, dataset, given, searched)
    if "seed" in overrides:
        raise UserError(
            f"seed ({overrides.origin_of('seed')}): a suite's runs have its seeds; set seeds in {suite.file}"
        )
    overrides["seed"] = seed
    if time_limit is not None and not _is_shorter(overrides.get("time_limit"), time_limit):
        overrides["time_limit"] = time_limit
        overrides.origins["time_limit"] = suite.lines.get(("candidates_time_limit",), str(suite.file))
    overrides.setdefault("save_per_user", "parquet")
    if model.preset is not None and "preset" not in given:
        overrides["preset"] = model.preset
    config = _checked(model, dataset, overrides, suite)
    if model.candidates and config["eval_step"] == 0:
        raise UserError(
            f"{suite.lines.get(('models', model.label, 'candidates'), str(suite.file))}: candidates are chosen on "
            f"validation, but eval_step is 0 ({config.origin('eval_step')}); give it 1 or more"
        )
    evaluations = {}
    for name, keys in suite.evaluations.items():
        where = suite.lines.get(("evaluations", name), str(suite.file))
        changed = Overrides({**overrides, **keys}, origin=where)
        changed.origins = {**overrides.origins, **{k: suite.lines.get(("evaluations", name, k), where) for k in keys}}
        evaluated = _checked(model, dataset, changed, suite)
        refuse_other_training_rows(evaluated, config.to_plain(), f"{model.label} (evaluation '{name}')")
        resolved = evaluated.to_plain()
        evaluations[name] = {key: resolved.get(key, value) for key, value in keys.items()}
    keys = {key: value for key, value in overrides.items() if key != "preset"}
    name = f"seed-{seed}-{_digest(config, config.preset, keys)}"
    return PlannedRun(
        label=model.label,
        dataset=dataset,
        seed=seed,
        model=config.model_reference,
        preset=config.preset,
        keys=keys,
        place=_free(output / "runs" / slug(dataset) / slug(model.label), name, results_of(config.to_plain())),
        evaluations=evaluations,
        origins={key: overrides.origin_of(key) for key in keys},
    )


def layered(
    suite: Suite, model: SuiteModel, dataset: str, given: Mapping[str, Any], searched: Mapping[str, Any] | None = None
) -> Overrides:
    """The keys of a run in their order of precedence, each of which knows where it stands."""
    layers: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [
        (("settings",), suite.settings),
        (("datasets", dataset), suite.datasets[dataset]),
        (("models", model.label, "settings"), model.settings),
        (("models", model.label, "candidates" if model.candidates else "search"), searched or {}),
    ]
    merged = Overrides(origin=getattr(given, "origin", "command line"))
    for path, values in layers:
        for key, value in values.items():
            merged[key] = value
            default = suite.lines.get(path, str(suite.file))
            merged.origins[key] = suite.lines.get((*path, key), suite.lines.get((key,), default))
    for key, value in given.items():
        merged[key] = value
        merged.origins.pop(key, None)
    return merged


def _is_shorter(limit: Any, than: float) -> bool:
    """Whether a time_limit, if it is one at all, ends a run before another."""
    return isinstance(limit, int | float) and limit <= than


def _checked(model: SuiteModel, dataset: str, overrides: Overrides, suite: Suite) -> RunConfig:
    try:
        return RunConfig(model.model, dataset, (), overrides)
    except UserError as error:
        where = suite.lines.get(("models", model.label), str(suite.file))
        text = str(error)
        if str(suite.file) in text or overrides.origin in text:  # it says where the key was given
            raise
        raise UserError(f"{where}: {text}") from None


def _digest(config: RunConfig, preset: str | None, keys: Mapping[str, Any]) -> str:
    """Twelve characters that stand for what a run is given, and its data."""
    facts = [config.model_reference, config.dataset, preset, results_of(keys), data_files(str(config["data_path"]))]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def results_of(keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that results depend on."""
    return {key: value for key, value in keys.items() if key not in PLACE_KEYS}


def _free(folder: Path, name: str, config: Mapping[str, Any]) -> Path:
    """The first of name, name-2, ... that no run with another configuration has.

    A key that is new since that run was made is no difference.
    """
    for number in range(1, 1000):
        place = folder / (name if number == 1 else f"{name}-{number}")
        made = newest_run(place)
        if made is None:
            return place
        stored = read_yaml(made / "config.yaml").values
        if all(stored[key] == value for key, value in config.items() if key in stored):
            return place
    raise UserError(f"{folder} holds 999 runs named {name}; move some away")


@lru_cache(maxsize=4096)
def _stored(file: Path) -> dict[str, Any]:
    """The keys of a finished evaluation, which do not change any more; none where there is no such file."""
    return dict(read_yaml(file).values) if file.is_file() else {}


@lru_cache(maxsize=64)
def data_files(folder: str) -> tuple[tuple[str, str], ...]:
    """SHA-256 of a dataset's files; nothing where it is not there yet."""
    found = []
    for path in sorted(Path(folder).glob("*")):
        if path.suffix in ATOMIC_SUFFIXES:
            found.append((path.name, file_digest(path)))
    return tuple(found)


def read_failure(place: Path) -> str | None:
    """Why the last attempt to make what lies in a folder failed; None where it did not."""
    file = place / FAILED
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def note_failure(place: Path, reason: str) -> None:
    """Keep why an attempt failed, for whoever looks later."""
    place.mkdir(parents=True, exist_ok=True)
    write_text_atomically(place / FAILED, f"{reason}\n")


def newest_run(place: Path) -> Path | None:
    """The newest run's folder in a folder."""
    runs = [path.parent for path in place.glob("*/config.yaml")]
    return max(runs, key=lambda path: path.name, default=None)


def slug(label: str) -> str:
    """A label as the name of a folder; different labels have different ones."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")
    if plain == label:
        return plain
    return f"{plain[:60]}-{hashlib.sha256(label.encode()).hexdigest()[:6]}".lstrip("-")
