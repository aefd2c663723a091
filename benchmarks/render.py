"""Tables and learning curves in benchmarks/results, rendered from the raw files beside them; none is typed by hand.

    python benchmarks/render.py                  write every table, curve and figure
    python benchmarks/render.py --check          change nothing; fail when one differs from what its raw files give
    python benchmarks/render.py --add=RUN_FOLDER --name=NAME [--label=TEXT]
                            [--main]             take a run's result.json, metrics.csv and config.yaml, then render

results/<benchmark>.json gives results/<benchmark>.md. The folders results/runs/<name>, each with result.json,
metrics.csv and config.yaml, give results/quality_<dataset>.md and results/learning_curves_<dataset> as .csv, .svg and
.png, and those that are a model's main run (--main) results/every_model.md.

Published figures to compare with stand in published/*.json with their source. Figures need matplotlib; without it
they are left as they are, and --check still knows whether they show the present curves, whose digest they carry.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_path_table import render_data_path
from dimerec_parts_table import render_dimerec_parts
from few_steps_table import render_few_steps
from full_ranking_table import render_full_ranking
from inference_speed_table import render_inference_speed
from large_catalogue_table import render_large_catalogue
from learning_curves import curves_as_csv, digest, draw_curves
from markdown_tables import table
from quality_runs import RawFileError, Run, published_values, read_json, read_run
from quality_tables import render_comparison, render_quality
from render_thousand_table import render_thousand
from retrieval_speed_table import render_retrieval_speed
from search_table import render_search
from service_load_table import render_service_load
from speed_multi_interest_table import render_speed_multi_interest
from speed_table import render_speed
from suite_overhead_table import render_suite_overhead
from tune_table import render_tune_asha, render_tune_concurrency
from workers_table import render_workers_speed, render_workers_step_cost

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
RUN_FILES = ("result.json", "metrics.csv", "config.yaml")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~])(?:/[\w.+-]+)+/([\w.+-]+)")  # of these only the last part is kept


def render_flat(raw: Mapping[str, Any], name: str) -> str:
    """Any other benchmark: every value by its path."""

    def walk(value: Any, path: str) -> Iterable[tuple[str, str]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from walk(inner, f"{path}.{key}" if path else str(key))
        else:
            yield path, f"`{value}`" if isinstance(value, str) else json.dumps(value)

    return f"# {name}\n\n" + table(["", "value"], walk(raw, "")) + f"\nRaw file: [{name}.json]({name}.json).\n"


RENDERERS: dict[str, Callable[[Mapping[str, Any], str], str]] = {
    "data_path": render_data_path,
    "dimerec_parts": render_dimerec_parts,
    "search": render_search,
    "few_steps": render_few_steps,
    "full_ranking": render_full_ranking,
    "inference_speed": render_inference_speed,
    "large_catalogue": render_large_catalogue,
    "render_thousand": render_thousand,
    "retrieval_speed": render_retrieval_speed,
    "service_load": render_service_load,
    "speed_diffurec": render_speed,
    "speed_multi_interest": render_speed_multi_interest,
    "speed_diffurecsys": render_speed,
    "suite_overhead": render_suite_overhead,
    "tune_asha": render_tune_asha,
    "tune_concurrency": render_tune_concurrency,
    "workers_speed": render_workers_speed,
    "workers_step_cost": render_workers_step_cost,
}


# All of it -----------------------------------------------------------------------------------------------------------


def rendered_texts(results: Path) -> tuple[dict[Path, str], dict[str, list[Run]]]:
    """Every text file that the raw files give, and the runs by dataset."""
    texts: dict[Path, str] = {}
    for path in sorted(results.glob("*.json")):
        raw = read_json(path)
        renderer = RENDERERS.get(raw.get("benchmark", ""), render_flat)
        try:
            texts[path.with_suffix(".md")] = renderer(raw, path.stem)
        except KeyError as error:
            raise RawFileError(f"{path} has no {error}") from error
    runs: dict[str, list[Run]] = {}
    for folder in sorted(path for path in (results / "runs").glob("*") if path.is_dir()):
        run = read_run(folder)
        runs.setdefault(run.table, []).append(run)
    published = published_values()
    if any(run.main for members in runs.values() for run in members):
        texts[results / "every_model.md"] = render_comparison(runs, published)
    for dataset, members in runs.items():
        texts[results / f"quality_{dataset}.md"] = render_quality(dataset, members, published)
        texts[results / f"learning_curves_{dataset}.csv"] = curves_as_csv(members)
    return texts, runs


def figures(results: Path, dataset: str) -> list[Path]:
    """Where the figures of a dataset's curves lie."""
    return [results / f"learning_curves_{dataset}{suffix}" for suffix in (".svg", ".png")]


