"""How long the tables and the report of a thousand finished runs take, from the start of the process to the last file.

    python benchmarks/render_thousand.py [--output=FILE]     about half a minute
    python benchmarks/render_thousand.py --try_out           few runs; the numbers mean nothing

Run folders are made first: `--models` models with `--seeds` seeds on `--datasets` datasets, each with the result.json,
config.yaml (all keys), metrics.csv and per_user/test.parquet that a run leaves. Their metrics are drawn at random, a
user has one target: HR, NDCG and MRR at two cut-offs are those of the target's rank. Every measurement is a process of
its own, as a command that finds all runs finished is. What `recbole-diff benchmark` does besides, planning each run, is
not in it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CUTS = (10, 50)
PHASES = ("imports", "reading", "tables", "files", "report")
AIM = 5.0  # seconds


def make_runs(folder: Path, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Write the run folders."""
    import numpy
    import pyarrow
    import pyarrow.parquet

    draw = numpy.random.default_rng(0)
    names = pyarrow.array([f"user{number}" for number in range(options.users)])
    text = min((HERE / "results" / "runs").glob("*/config.yaml")).read_text(encoding="utf-8")
    config = "".join(
        line
        for line in text.splitlines(keepends=True)
        if not line.startswith(("model:", "dataset:", "seed:", "protocol:"))
    )
    for dataset in range(options.datasets):
        for model in range(options.models):
            for seed in range(1, options.seeds + 1):
                place = folder / "runs" / f"data{dataset}" / f"Model{model}" / f"seed-{seed}"
                run = place / f"Model{model}-20260101-000000"
                (run / "per_user").mkdir(parents=True)
                ranks = draw.geometric(0.01 + 0.001 * model, options.users)
                users, test = {}, {}
                for cut in CUTS:
                    inside = ranks <= cut
                    users[f"hit@{cut}"] = inside.astype(float)
                    users[f"ndcg@{cut}"] = numpy.where(inside, 1 / numpy.log2(ranks + 1), 0.0)
                    users[f"mrr@{cut}"] = numpy.where(inside, 1 / ranks, 0.0)
                test = {name: round(float(values.mean()), 6) for name, values in users.items()}
                table = pyarrow.table(
                    {"row": numpy.arange(options.users, dtype="int32"), "user": names, **users}
                ).replace_schema_metadata({"recbole_diffusion": json.dumps({"split": "test", "result": test}).encode()})
                pyarrow.parquet.write_table(table, run / "per_user" / "test.parquet", compression="zstd")
                head = f"model: Model{model}\ndataset: data{dataset}\nseed: {seed}\nprotocol: leave_one_out\n"
                (run / "config.yaml").write_text(config + head, encoding="utf-8")
                (place / "asked.yaml").write_text(head, encoding="utf-8")
                (place / "log.txt").write_text("\n", encoding="utf-8")
                columns = ["epoch", "train_loss", *(f"valid_{name}" for name in test)]
                epochs = range(1, options.epochs + 1)
                shares = [value / options.epochs for value in test.values()]
                lines = [[epoch, 1 / epoch, *(round(epoch * share, 6) for share in shares)] for epoch in epochs]
                rows = "\n".join(",".join(map(str, line)) for line in [columns, *lines])
                (run / "metrics.csv").write_text(rows + "\n", encoding="utf-8")
                (run / "result.json").write_text(json.dumps(result(model, dataset, seed, test, options), indent=2))
        say(f"runs of dataset {dataset + 1} of {options.datasets} are made")


def result(model: int, dataset: int, seed: int, test: dict[str, float], options: argparse.Namespace) -> dict[str, Any]:
    """What a result.json says."""
    protocol = {"protocol": "leave_one_out", "eval_args": {"mode": {"test": "full"}}, "filter_seen": False}
    return {
        "model": f"Model{model}", "dataset": f"data{dataset}", "seed": seed, "valid_metric": "NDCG@10",
        "best_epoch": options.epochs, "epochs": options.epochs, "valid_result": test, "test_result": test,
        "parameters": 1_000_000, "device": "cpu (1 threads)", "wall_seconds": 60.0 + seed,
        "code": {"version": "0.1.0", "commit": "0" * 40, "modified": False}, "versions": {"python": "3.11.7"},
        "data": {"files": {f"data{dataset}.inter": "0" * 64}, "ids": "0" * 64, "users": options.users, "items": 1000},
        "protocol": protocol, "finished": "2026-01-01T00:00:00+0000",
    }  # fmt: skip


