"""Training rows per second of two Ray Train workers on two cores beside one worker on one core.

    python benchmarks/workers_speed.py --data_path=FOLDER [--dataset=amazon-beauty] [--models=...] [--repeats=5]
                                       [--output=FILE.json]

Every measurement is a run of the command line with `num_threads: 1`: `num_workers: 1` trains in one thread of one
process, `num_workers: 2` in one thread of each of two. Both train the same rows in the same batches. A run trains
`--epochs` epochs without validation; the first is left out (kernels are prepared, caches filled), the others' seconds
are those of metrics.csv, so that starting Ray and reading the data do not count, and handing gradients over does.

Runs are interleaved (one, two, one, two, ...); what two workers gain is the ratio of rows per second within a pair, its
median over pairs is reported with its spread. Where other processes keep the cores busy the ratio means little: the
share of cores that they had is in the result.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Load, Progress, code_version, command_line, machine, now, say, spread

HERE = Path(__file__).resolve().parent
AIM = 1.5
MODELS = ("DiffuRec", "REMI", "SASRecCE")
SMALL = {"hidden_size": 16, "train_batch_size": 64}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Two Ray Train workers beside one.")
    parser.add_argument("--data_path", required=True, help="folder of the datasets")
    parser.add_argument("--dataset", default="amazon-beauty", help="(%(default)s)")
    parser.add_argument("--models", default=",".join(MODELS), help="(%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers beside one (%(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="of a measurement, the first not counted (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs (%(default)s)")
    parser.add_argument("--train_batch_size", type=int, help="rows of a batch, all workers together (a model's own)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of every run")
    parser.add_argument("--train_noise", default="generator", help="generator or keyed (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "workers_speed.json"), help="(%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="tiny models, one pair: to see that the command works")
    options = parser.parse_args(given)
    wrong = [word for word in options.set if "=" not in word]
    if wrong:
        parser.error(f"--set takes KEY=VALUE, got {wrong[0]}")
    options.models = [name for name in options.models.split(",") if name]
    if options.epochs < 2:
        parser.error("--epochs: the first is not counted, so there must be 2 at least")
    if options.try_out:
        options.repeats, options.epochs = 1, 2
    return options


def measure(model: str, workers: int, options: argparse.Namespace) -> dict[str, Any]:
    """One run: training rows, seconds of each counted epoch, rows per second."""
    keys: dict[str, Any] = {
        "model": model,
        "dataset": options.dataset,
        "data_path": options.data_path,
        "epochs": options.epochs,
        "eval_step": 0,
        "num_workers": workers,
        "num_threads": 1,
        "use_gpu": False,
        "train_noise": options.train_noise,
        "show_progress": False,
    }
    if options.train_batch_size is not None:
        keys["train_batch_size"] = options.train_batch_size
    if options.try_out:
        keys.update(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--{key}={value}" for key, value in keys.items()] + [f"--{word}" for word in options.set]
        command = [sys.executable, "-m", "recbole_diffusion", *words, f"--output={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{model} with {workers} worker(s) failed:\n{done.stderr}")
        (run,) = Path(folder).iterdir()
        (rows,) = re.findall(r"(\d+) training,.* rows", (run / "run.log").read_text(encoding="utf-8"))[-1:]
        with (run / "metrics.csv").open(encoding="utf-8") as stream:
            epochs = list(csv.DictReader(stream))
    seconds = [float(epoch["train_seconds"]) for epoch in epochs[1:]]
    losses = [float(epoch["train_loss"]) for epoch in epochs]
    return {
        "rows": int(rows),
        "seconds": seconds,
        "losses": losses,
        "rows_per_second": round(int(rows) / statistics.median(seconds), 1),
    }


def summary(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rates of both sides and the ratio within pairs."""
    rates = {side: [pair[side]["rows_per_second"] for pair in pairs] for side in ("one", "several")}
    gain = spread([several / one for one, several in zip(rates["one"], rates["several"], strict=True)])
    return {
        "rates": {side: spread(values) for side, values in rates.items()},
        "gain": gain,
        "aim": AIM,
        "met": gain["median"] >= AIM,
        "pairs": list(pairs),
    }


def main() -> None:
    """Measure and write the JSON."""
    options = arguments()
    torch.set_num_threads(1)
    load = Load()
    models = {}
    for model in options.models:
        progress = Progress(model, options.repeats)
        pairs = []
        for _ in range(options.repeats):
            pairs.append({"one": measure(model, 1, options), "several": measure(model, options.workers, options)})
            rates = {side: pairs[-1][side]["rows_per_second"] for side in pairs[-1]}
            progress.step(f"1 worker {rates['one']:.0f}, {options.workers} workers {rates['several']:.0f} rows/s")
        models[model] = summary(pairs)
    result = {
        "benchmark": "workers_speed",
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE.parent),
        "machine": {**machine(torch.device("cpu")), "load": load.report()},
        "settings": {
            name: getattr(options, name)
            for name in ("dataset", "workers", "epochs", "repeats", "train_batch_size", "train_noise", "set", "try_out")
        },
        "models": models,
    }
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(f"{options.output}; render it with: python benchmarks/render.py")


if __name__ == "__main__":
    main()
