"""One model trained with one thing varied and all else equal, each variant with several seeds.

A grid is a suite: its file is written into the output folder, where a person can read, change and repeat it with
`recbole-diff benchmark`, and its runs are made by `suites`, which finds finished ones again and goes on with cut ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.analyses.request import Request
from recbole_diffusion.benchmarking.metric_names import metric_key, printed_name
from recbole_diffusion.config import Overrides, RunConfig
from recbole_diffusion.config_files import parse_value
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.benchmark import SuiteResult, benchmark
from recbole_diffusion.suites.plan import PLACE_KEYS
from recbole_diffusion.training.checkpoint import write_text_atomically

SEEDS = (1, 2, 3)
PUBLISHED = Path(__file__).resolve().parent / "published"


@dataclass(frozen=True)
class Variant:
    """One value of what is varied.

    Attributes:
        value: in words, such as `0.001` or `cosine`.
        label: keys and value, such as `noise_schedule=cosine`; also its row's name among printed figures.
        settings: the keys that it sets.
    """

    value: str
    label: str
    settings: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Grid:
    """A model, a dataset, and what is varied.

    Attributes:
        name: of the suite and its files.
        about: one line.
        model, dataset, preset: of every run.
        variants: at least one.
        refused: values that the model cannot be trained with here, and why.
        seeds: of every variant.
    """

    name: str
    about: str
    model: str
    dataset: str
    preset: str | None
    variants: tuple[Variant, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = SEEDS


def variants_of(keys: Sequence[str], values: Sequence[Any]) -> tuple[Variant, ...]:
    """The variants of some values.

    Args:
        keys: those that every value is given to.
        values: plain ones, or mappings of keys of their own, such as a schedule with its parameters.

    Raises:
        UserError: no value, or the same one twice.
    """
    found: list[Variant] = []
    for value in values:
        settings = dict(value) if isinstance(value, Mapping) else dict.fromkeys(keys, value)
        if not settings:
            raise UserError("--values: an empty value; give a value, or keys with values as {key: value}")
        if any(other.settings == settings for other in found):
            raise UserError(f"--values: {_word(value)} is given twice")
        words = {key: _word(entry) for key, entry in settings.items()}
        if isinstance(value, Mapping):
            label = " ".join(f"{key}={word}" for key, word in words.items())
            short = " ".join(word if key in keys else f"{key}={word}" for key, word in words.items())
        else:
            label, short = "=".join([*keys, _word(value)]), _word(value)
        found.append(Variant(short, label, settings))
    if not found:
        raise UserError("--values is empty; it takes values, such as [0, 0.001, 0.01]")
    return tuple(found)


def _word(value: Any) -> str:
    """A value as a person writes it; 1.0 and 1 are the same."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, float):
        return repr(value)
    return "~" if value is None else str(value)


def given_values(text: str) -> list[Any]:
    """The values of the key `values`: a list, or values with commas between them.

    Raises:
        UserError: it is no list.
    """
    listed = parse_value(text if text.lstrip().startswith("[") else f"[{text}]")
    if not isinstance(listed, list):
        raise UserError(f"--values must be values such as [0, 0.001] or [a, b], got '{text}'")
    return listed


def check_variants(grid: Grid, request: Request) -> RunConfig:
    """Resolve every variant before anything is written; the configuration without any.

    Raises:
        UserError: a key of the command line that is varied, or a configuration that is refused.
    """
    given = request.config
    if "seed" in given or any("seed" in variant.settings for variant in grid.variants):
        raise UserError("seed: a grid has several, and every value is trained with each; give --seeds=[1,2,3]")
    for variant in grid.variants:
        for key in variant.settings:
            if key in given:
                raise UserError(f"--{key} is what {grid.name} varies; leave it out, or give its values with --values")
    base = RunConfig(grid.model, grid.dataset, (), _with(request, grid.preset))
    for variant in grid.variants:
        RunConfig(grid.model, grid.dataset, (), _with(request, grid.preset, variant.settings))
    return base


