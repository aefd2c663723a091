"""Sensitivity: test and validation metrics against the values of a key, means over seeds.

    recbole-diff analyse sensitivity --model=DimeRec --dataset=amazon-beauty --vary=ranking_weight --values=[0,0.1,1,10]

Every value is trained with the same seeds (`grid`). Bars are sample standard deviations over seeds, which is what
another training may give; the CSV file also has Student's 95 % interval of the mean. Values stand at equal distances,
in the order given, as in the papers' figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.analyses.grid import (
    SEEDS,
    Grid,
    Variant,
    check_variants,
    given_values,
    metrics_of,
    published_files,
    run_grid,
    variants_of,
)
from recbole_diffusion.analyses.request import Findings, Request
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.benchmarking.metric_names import bigger_is_better, factor, in_order, printed_name, unit
from recbole_diffusion.benchmarking.published import Published, read_published, table_name
from recbole_diffusion.benchmarking.results import RunRecord, read_run
from recbole_diffusion.benchmarking.statistics import mean_interval, summarise
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import COLOURS, error_bars, legend_below, line_style, new_figure, save
from recbole_diffusion.suites.benchmark import SuiteResult

Runs = Mapping[Variant, Sequence[RunRecord]]
LEVEL = 0.95
_WORDS = {"test": "test", "valid": "validation"}


def analyse(request: Request) -> Findings:
    """Vary the key `vary` over `values`.

    Raises:
        UserError: keys are missing or wrong, what a suite refuses, or runs that failed.
    """
    keys = request.options["vary"].replace(",", " ").split()
    if not keys:
        raise UserError("--vary is empty; it takes a KEY of the model or of every run")
    return vary(request, "sensitivity", keys, given_values(request.options["values"]))


def vary(
    request: Request,
    name: str,
    keys: Sequence[str],
    values: Sequence[Any],
    *,
    model: str | None = None,
    refused: Mapping[str, str] | None = None,
) -> Findings:
    """Train a model with each value of some keys, and show what became of it.

    Args:
        request: its keys `model`, `dataset`, `preset`, `seeds`, `metric` and those of a run.
        name: of the analysis.
        keys: which get the value.
        values: see `grid.variants_of`.
        model: where the key `model` is absent.
        refused: values that cannot be trained, and why.

    Raises:
        UserError: what `sensitivity` refuses.
    """
    model, dataset = request.options.get("model", model), request.options["dataset"]
    if model is None:
        raise UserError(f"{name} needs --model=NAME")
    seeds = request.wholes("seeds", SEEDS, least=0)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds must be different ones, got {request.options['seeds']}")
    grid = Grid(
        name=name,
        about=f"{model} on {dataset} with other values of {' and '.join(keys)}",
        model=model,
        dataset=dataset,
        preset=request.options.get("preset"),
        variants=variants_of(keys, values),
        refused=refused or {},
        seeds=tuple(seeds),
    )
    base = check_variants(grid, request)
    metrics = metrics_of(request, base)
    result = run_grid(grid, request, base)
    return _findings(grid, request, keys, metrics, result)


def _findings(
    grid: Grid, request: Request, keys: Sequence[str], metrics: Sequence[str], result: SuiteResult
) -> Findings:
    runs = {variant: _records(result, variant) for variant in grid.variants}
    first = next(iter(runs.values()))[0]
    table = table_name(first.dataset, first.protocol)
    printed = {
        variant: [(source, figures) for source in read_published(published_files(grid.model))
                  if (figures := source.of(table, variant.label))]
        for variant in grid.variants
    }  # fmt: skip
    figure = _drawn(grid, keys, metrics, runs, printed)
    files = save(figure, request.output / grid.name, about=grid.about)
    files.append(_write_means(request, grid.name, runs, printed))
    files.append(_write_runs(request, grid.name, runs))
    files.append(request.output / f"{grid.name}.yaml")
    files += [path for path in result.tables if path.suffix == ".md"]
    return Findings(_text(grid, keys, metrics[0], runs, printed), files)


def _records(result: SuiteResult, variant: Variant) -> list[RunRecord]:
    planned = [run for run in result.runs if run.label == variant.label]
    return [read_run(run.run_folder, run.label) for run in planned if run.run_folder is not None]


Printed = Mapping[Variant, Sequence[tuple[Published, Mapping[str, float]]]]


def _drawn(grid: Grid, keys: Sequence[str], metrics: Sequence[str], runs: Runs, printed: Printed) -> Any:
    figure, panels = new_figure(len(metrics))
    words = [variant.value for variant in runs]
    numeric = all(
        isinstance(value, (int, float)) and not isinstance(value, bool)
        for variant in runs
        for value in variant.settings.values()
    )
    for panel, metric in zip(panels, metrics, strict=True):
        scale = factor(metric)
        for number, split in enumerate(_splits(runs, metric)):
            style, shift = line_style(number), 0.12 * number - 0.06
            if not numeric:  # a line between names would say that there is something between them
                style["linestyle"] = "none"
            values = [[_of(run, split)[metric] * scale for run in variant_runs] for variant_runs in runs.values()]
            summaries = [summarise(of_value) for of_value in values]
            places = [place + shift for place in range(len(values))]
            for place, of_value in zip(places, values, strict=True):
                if len(of_value) > 1:
                    panel.plot([place] * len(of_value), of_value, ".", color=style["color"], alpha=0.4, markersize=4)
            panel.errorbar(
                places,
                [summary.mean for summary in summaries],
                yerr=error_bars([summary.deviation for summary in summaries]),
                capsize=3,
                label=_WORDS[split],
                **style,
            )
        _draw_printed(panel, metric, list(printed.values()))
        slanted = max(map(len, words)) * len(words) > 36
        panel.set_xticks(range(len(words)), words, rotation=35 if slanted else 0, ha="right" if slanted else "center")
        panel.set_xlim(-0.4, len(words) - 0.6)
        panel.set_xlabel(", ".join(keys))
        panel.set_ylabel(", ".join(word for word in (printed_name(metric), unit(metric)) if word))
    legend_below(figure, panels)
    figure.suptitle(f"{grid.model} on {grid.dataset}", fontsize=11)
    return figure


def _draw_printed(panel: Any, metric: str, printed: Sequence[Sequence[tuple[Published, Mapping[str, float]]]]) -> None:
    """Printed figures as stars, a colour a source."""
    sources = dict.fromkeys(source.short for of_value in printed for source, _ in of_value)
    for number, short in enumerate(sources):
        points = [
            (place, figures[metric])
            for place, of_value in enumerate(printed)
            for source, figures in of_value
            if source.short == short and metric in figures
        ]
        if points:
            panel.plot(*zip(*points, strict=True), "*", markersize=9, color=COLOURS[2 + number], label=short)


def _splits(runs: Runs, metric: str) -> list[str]:
    """test, and valid where runs validated."""
    return [name for name in ("test", "valid") if all(metric in _of(run, name) for rs in runs.values() for run in rs)]


def _of(run: RunRecord, split: str) -> Mapping[str, float]:
    return run.test if split == "test" else run.valid


def _write_means(request: Request, name: str, runs: Runs, printed: Printed) -> Path:
    """A line for each value, metric and split, in the unit of tables."""
    rows = []
    for variant, records in runs.items():
        for split in ("test", "valid"):
            for metric in in_order(_of(records[0], split)):
                values = [_of(run, split)[metric] * factor(metric) for run in records]
                summary, interval = summarise(values), mean_interval(values, level=LEVEL)
                ends: list[float | None] = [None, None] if interval is None else [interval.low, interval.high]
                sources = [(f[metric], s.short) for s, f in printed[variant] if metric in f and split == "test"]
                figure, source = sources[0] if sources else (None, None)
                words = [variant.value, variant.label, split, metric, unit(metric)]
                rows.append([*words, summary.number, summary.mean, summary.deviation, *ends, figure, source])
    head = ["value", "label", "split", "metric", "unit", "seeds", "mean", "std", "low_95", "high_95"]
    return request.write_csv(f"{name}.csv", [*head, "printed", "printed_in"], rows)


def _write_runs(request: Request, name: str, runs: Runs) -> Path:
    """A line for each run, metrics as its result has them."""
    first = next(iter(runs.values()))[0]
    rows: list[list[Any]] = [
        [variant.value, run.seed, run.epochs, run.seconds, run.folder.relative_to(request.output).as_posix()]
        + [run.valid.get(metric) for metric in first.valid]
        + [run.test.get(metric) for metric in first.test]
        for variant, records in runs.items()
        for run in records
    ]
    metrics = [f"valid_{metric}" for metric in first.valid] + [f"test_{metric}" for metric in first.test]
    return request.write_csv(f"{name}_runs.csv", ["value", "seed", "epochs", "seconds", "folder", *metrics], rows)


def _text(grid: Grid, keys: Sequence[str], metric: str, runs: Runs, printed: Printed) -> str:
    scale, splits = factor(metric), _splits(runs, metric)
    rows, valid = [], {}
    sources = list(dict.fromkeys(s.short for of_value in printed.values() for s, f in of_value if metric in f))
    for variant, records in runs.items():
        cells = [variant.value]
        for split in splits:
            summary = summarise([_of(run, split)[metric] * scale for run in records])
            cells.append(f"{summary.mean:.4f}" + ("" if summary.deviation is None else f" ± {summary.deviation:.4f}"))
            if split == "valid":
                valid[variant.value] = summary.mean
        figures = {source.short: figures.get(metric) for source, figures in printed[variant]}
        cells += ["" if figures.get(short) is None else f"{figures[short]:g}" for short in sources]
        rows.append(cells)
    number = len(next(iter(runs.values())))
    seeds = f"mean and standard deviation of {number} seeds" if number > 1 else "one seed"
    head = [", ".join(keys), *map(_WORDS.__getitem__, splits), *(f"printed ({short})" for short in sources)]
    words = (f"{grid.model} on {grid.dataset}", printed_name(metric), unit(metric), seeds)
    title = ", ".join(word for word in words if word)
    lines = [title, text_table(head, rows)]
    if valid:
        best = (max if bigger_is_better(metric) else min)(valid.values())
        equal = [value for value, mean in valid.items() if mean == best]
        lines.append(f"best on validation: {', '.join(equal)}" + ", which are equal" * (len(equal) > 1))
    lines += [f"not trained: {value}: {reason}" for value, reason in grid.refused.items()]
    return "\n".join(lines)