def drawn(runs: Sequence[Run]) -> Sequence[Run]:
    """The runs whose curves are drawn: the main ones of a table, or all where none is."""
    return [run for run in runs if run.main] or runs


def write(results: Path) -> list[Path]:
    """Render everything; the files written."""
    texts, runs = rendered_texts(results)
    written = list(texts)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    for dataset, members in runs.items():
        paths = figures(results, dataset)
        mark = digest(texts[results / f"learning_curves_{dataset}.csv"])
        if draw_curves(dataset, drawn(members), mark, paths):
            written += paths
        else:
            print(f"no figures for {dataset}: matplotlib is not installed", file=sys.stderr)
    return written


def differences(results: Path) -> list[str]:
    """What differs from the raw files, one line each; empty when nothing does."""
    texts, runs = rendered_texts(results)
    lines = []
    for path, text in texts.items():
        if not path.is_file():
            lines.append(f"{path.name} is missing")
        elif path.read_text(encoding="utf-8") != text:
            lines.append(f"{path.name} is not what its raw files render")
    for path in sorted([*results.glob("*.md"), *results.glob("*.csv")]):
        if path not in texts and path.name != "README.md":
            lines.append(f"{path.name} has no raw file")
    for dataset in runs:
        mark = digest(texts[results / f"learning_curves_{dataset}.csv"]).encode("ascii")
        for path in figures(results, dataset):
            if not path.is_file():
                lines.append(f"{path.name} is missing")
            elif mark not in path.read_bytes():
                lines.append(f"{path.name} does not show the present learning curves")
    return lines


def add_run(run_folder: Path, name: str, about: Mapping[str, str | bool | None], results: Path) -> Path:
    """Keep the small files of a run under results/runs/<name>, without the folders of the machine it ran on.

    `about` may say `label`, `compare_with` (a published model), `command` (for a run started from Python) and `main`.

    Raises:
        RawFileError: the folder is no run's.
    """
    if not (run_folder / "metrics.csv").is_file():
        raise RawFileError(f"{run_folder} has no metrics.csv; --add takes a run folder")
    target = results / "runs" / name
    target.mkdir(parents=True, exist_ok=True)
    for file in RUN_FILES:
        if (run_folder / file).is_file():
            text = (run_folder / file).read_text(encoding="utf-8")
            (target / file).write_text(ABSOLUTE_PATH.sub(r"\1", text), encoding="utf-8", newline="\n")
    given = {key: value for key, value in about.items() if value}
    if given:
        (target / "about.json").write_text(json.dumps(given, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, or 1 when something differs or a raw file is wrong."""
    parser = argparse.ArgumentParser(description="Render tables and learning curves from the raw results beside them.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when something differs")
    parser.add_argument("--add", metavar="RUN_FOLDER", help="keep this run's result, metrics and configuration first")
    parser.add_argument("--name", help="folder under results/runs for --add")
    parser.add_argument("--label", help="what tables and curves call the run of --add")
    parser.add_argument("--compare_with", help="published model that the run of --add stands beside (its model's name)")
    parser.add_argument("--main", action="store_true", help="the run of --add stands for its model in every_model.md")
    parser.add_argument(
        "--command", help="command that repeats the run of --add, where its result.json has none to show"
    )
    parser.add_argument("--results", default=str(RESULTS), help="folder of raw and rendered files (benchmarks/results)")
    options = parser.parse_args(arguments)
    if options.add and not options.name:
        parser.error("--add needs --name")
    if options.add and options.check:
        parser.error("--check changes nothing, so --add does not go with it")
    results = Path(options.results)
    try:
        if options.check:
            lines = differences(results)
            for line in lines:
                print(f"error: {line}; run python benchmarks/render.py", file=sys.stderr)
            return 1 if lines else 0
        if options.add:
            about = {key: getattr(options, key) for key in ("label", "compare_with", "command", "main")}
            add_run(Path(options.add), options.name, about, results)
        for path in write(results):
            print(path.name)
    except RawFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
