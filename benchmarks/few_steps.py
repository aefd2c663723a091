"""Quality against the number of reverse steps, of finished runs of any diffusion models, by every sampler.

    python benchmarks/few_steps.py --runs="DiffuRec=runs/DiffuRec-... DreamRec=runs/DreamRec-..." --data_path=FOLDER

Each run's best checkpoint ranks its test rows (--split=valid: its validation rows) with chains of 1, 2, 4, ... and all
T steps, by each sampler of --samplers. What is looked for is the smallest number of steps that loses at most
--tolerance of the NDCG@10 that the run's own chain has with all T steps; by bisection between two numbers that were
tried, as `reverse_steps: auto` does. Noise and rows are the same in every chain. Nothing is timed: other programs on
the machine do not matter.

What is measured is written at once. The same command given again goes on where it was cut, and measures nothing twice:
figures belong to a checkpoint's weights, its settings, the rows and the chain.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import code_version, command_line, now, say

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # measure this checkout, installed or not
SAMPLERS = ("own", "ddim", "dpm_solver_pp")
METRICS = ("ndcg@10", "hit@10")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="NDCG@10 and HR@10 against reverse steps, by run and sampler.")
    parser.add_argument("--runs", required=True, help="run folders with blanks between, each as NAME=FOLDER or FOLDER")
    parser.add_argument("--data_path", help="folder of the datasets, where it is no longer that of the runs")
    parser.add_argument("--samplers", default=",".join(SAMPLERS), help="own: the run's own keys; names (%(default)s)")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="rows (%(default)s)")
    parser.add_argument("--steps", default="", help="numbers of steps (default: powers of two below T, and T)")
    parser.add_argument("--most_steps", type=int, help="leave out numbers above it, but not T itself")
    parser.add_argument("--tolerance", type=float, default=0.01, help="share of NDCG@10 that may be lost (%(default)s)")
    parser.add_argument("--no_bisection", action="store_true", help="measure the numbers of --steps alone")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of every run, such as eval_batch_size"
    )
    parser.add_argument("--output", default=str(HERE / "results" / "few_steps.json"), help="JSON (%(default)s)")
    options = parser.parse_args(given)
    options.samplers = [name for name in options.samplers.split(",") if name]
    if not 0 <= options.tolerance < 1:
        parser.error(f"--tolerance: got {options.tolerance}, it must be at least 0 and less than 1")
    return options


def named_folders(text: str) -> dict[str, Path]:
    """Run folders by name."""
    folders: dict[str, Path] = {}
    for word in shlex.split(text):
        name, equals, folder = word.partition("=")
        path = Path(folder if equals else word)
        if not path.is_dir():
            raise ValueError(f"--runs: no folder {path}")
        name = name if equals else path.name
        if name in folders:
            raise ValueError(f"--runs: two runs are named {name}; give names as NAME=FOLDER")
        folders[name] = path
    return folders


def chain_of(sampler: str, config: Any) -> dict[str, Any]:
    """The keys of a sampler; the run's own for `own`."""
    own = {key: config[key] for key in ("reverse_sampler", "reverse_eta", "reverse_grid") if key in config}
    return own if sampler == "own" else {**own, "reverse_sampler": sampler, "reverse_eta": 1.0}


