"""Tables and learning curves in benchmarks/results, rendered from the raw files beside them; none is typed by hand.

    python benchmarks/render.py                  write every table, curve and figure
    python benchmarks/render.py --check          change nothing; fail when one differs from what its raw files give
    python benchmarks/render.py --add=RUN_FOLDER --name=NAME [--label=TEXT]
                                                 take a run's result.json, metrics.csv and config.yaml, then render

results/<benchmark>.json gives results/<benchmark>.md. The folders results/runs/<name>, each with result.json,
metrics.csv and config.yaml, give results/quality_<dataset>.md and results/learning_curves_<dataset> as .csv, .svg and
.png.

Published figures to compare with stand in published/*.json with their source. Figures need matplotlib; without it
they are left as they are, and --check still knows whether they show the present curves, whose digest they carry.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_path_table import render_data_path
from full_ranking_table import render_full_ranking
from markdown_tables import number, signed, table
from speed_multi_interest_table import render_speed_multi_interest

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PUBLISHED = HERE / "published"


@dataclass(frozen=True)
class Columns:
    """What the tables and curves of a protocol show.

    Attributes:
        protocol: in words.
        metrics: columns of the table, in percent.
        curves: validation metrics that are drawn.
        chosen_by: validation metric of the table of efforts.
    """

    protocol: str
    metrics: tuple[str, ...]
    curves: tuple[str, str]
    chosen_by: str


PROTOCOLS = {
    "leave_one_out": Columns(
        "leave-one-out", ("HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20"), ("HR@10", "NDCG@10"), "NDCG@10"
    ),
    "user_split_multi": Columns(
        "users apart, the last fifth of a user's items asked for at once",
        ("RECALL@20", "HR@20", "RECALL@50", "HR@50"),
        ("RECALL@50", "HR@50"),
        "RECALL@50",
    ),
    "user_split_next": Columns(
        "users apart, one next item asked for",
        ("HR@10", "HR@20", "HR@50", "NDCG@10", "NDCG@20", "NDCG@50"),
        ("HR@50", "NDCG@50"),
        "HR@50",
    ),
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito, told apart by everyone
RUN_FILES = ("result.json", "metrics.csv", "config.yaml")
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~])(?:/[\w.+-]+)+/([\w.+-]+)")  # of these only the last part is kept


class RawFileError(ValueError):
    """A raw file that cannot be rendered; the message names it."""


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        RawFileError: it is no JSON (file:line).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RawFileError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error


# Speed ---------------------------------------------------------------------------------------------------------------


def render_speed(raw: Mapping[str, Any], name: str) -> str:
    """Table of a speed benchmark: ours, the yardstick, their ratio and its spread."""
    machine = raw["machine"]
    settings = raw["settings"]
    model = settings.get("model", "DiffuRec")
    text = [f"# Speed of {model} against a plain implementation ({settings['dataset']}, {machine['device']})\n"]
    if settings["try_out"]:
        text.append("**A tiny model, to see that the command works: the numbers mean nothing.**\n")
    rows = []
    for part, what in (("training", "training"), ("inference", "inference, whole reverse chain and scores")):
        if part in raw:
            section = raw[part]
            ratio = section["ratio"]
            rows.append(
                [
                    f"{what}, {section['unit']}",
                    number(section["ours"]["median"], 1),
                    number(section["yardstick"]["median"], 1),
                    f"{number(ratio['median'])} times",
                    f"{number(ratio['min'])} to {number(ratio['max'])}",
                ]
            )
    if "memory" in raw:
        memory = raw["memory"]
        grown = {
            side: (memory[side]["device"] if memory["of"] == "device" else memory[side])["growth_mib"]
            for side in ("ours", "yardstick")
        }
        rows.append(
            [
                f"peak memory of training steps ({memory['of']}), {memory['unit']}",
                number(grown["ours"], 0),
                number(grown["yardstick"], 0),
                f"{number(100 * memory['share'], 1)} %",
                "",
            ]
        )
    text.append(table(["", "ours", "plain", "ours to plain, median of pairs", "smallest to largest"], rows))
    if "training" in raw:
        seconds = raw["rows"]["training"] / raw["training"]["ours"]["median"]
        text.append(f"An epoch of {raw['rows']['training']:,} rows takes ours {number(seconds, 1)} s at that rate.\n")
    for part in ("training", "inference"):
        if part in raw:
            section = raw[part]
            verdict = "the ratio counts" if section["counts"] else "**the ratio does not count**"
            if settings["try_out"]:
                continue
            if section["yardstick_floor"] is None:
                continue
            text.append(
                f"The plain implementation reached {number(section['yardstick']['median'], 1)} {section['unit']} in "
                f"{part}; its floor is {number(section['yardstick_floor'], 0)}, so {verdict}.\n"
            )
    if "memory" in raw:
        by_step = raw["memory"]["ours"]["growth_mib_by_step"]
        steps = {side: raw["memory"][side]["steps"] for side in ("ours", "yardstick")}
        text.append(
            f"Memory was watched over {steps['ours']} steps of ours, and {steps['yardstick']} of the plain one, whose "
            "tensors never change size. Ours had grown by "
            + ", ".join(f"{number(grown, 0)} MiB after {step}" for step, grown in by_step.items())
            + " steps.\n"
        )
    parity = raw["parity"]
    text.append(
        f"With every random number fixed and dropout off the two differed by at most {parity['worst']:.1e} "
        f"on {parity['rows']} rows (user vectors, loss, scores, item gradient; allowed {parity['tolerance']:.0e}).\n"
    )
    if "evaluation" in raw:
        part = raw["evaluation"]
        text.append("## Full evaluation\n")
        text.append(
            table(
                ["", "value"],
                [
                    ["users, items, reverse steps", f"{part['users']:,}, {part['items']:,}, {part['reverse_steps']}"],
                    ["seconds", number(part["seconds"], 1)],
                    ["users/s", number(part["users_per_second"], 1)],
                    ["seconds in the network", number(part["network_seconds"], 1)],
                    ["seconds in scores of all items", number(part["score_seconds"], 1)],
                    ["seconds elsewhere (loader, top-k, metrics)", number(part["other_seconds"], 1)],
                    ["share outside the network", f"{number(100 * part['share_outside_network'], 2)} %"],
                ],
            )
        )
    text.append("## How it was measured\n")
    load = machine["load"]
    before = load["average_before"]
    busy = load["cores_busy_with_others"]
    text.append(
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                ["machine", f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"],
                ["device", machine["device"]],
                ["versions", f"Python {machine['python']}, torch {machine['torch']}"],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["cores busy with other processes, mean", number(busy)],
                ["pairs", str(settings["repeats"])],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)


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
    "full_ranking": render_full_ranking,
    "speed_diffurec": render_speed,
    "speed_multi_interest": render_speed_multi_interest,
    "speed_diffurecsys": render_speed,
}


# Quality -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What is kept of one run."""

    name: str
    label: str
    compare_with: str
    """Name of the published model its metrics stand beside."""
    facts: Mapping[str, Any]
    epochs: Sequence[Mapping[str, str]]

    @property
    def dataset(self) -> str:
        """The dataset it ran on."""
        return str(self.facts["dataset"])

    @property
    def protocol(self) -> str:
        """The word for which rows train and test."""
        facts = self.facts.get("protocol")
        word = facts.get("protocol", "leave_one_out") if isinstance(facts, Mapping) else facts or "leave_one_out"
        return str(word)

    @property
    def columns(self) -> Columns:
        """What is shown of it.

        Raises:
            RawFileError: its protocol has no table.
        """
        if self.protocol not in PROTOCOLS:
            raise RawFileError(
                f"run {self.name} has protocol {self.protocol}, which has no table; allowed: {', '.join(PROTOCOLS)}"
            )
        return PROTOCOLS[self.protocol]

    @property
    def table(self) -> str:
        """Runs of one table share dataset and protocol."""
        return self.dataset if self.protocol == "leave_one_out" else f"{self.dataset}_{self.protocol}"

    def test_metrics(self) -> dict[str, float]:
        """Test metrics in percent by their printed names; empty while a run is unfinished."""
        return in_percent(self.facts.get("test_result") or {})

    def validation_curve(self) -> list[tuple[int, dict[str, float]]]:
        """(epoch, validation metrics in percent) of the epochs that were validated."""
        curve = []
        for row in self.epochs:
            metrics = {key[len("valid_") :]: value for key, value in row.items() if key.startswith("valid_") and value}
            metrics.pop("seconds", None)
            if metrics:
                curve.append((int(row["epoch"]), in_percent({key: float(value) for key, value in metrics.items()})))
        return curve

    def seconds_per_epoch(self) -> float | None:
        """Median seconds of training an epoch."""
        seconds = sorted(float(row["train_seconds"]) for row in self.epochs if row.get("train_seconds"))
        return seconds[len(seconds) // 2] if seconds else None


def in_percent(metrics: Mapping[str, float]) -> dict[str, float]:
    """RecBole's `hit@10` as `HR@10` in percent, and so on."""
    names = {}
    for key, value in metrics.items():
        kind, _, cut = key.partition("@")
        kind = {"hit": "HR", "hr": "HR"}.get(kind.lower(), kind.upper())
        names[f"{kind}@{cut}"] = 100 * float(value)
    return names


def read_run(folder: Path) -> Run:
    """A run kept under results/runs.

    Raises:
        RawFileError: a file is absent or lacks what a table needs.
    """
    if not (folder / "metrics.csv").is_file():
        raise RawFileError(f"{folder} has no metrics.csv; add a run with --add=RUN_FOLDER --name={folder.name}")
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        epochs = list(csv.DictReader(file))
    result = folder / "result.json"
    facts = read_json(result) if result.is_file() else plain_keys(folder / "config.yaml")
    about = read_json(folder / "about.json") if (folder / "about.json").is_file() else {}
    for key in ("model", "dataset"):
        if key not in facts:
            raise RawFileError(f"{result if result.is_file() else folder / 'config.yaml'} has no '{key}'")
    label = about.get("label") or folder.name
    if about.get("command"):
        facts = {**facts, "command": about["command"]}
    return Run(folder.name, label, about.get("compare_with") or str(facts["model"]), facts, epochs)


def plain_keys(path: Path) -> dict[str, str]:
    """Top-level `key: value` lines of a YAML file as text; enough for the facts of an unfinished run."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.match(r"([A-Za-z_]\w*): +([^{\[].*)$", line) for line in lines)
    return {match[1]: match[2].strip() for match in found if match}


def published_values() -> list[dict[str, Any]]:
    """Every file of published figures."""
    return [read_json(path) for path in sorted(PUBLISHED.glob("*.json"))]


def render_quality(name: str, runs: Sequence[Run], published: Sequence[Mapping[str, Any]]) -> str:
    """Table of the runs on one dataset by one protocol beside the published figures."""
    columns = runs[0].columns
    text = [f"# Quality on {runs[0].dataset}: {columns.protocol}, full ranking, test metrics in percent\n"]
    rows: list[list[str]] = []
    targets = list(dict.fromkeys(run.compare_with for run in runs))
    for target in targets:
        members = [run for run in runs if run.compare_with == target]
        for run in members:
            rows.append([run.label] + [number(run.test_metrics().get(metric), 4) for metric in columns.metrics])
        for source in published:
            printed = source["values"].get(name, {}).get(target)
            if printed is None:
                continue
            rows.append(
                [f"{target} in the {source['short']}"] + [number(printed.get(metric), 4) for metric in columns.metrics]
            )
            for run in members:
                got = run.test_metrics()
                if got:
                    away = [
                        got[metric] - printed[metric] if {metric} <= got.keys() & printed.keys() else None
                        for metric in columns.metrics
                    ]
                    rows.append([f"{run.label}: difference"] + [signed(value) for value in away])
    notes = [
        f"{run.label}: unfinished, {len(run.epochs)} epochs so far; no test metrics yet.\n"
        for run in runs
        if not run.test_metrics()
    ]
    text.append(table(["run", *columns.metrics], rows))
    text += notes
    for source in published:
        if any(target in source["values"].get(name, {}) for target in targets):
            text.append(f"{source['short']}: {source['source']} ({source['protocol']}).\n")
    text.append("## Best validation, and what it took\n")
    text.append(
        table(
            [
                "run",
                f"best validation {columns.chosen_by}",
                "at epoch",
                "epochs",
                "s per epoch",
                "device",
                "seed",
                "wall time, h",
            ],
            [effort(run) for run in runs],
        )
    )
    text.append(f"![Validation metrics by epoch](learning_curves_{name}.svg)\n")
    text.append(f"The numbers behind the curves: [learning_curves_{name}.csv](learning_curves_{name}.csv).\n")
    text.append("## Commands\n")
    for run in runs:
        command = run.facts.get("command", "unfinished, see its configuration")
        text.append(f"{run.label}: `{command}`, {code_of(run)}; [raw files](runs/{run.name}/).\n")
    return "\n".join(text)


def code_of(run: Run) -> str:
    """Version and commit a run was made with."""
    code = run.facts.get("code")
    if not isinstance(code, Mapping):
        return "code not recorded"
    commit = str(code.get("commit") or "")[:12]
    return (
        f"version {code.get('version')}"
        + (f", commit {commit}" if commit else "")
        + (", with uncommitted changes" if code.get("modified") else "")
    )


def effort(run: Run) -> list[str]:
    """One line of the second table."""
    metric = run.columns.chosen_by
    curve = [(metrics[metric], -epoch) for epoch, metrics in run.validation_curve() if metric in metrics]
    best, epoch = max(curve, default=(None, None))
    wall = run.facts.get("wall_seconds")
    return [
        run.label,
        number(best, 4),
        "–" if epoch is None else str(-epoch),
        str(len(run.epochs)),
        number(run.seconds_per_epoch(), 1),
        str(run.facts.get("device", "–")),
        str(run.facts.get("seed", "–")),
        number(wall / 3600 if isinstance(wall, (int, float)) else None),
    ]


def curves_as_csv(runs: Sequence[Run]) -> str:
    """Validation metrics of all runs, one line an epoch and run, in percent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = runs[0].columns.metrics
    writer.writerow(["run", "epoch", *names])
    for run in runs:
        for epoch, metrics in run.validation_curve():
            cells = [f"{metrics[name]:.4f}" if name in metrics else "" for name in names]
            writer.writerow([run.name, epoch, *cells])
    return stream.getvalue()


def digest(text: str) -> str:
    """What a figure carries to say which curves it shows."""
    return "curves sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def draw_curves(dataset: str, runs: Sequence[Run], mark: str, paths: Sequence[Path]) -> bool:
    """Draw validation metrics by epoch into each of `paths`; False where matplotlib is absent."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    with matplotlib.rc_context({"svg.hashsalt": dataset, "font.size": 10, "svg.fonttype": "path"}):
        shown = runs[0].columns.curves
        figure, panels = pyplot.subplots(1, len(shown), figsize=(5.2 * len(shown), 3.6), layout="constrained")
        for panel, metric in zip(panels, shown):
            for index, run in enumerate(runs):
                points = [(epoch, row[metric]) for epoch, row in run.validation_curve() if metric in row]
                if points:
                    colour = COLOURS[index % len(COLOURS)]
                    panel.plot(*zip(*points), label=run.label, color=colour, marker="o", markersize=2.5, linewidth=1.4)
            panel.set_xlabel("epoch")
            panel.set_ylabel(f"{metric}, validation, percent")
            panel.set_xlim(left=0)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.spines[["top", "right"]].set_visible(False)
        panels[0].legend(frameon=False, fontsize=9)
        figure.suptitle(dataset, fontsize=11)
        for path in paths:
            metadata: dict[str, Any] = {"Description": mark}
            if path.suffix == ".svg":
                metadata["Date"] = None
            figure.savefig(path, dpi=150, metadata=metadata)
        pyplot.close(figure)
    return True


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
    for dataset, members in runs.items():
        texts[results / f"quality_{dataset}.md"] = render_quality(dataset, members, published)
        texts[results / f"learning_curves_{dataset}.csv"] = curves_as_csv(members)
    return texts, runs


def figures(results: Path, dataset: str) -> list[Path]:
    """Where the figures of a dataset's curves lie."""
    return [results / f"learning_curves_{dataset}{suffix}" for suffix in (".svg", ".png")]


def write(results: Path) -> list[Path]:
    """Render everything; the files written."""
    texts, runs = rendered_texts(results)
    written = list(texts)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8", newline="\n")
    for dataset, members in runs.items():
        paths = figures(results, dataset)
        mark = digest(texts[results / f"learning_curves_{dataset}.csv"])
        if draw_curves(dataset, members, mark, paths):
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


def add_run(run_folder: Path, name: str, about: Mapping[str, str | None], results: Path) -> Path:
    """Keep the small files of a run under results/runs/<name>, without the folders of the machine it ran on.

    `about` may say `label`, `compare_with` (a published model) and `command` (for a run started from Python).

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
            about = {key: getattr(options, key) for key in ("label", "compare_with", "command")}
            add_run(Path(options.add), options.name, about, results)
        for path in write(results):
            print(path.name)
    except RawFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