def render(folder: Path, out: Path) -> dict[str, float]:
    """Read all runs, write their tables and the report; seconds of each phase since the process began."""
    marks = [("began", time.perf_counter())]
    from recbole_diffusion.benchmarking.comparison import Comparison
    from recbole_diffusion.benchmarking.results import read_run
    from recbole_diffusion.benchmarking.table_files import write_tables
    from recbole_diffusion.benchmarking.tables import build_tables
    from recbole_diffusion.reporting.page import write_report
    from recbole_diffusion.reporting.suite_report import FINISHED, Contestant, Evaluation, RunState, SuiteReport

    marks.append(("imports", time.perf_counter()))
    places = sorted((folder / "runs").glob("*/*/*"))
    records = [read_run(next(place.glob("*/config.yaml")).parent) for place in places]
    marks.append(("reading", time.perf_counter()))
    tables = build_tables(records, comparison=Comparison(reference="Model0"))
    marks.append(("tables", time.perf_counter()))
    write_tables(tables, out / "tables")
    marks.append(("files", time.perf_counter()))
    runs = [
        RunState(record.label, record.dataset, record.seed or 0, FINISHED, "", place, record)
        for place, record in zip(places, records, strict=True)
    ]
    labels = list(dict.fromkeys(run.label for run in runs))
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    report = SuiteReport(
        name="thousand",
        about="Made runs",
        text="",
        command="",
        settings={},
        datasets=datasets,
        contestants=[Contestant(label, label, "", {}, (1,), datasets) for label in labels],
        runs=runs,
        evaluations=[Evaluation("", {}, tables, out / "tables")],
    )
    page = write_report(report, out)
    marks.append(("report", time.perf_counter()))
    seconds = {name: end - begin for (_, begin), (name, end) in itertools.pairwise(marks)}
    return {**seconds, "page_mib": page.stat().st_size / 2**20, "runs": len(records), "tables_made": len(tables)}


def measure(folder: Path) -> dict[str, float]:
    """One process; its phases, and all of it from its start to its end."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    began, used = time.perf_counter(), sum(os.times()[2:4])
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), f"--render={folder}"],
        capture_output=True,
        text=True,
        check=False,
    )
    whole = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    figures: dict[str, float] = json.loads(done.stdout)
    return {**figures, "process": whole, "processor": sum(os.times()[2:4]) - used}


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Time the tables and the report of many finished runs.")
    for name, default, what in (
        ("models", 20, "rows of a table"),
        ("seeds", 5, "of each"),
        ("datasets", 10, "tables"),
        ("users", 500, "of each dataset"),
        ("epochs", 20, "lines of a metrics.csv"),
        ("repeats", 5, "processes that are timed"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} ({default})")
    parser.add_argument("--output", default=str(HERE / "results" / "render_thousand.json"), help="the raw result")
    parser.add_argument("--try_out", action="store_true", help="few runs and one process; the numbers mean nothing")
    parser.add_argument("--render", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.try_out:
        options.models, options.seeds, options.datasets, options.users, options.repeats = 3, 2, 2, 50, 1
    for name in ("models", "seeds", "datasets", "users", "epochs", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; allowed: 1 or more")
    return options


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    options = arguments(words)
    if options.render:
        folder = Path(options.render)
        print(json.dumps(render(folder, folder / "out")))
        return 0
    import torch
    from measuring import Load, Progress, code_version, command_line, machine, now, say, spread

    with tempfile.TemporaryDirectory(prefix="render-thousand-") as name:
        folder = Path(name)
        make_runs(folder, options, say)
        load, progress = Load(), Progress("rendering", options.repeats)
        measured = []
        for _ in range(options.repeats):
            measured.append(measure(folder))
            progress.step(f"{measured[-1]['process']:.2f} s")
        report = load.report()
    settings = {key: getattr(options, key) for key in ("models", "seeds", "datasets", "users", "epochs", "repeats")}
    content = {
        "benchmark": "render_thousand",
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE.parent),
        "machine": {**machine(torch.device("cpu")), "load": report},
        "settings": {**settings, "runs": measured[0]["runs"], "try_out": options.try_out},
        "aim_seconds": AIM,
        "seconds": {name: spread([one[name] for one in measured]) for name in ("process", "processor", *PHASES)},
        "page_mib": round(measured[0]["page_mib"], 3),
        "met": max(one["process"] for one in measured) < AIM,
    }
    path = Path(options.output)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{content['seconds']['process']['median']:.2f} s; written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
