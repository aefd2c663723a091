"""A suite: which models run on which datasets with which seeds, as a YAML file says.

    about: one line
    datasets: [beauty-mini]           # or {beauty-mini: {settings}}
    seeds: [1, 2, 3]
    settings: {epochs: 20}            # of every run
    time_limit: 3600                  # seconds of a run's training
    candidates_time_limit: 600        # of a candidate's; the chosen one goes on from there
    order: seeds                      # seeds: all models with the first seed first | models: all seeds of a model first
    models:
      SASRecCE:                       # a label, the model's name unless `model` says another
      DiffuRec: {preset: paper}
      DiffuRec without diffusion: {model: DiffuRec, settings: {lambda_mean: 0, lambda_std: 0}, seeds: [1]}
      GRU4Rec: {candidates: {learning_rate: [0.001, 0.005], hidden_size: [64, 128]}}
      gSASRec: {search: {space: hyper/gSASRec.yaml, num_trials: 4}}
    evaluations:                      # the same checkpoints, ranked otherwise
      without seen items: {filter_seen: True}
    reference: SASRecCE               # what the others are tested against; of several the best one of each column
    test: wilcoxon                    # how: t-test (default) | wilcoxon
    correction: holm                  # for all tests of a table: holm (default) | benjamini-hochberg | none
    alpha: 0.05                       # what is marked

Keys of a run win in this order: the preset, `settings` of the suite, of the dataset, of the model; what the command
line gives wins over all. `candidates`, every combination of the listed values, and `search`, a sweep over a file of
ranges, choose a model's configuration on validation, with its first seed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.results import table_label
from recbole_diffusion.benchmarking.statistics import CORRECTIONS, TESTS
from recbole_diffusion.config_files import key_lines, read_yaml
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import nearest

SUITE_KEYS = (
    "about",
    "datasets",
    "seeds",
    "settings",
    "time_limit",
    "candidates_time_limit",
    "order",
    "models",
    "evaluations",
    "reference",
    "test",
    "correction",
    "alpha",
    "metrics",
    "published",
)
ORDERS = ("seeds", "models")
MODEL_KEYS = ("model", "preset", "settings", "seeds", "datasets", "candidates", "search", "published")
SEARCH_KEYS = ("space", "num_trials", "settings")


@dataclass(frozen=True)
class Search:
    """How a model's configuration is chosen on validation before its runs.

    Attributes:
        space: the file of the search space.
        num_trials: configurations that are tried.
        settings: keys of the trials alone.
    """

    space: Path
    num_trials: int
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteModel:
    """One row of the suite's tables.

    Attributes:
        label: what tables call it.
        model: a name of `--list_models`, or package.module:Class.
        preset: `paper` or None.
        settings: keys of its runs.
        seeds: its own, or those of the suite.
        datasets: its own, or those of the suite.
        candidates: configurations of which the best on validation is taken; empty takes what is given.
        search: the sweep that chooses its configuration; None for none.
        published: what a table of printed figures calls it, where that is not its model; empty where none has it.
    """

    label: str
    model: str
    preset: str | None
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    candidates: tuple[dict[str, Any], ...]
    search: Search | None
    published: str | None


@dataclass(frozen=True)
class Suite:
    """What a suite file says.

    Attributes:
        file: the file.
        name: its name without .yaml.
        about: one line.
        datasets: the datasets and the keys of all runs on each.
        settings: keys of every run.
        candidates_time_limit: the shorter time_limit of candidates; None for that of all runs.
        order: seeds | models, what comes first.
        models: rows, in the order of the file.
        evaluations: further evaluations of every checkpoint, by name.
        reference: labels that the others are tested against, in each column against the best of them.
        testing: how the others are tested, where that is not as usual: test, correction, alpha.
        metrics: columns of the tables; None for those of the runs.
        published: files of printed figures.
        lines: where every key stands, by its path.
    """

    file: Path
    name: str
    about: str
    datasets: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    candidates_time_limit: float | None
    order: str
    models: tuple[SuiteModel, ...]
    evaluations: dict[str, dict[str, Any]]
    reference: tuple[str, ...]
    testing: dict[str, Any]
    metrics: tuple[str, ...] | None
    published: tuple[Path, ...]
    lines: dict[tuple[str, ...], str]

    def rows(self) -> Iterator[tuple[SuiteModel, str, int]]:
        """Every model, dataset and seed, in the order in which they are made."""
        for dataset in self.datasets:
            models = [model for model in self.models if dataset in model.datasets]
            if self.order == "models":
                yield from ((model, dataset, seed) for model in models for seed in model.seeds)
                continue
            for seed in dict.fromkeys(seed for model in models for seed in model.seeds):
                yield from ((model, dataset, seed) for model in models if seed in model.seeds)


class _Reader:
    """Checks values of one file and says where they stand."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.values = read_yaml(file).values
        self.lines = key_lines(file)

    def where(self, *path: str) -> str:
        return self.lines.get(path, str(self.file))

    def wrong(self, path: Sequence[str], allowed: str, value: Any) -> UserError:
        return UserError(f"{self.where(*path)}: {'.'.join(path)} must be {allowed}, got {value!r}")

    def keys(self, path: Sequence[str], values: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in values:
            if key not in known:
                hint = nearest(str(key), known)
                raise UserError(
                    f"{self.where(*path, str(key))}: unknown key '{key}'"
                    + (f"; did you mean '{hint}'?" if hint else f"; allowed are {', '.join(known)}")
                )

    def mapping(self, path: Sequence[str], value: Any) -> dict[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise self.wrong(path, "keys with values", value)
        return dict(value)

    def text(self, path: Sequence[str], value: Any) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(path, "text", value)
        return value.strip()

    def texts(self, path: Sequence[str], value: Any) -> tuple[str, ...]:
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed:
            raise self.wrong(path, "a name or a list of names", value)
        return tuple(self.text(path, entry) for entry in listed)

    def seeds(self, path: Sequence[str], value: Any) -> tuple[int, ...]:
        listed = value if isinstance(value, list) else [value]
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in listed)
        if not listed or not whole or len(set(listed)) < len(listed):
            raise self.wrong(path, "a whole number from 0, or a list of different ones", value)
        return tuple(listed)


def read_suite(file: str | Path) -> Suite:
    """Read a suite file.

    Raises:
        UserError: with file and line: it cannot be read, a key is unknown or has no allowed value, a name is not there.
    """
    reader = _Reader(Path(file))
    values = reader.values
    reader.keys((), values, SUITE_KEYS)
    for key in ("datasets", "models"):
        if not values.get(key):
            raise UserError(f"{file}: a suite needs {key}")
    given = values["datasets"]
    named = given if isinstance(given, Mapping) else dict.fromkeys(reader.texts(("datasets",), given))
    datasets = {name: reader.mapping(("datasets", name), settings) for name, settings in named.items()}
    seeds = reader.seeds(("seeds",), values.get("seeds", [2023]))
    settings = reader.mapping(("settings",), values.get("settings"))
    if values.get("time_limit") is not None:
        settings = {"time_limit": values["time_limit"], **settings}
    limit = values.get("candidates_time_limit")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
        raise reader.wrong(("candidates_time_limit",), "seconds above 0", limit)
    order = values.get("order", ORDERS[0])
    if order not in ORDERS:
        raise reader.wrong(("order",), " or ".join(ORDERS), order)
    listed = reader.mapping(("models",), values["models"])
    models = tuple(_model(reader, label, entry, seeds, tuple(datasets)) for label, entry in listed.items())
    rows: dict[str, str] = {}
    for label in listed:
        row, where = table_label(label), reader.where("models", label)
        if rows.setdefault(row, where) != where:
            raise UserError(
                f"{where}: '{row}' is in {rows[row]} too, with other blanks; they would be one row of the tables, so "
                "give one another label"
            )
    evaluations = {
        name: reader.mapping(("evaluations", name), keys)
        for name, keys in reader.mapping(("evaluations",), values.get("evaluations")).items()
    }
    reference = reader.texts(("reference",), values["reference"]) if values.get("reference") is not None else ()
    for label in reference:
        if label not in listed:
            raise reader.wrong(("reference",), f"one of the models {', '.join(listed)}", label)
    return Suite(
        file=reader.file,
        name=reader.file.stem,
        about=reader.text(("about",), values["about"]) if "about" in values else "",
        datasets=datasets,
        settings=settings,
        candidates_time_limit=limit,
        order=order,
        models=models,
        evaluations=evaluations,
        reference=reference,
        testing=_testing(reader),
        metrics=reader.texts(("metrics",), values["metrics"]) if "metrics" in values else None,
        published=_files(reader, ("published",), values.get("published")),
        lines=reader.lines,
    )


def _model(reader: _Reader, label: str, entry: Any, seeds: tuple[int, ...], datasets: tuple[str, ...]) -> SuiteModel:
    path = ("models", label)
    values = reader.mapping(path, entry)
    reader.keys(path, values, MODEL_KEYS)
    own_datasets = reader.texts((*path, "datasets"), values["datasets"]) if "datasets" in values else datasets
    for name in own_datasets:
        if name not in datasets:
            raise reader.wrong((*path, "datasets"), f"of the suite's datasets {', '.join(datasets)}", name)
    if values.get("candidates") is not None and values.get("search") is not None:
        raise UserError(f"{reader.where(*path, 'search')}: {label} has candidates and a search; leave one of them out")
    return SuiteModel(
        label=label,
        model=reader.text((*path, "model"), values.get("model", label)),
        preset=reader.text((*path, "preset"), values["preset"]) if values.get("preset") is not None else None,
        settings=reader.mapping((*path, "settings"), values.get("settings")),
        seeds=reader.seeds((*path, "seeds"), values["seeds"]) if "seeds" in values else seeds,
        datasets=own_datasets,
        candidates=_candidates(reader, (*path, "candidates"), values.get("candidates")),
        search=_search(reader, (*path, "search"), values["search"]) if values.get("search") is not None else None,
        published=_published_as(reader, (*path, "published"), values),
    )


def _published_as(reader: _Reader, path: tuple[str, ...], values: Mapping[str, Any]) -> str | None:
    """The name of a model's row in printed tables: None for its model's, empty for none (`published: ~`)."""
    if "published" not in values:
        return None
    return "" if values["published"] is None else reader.text(path, values["published"])


def _testing(reader: _Reader) -> dict[str, Any]:
    """The keys test, correction and alpha, where they are given."""
    given: dict[str, Any] = {key: reader.values[key] for key in ("test", "correction", "alpha") if key in reader.values}
    for key, allowed in (("test", TESTS), ("correction", CORRECTIONS)):
        if key in given and given[key] not in allowed:
            raise reader.wrong((key,), " or ".join(allowed), given[key])
    alpha = given.get("alpha", 0.05)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1:
        raise reader.wrong(("alpha",), "between 0 and 1, as 0.05", alpha)
    if given and reader.values.get("reference") is None:
        key = next(iter(given))
        raise UserError(f"{reader.where(key)}: {key} goes with reference, what rows are tested against; give that too")
    return given


def _candidates(reader: _Reader, path: tuple[str, ...], entry: Any) -> tuple[dict[str, Any], ...]:
    """Every combination of the listed values; the last key changes first."""
    lists = reader.mapping(path, entry)
    for key, listed in lists.items():
        if not isinstance(listed, list) or not listed or any(value in listed[:at] for at, value in enumerate(listed)):
            raise reader.wrong((*path, key), "a list of different values", listed)
    if not lists:
        return ()
    return tuple(dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))


def _search(reader: _Reader, path: tuple[str, ...], entry: Any) -> Search:
    values = reader.mapping(path, entry)
    reader.keys(path, values, SEARCH_KEYS)
    trials = values.get("num_trials", 4)
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise reader.wrong((*path, "num_trials"), "a whole number from 1", trials)
    if "space" not in values:
        raise UserError(f"{reader.where(*path)}: a search needs space, the file of its search space")
    (space,) = _files(reader, (*path, "space"), values["space"])
    return Search(space, trials, reader.mapping((*path, "settings"), values.get("settings")))


def _files(reader: _Reader, path: tuple[str, ...], value: Any) -> tuple[Path, ...]:
    """Files named in the suite: from the working directory, or else from the suite's folder."""
    found = []
    for name in reader.texts(path, value) if value else ():
        places = [Path(name), reader.file.parent / name]
        place = next((place for place in places if place.is_file()), None)
        if place is None:
            raise UserError(f"{reader.where(*path)}: {'.'.join(path)}: no file {name}, here or in {reader.file.parent}")
        found.append(place)
    return tuple(found)
