"""What a suite costs beyond its runs: `recbole-diff benchmark` beside the same commands one after the other.

    python benchmarks/suite_overhead.py --data_path=FOLDER [--suite=benchmarks/suites/quick.yaml] [--repeats=2]

Both sides make the same runs and further evaluations, one at a time and one thread each, with data prepared before. The
suite's side is the command from nothing to its tables; the bare side is a loop over the `asked.yaml` files that the
suite left, which are what a person would have written: `recbole-diff run --config_files=...` and `recbole-diff evaluate
...`. Wall-clock and CPU time, processes included; the latter says little of waiting, but other programs change it less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import torch  # noqa: E402
from measuring import Load, Progress, code_version, command_line, machine, now, say, spread  # noqa: E402

AIM = 0.03


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="A suite beside its bare runs.")
    parser.add_argument("--data_path", required=True, help="folder of the datasets")
    parser.add_argument("--suite", default=str(HERE / "suites" / "quick.yaml"), help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=2, help="pairs (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of every run")
    parser.add_argument("--output", default=str(HERE / "results" / "suite_overhead.json"), help="(%(default)s)")
    options = parser.parse_args(given)
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more")
    return options


def timed(commands: Sequence[Sequence[str]]) -> dict[str, float]:
    """Wall-clock and CPU seconds of commands one after the other.

    Raises:
        RuntimeError: one fails; with what it said.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    for words in commands:
        command = [sys.executable, "-m", "recbole_diffusion", *words]
        done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": round(time.perf_counter() - began, 2), "processor": round(processor, 2)}


def bare_commands(suite_folder: Path, output: Path) -> list[list[str]]:
    """The commands of a person who makes the runs of a suite, and their further evaluations, by hand."""
    plan = json.loads((suite_folder / "suite.json").read_text(encoding="utf-8"))
    commands: list[list[str]] = []
    for number, run in enumerate(plan["runs"]):
        place = output / str(number)
        commands.append(["run", f"--config_files='{suite_folder / run['place'] / 'asked.yaml'}'", f"--output={place}"])
        for name, keys in run["evaluations"].items():
            words = ["evaluate", f"--checkpoint={place}", f"--output={place / name.replace(' ', '-')}"]
            commands.append(words + [f"--{key}={value}" for key, value in {**keys, "num_threads": 1}.items()])
    return commands


def with_checkpoints(commands: Sequence[Sequence[str]]) -> list[list[str]]:
    """Evaluations name the folder that their run has made by then."""
    found = []
    for words in commands:
        place = next((word.partition("=")[2] for word in words if word.startswith("--checkpoint=")), None)
        if place is None:
            found.append(list(words))
            continue
        (run,) = (path.parent for path in Path(place).glob("*/config.yaml"))
        found.append([f"--checkpoint={run}" if word.startswith("--checkpoint=") else word for word in words])
    return found


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Pairs of both sides."""
    progress = Progress("sides", 2 * options.repeats)
    pairs = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch)
            words = ["benchmark", options.suite, f"--data_path={options.data_path}", f"--output={place / 'suite'}"]
            words += ["--threads=1", "--show_progress=False", *(f"--{word}" for word in options.set)]
            suite = timed([words])
            progress.step(f"suite {suite['wall']:.0f} s")
            commands = bare_commands(place / "suite" / Path(options.suite).stem, place / "bare")
            parts = [timed(with_checkpoints([words])) for words in commands]
            bare = {name: round(sum(part[name] for part in parts), 2) for name in ("wall", "processor")}
            progress.step(f"bare {bare['wall']:.0f} s")
            pairs.append({"suite": suite, "bare": bare, "commands": len(commands)})
    return pairs


def summary(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the suite adds, as a share of the bare commands' time."""
    added = {name: [pair["suite"][name] / pair["bare"][name] - 1 for pair in pairs] for name in ("wall", "processor")}
    return {
        **{name: spread(values) for name, values in added.items()},
        "aim": AIM,
        "met": statistics.median(added["wall"]) < AIM,
    }


def main() -> None:
    """Measure and write the JSON."""
    options = arguments()
    from recbole_diffusion.suites.suite import read_suite

    for dataset in read_suite(options.suite).datasets:  # its data are in the cache from here on
        with tempfile.TemporaryDirectory() as scratch:
            keys = [f"--dataset={dataset}", f"--data_path={options.data_path}", f"--output={scratch}"]
            timed([["run", "--model=Popularity", "--epochs=1", *keys]])
    load = Load()
    pairs = measure(options)
    result = {
        "benchmark": "suite_overhead",
        "command": command_line(),
        "time": now(),
        "code": code_version(HERE),
        "suite": Path(options.suite).stem,
        "set": options.set,
        "pairs": pairs,
        "summary": summary(pairs),
        "machine": machine(torch.device("cpu")),
        "load": load.report(),
    }
    path = Path(options.output)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say(f"written: {path}; render it with: python benchmarks/render.py")


if __name__ == "__main__":
    main()