class Measurements:
    """Metrics by run, sampler and steps, kept in the output file.

    Args:
        path: of the JSON.
        settings: what all figures share.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "benchmark": "few_steps",
            "command": command_line(),
            "measured": now(),
            "code_version": code_version(HERE),
            "settings": settings,
            "runs": {},
        }
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before.get("benchmark") == "few_steps" and before["settings"]["split"] == settings["split"]:
                self.content["runs"] = before["runs"]

    def run(self, name: str, facts: dict[str, Any]) -> dict[str, Any]:
        """A run's entry; a new one where the file has another checkpoint or other settings under this name."""
        entry = self.content["runs"].get(name, {})
        if {key: entry.get(key) for key in facts} != facts:
            entry = {**facts, "samplers": {}}
        self.content["runs"][name] = entry
        return entry

    def write(self) -> None:
        """Write all of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        temporary.write_text(json.dumps(self.content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path)


def digest(file: Path, config: Any) -> str:
    """Of a checkpoint's file and the run's keys, chain left out."""
    plain = {key: value for key, value in config.to_plain().items() if not key.startswith("reverse_")}
    plain = {key: plain[key] for key in sorted(plain) if key not in ("data_path", "num_threads", "eval_batch_size")}
    return hashlib.sha256(file.read_bytes() + json.dumps(plain, default=str).encode()).hexdigest()


def measure_run(name: str, folder: Path, options: argparse.Namespace, kept: Measurements) -> None:
    """All chains of one run."""
    from recbole_diffusion.analyses.finished_run import open_run
    from recbole_diffusion.analyses.request import Request
    from recbole_diffusion.analyses.reverse_steps import default_grid
    from recbole_diffusion.config import Overrides
    from recbole_diffusion.config_files import parse_value
    from recbole_diffusion.errors import UserError
    from recbole_diffusion.training.reverse_steps_choice import fewest_steps

    keys = {key: parse_value(value) for key, _, value in (word.partition("=") for word in options.set)}
    with tempfile.TemporaryDirectory() as scratch:
        request = Request(
            {"checkpoint": str(folder), "split": options.split},
            Overrides({"show_progress": False, **keys}),
            Path(scratch),
            options.data_path,
        )
        run = open_run(request, samples_for="reverse_steps")
        num_steps = int(run.config["num_steps"])
        numbers = [int(number) for number in options.steps.split(",") if number] or default_grid(num_steps)
        most = options.most_steps or num_steps
        numbers = sorted({n for n in numbers if n <= min(most, num_steps)} | {num_steps})
        facts = {
            "model": run.config["model"],
            "dataset": run.config["dataset"],
            "num_steps": num_steps,
            "rows": len(run),
            "own": {key: str(value) for key, value in chain_of("own", run.config).items()},
            "weights": digest(run.checkpoint, run.config),
        }
        entry = kept.run(name, facts)
        own = chain_of("own", run.config)
        for sampler in options.samplers:
            chain = {**own, **chain_of(sampler, own)}
            found = entry["samplers"].setdefault(sampler, {})
            if "refused" in found:
                continue

            def measure(steps: int, sampler: str = sampler, chain: Any = chain, found: dict[str, Any] = found) -> float:
                if str(steps) not in found:
                    run.session.rebuild({**chain, "reverse_steps": None if steps == num_steps else steps})
                    result, _ = run.evaluate()
                    found[str(steps)] = {metric: result[metric] for metric in METRICS}
                    kept.write()
                    say(f"{name}, {sampler}, {steps} of {num_steps} steps: " + json.dumps(found[str(steps)]))
                return float(found[str(steps)]["ndcg@10"])

            try:
                for steps in numbers:
                    measure(steps)
                by_own = entry["samplers"].get("own", found)
                reference = by_own.get(str(num_steps), found[str(num_steps)])["ndcg@10"]
                few = [found[str(steps)]["ndcg@10"] for steps in numbers if steps < num_steps]
                enough = max(few, default=0.0) >= (1 - options.tolerance) * reference
                if not options.no_bisection and (options.most_steps is None or enough):
                    fewest_steps(
                        lambda steps: reference if steps == num_steps else measure(steps),  # noqa: B023
                        num_steps,
                        options.tolerance,
                    )
            except UserError as error:  # a sampler that is not of this model's process
                entry["samplers"][sampler] = {"refused": str(error)}
                kept.write()
                say(f"{name}, {sampler}: {error}")


def main(given: list[str] | None = None) -> int:
    """Measure and write the JSON."""
    options = arguments(given)
    from recbole_diffusion.errors import UserError

    kept = Measurements(Path(options.output), {"split": options.split, "tolerance": options.tolerance})
    try:
        for name, folder in named_folders(options.runs).items():
            measure_run(name, folder, options, kept)
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    kept.write()
    print(Path(options.output).name)
    return 0


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    sys.exit(main())