def _with(request: Request, preset: str | None, settings: Mapping[str, Any] | None = None) -> Overrides:
    """The keys of the command line and those of a variant, which say that they come from `--values`."""
    keys = Overrides({**request.config, **(settings or {})}, origin=request.config.origin)
    keys.origins = {**request.config.origins, **dict.fromkeys(settings or {}, "--values")}
    if request.data_path is not None:
        keys["data_path"] = request.data_path
    if preset is not None:
        keys["preset"] = preset
    return keys


def metrics_of(request: Request, base: RunConfig) -> list[str]:
    """The metrics that are drawn: those of the key `metric`, or what runs choose their best epoch by.

    Raises:
        UserError: one that runs do not compute.
    """
    there = base.computed_metrics()
    asked = request.options.get("metric", "").replace(",", " ").split() or [str(base["valid_metric"])]
    keys = list(dict.fromkeys(map(metric_key, asked)))
    for key in keys:
        if key not in map(metric_key, there):
            known = ", ".join(map(printed_name, there))
            raise UserError(f"--metric: runs have no {printed_name(key)}; they have {known} (keys metrics and topk)")
    return keys


def reference_of(grid: Grid, base: RunConfig) -> str | None:
    """The variant that is the model as it is configured without any, which the others are tested against."""
    for variant in grid.variants:
        if all(base[key] == value for key, value in variant.settings.items()):
            return variant.label if len(grid.variants) > 1 else None
    return None


def run_grid(grid: Grid, request: Request, base: RunConfig) -> SuiteResult:
    """Write the grid's suite and make what is missing of its runs.

    Args:
        grid: what is trained.
        request: where, and keys of every run.
        base: of `check_variants`.

    Raises:
        UserError: what a suite refuses, or runs that failed.
        KeyboardInterrupt: after Ctrl-C; the same command goes on.
    """
    file = write_suite(grid, request, reference_of(grid, base))
    threads = request.whole("threads", 1) if "threads" in request.options else None
    result = benchmark(
        file,
        request.config,
        data_path=request.data_path,
        output=request.output,
        max_concurrent=request.whole("max_concurrent", 1),
        threads=threads,
    )
    result.check()
    return result


def write_suite(grid: Grid, request: Request, reference: str | None) -> Path:
    """Write `<name>.yaml` and the printed figures that it names; the file."""
    published = []
    for source in published_files(grid.model):
        shutil.copyfile(source, request.output / source.name)
        published.append(source.name)
    settings = {key: value for key, value in request.config.items() if key not in PLACE_KEYS}
    facts: dict[str, Any] = {
        "about": grid.about,
        "datasets": [grid.dataset],
        "seeds": list(grid.seeds),
        "settings": settings,
        "models": {
            variant.label: {
                "model": grid.model,
                **({"preset": grid.preset} if grid.preset else {}),
                "settings": dict(variant.settings),
                "published": variant.label,
            }
            for variant in grid.variants
        },
        "reference": reference,
        "published": published,
    }
    lines = [f"# Written by `recbole-diff analyse {grid.name}`, which writes it anew. To change and repeat it:"]
    lines.append("# recbole-diff benchmark THIS_FILE --output=ITS_FOLDER --data_path=FOLDER finds finished runs again.")
    lines += [f"# Not trained: {value}: {reason}" for value, reason in grid.refused.items()]
    text = yaml.safe_dump({key: value for key, value in facts.items() if value}, sort_keys=False, allow_unicode=True)
    file = request.output / f"{grid.name}.yaml"
    write_text_atomically(file, "\n".join(lines) + "\n" + text)
    return file


def published_files(model: str) -> list[Path]:
    """The files of figures that papers printed of a model's variants, `<Model>.<what>.json`."""
    return sorted(PUBLISHED.glob(f"{model}.*.json"))
