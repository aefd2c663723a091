"""What a sweep gains by two trials at a time, and what Ray adds to a trial.

    python benchmarks/tune_concurrency.py --data_path=DATA
    python benchmarks/tune_concurrency.py --data_path=DATA --try_out

The same configurations of one model, one core each, in three ways: in a plain loop of runs without Ray, in a sweep one
trial at a time, and in a sweep two at a time. The data are prepared before, into a cache of this benchmark's own, and
every trial's log must say that it took them from there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from measuring import Load, Progress, code_version, command_line, machine, now, say  # noqa: E402

from recbole_diffusion.ray_session import ray_running  # noqa: E402

CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "n_layers": 2,
    "n_heads": 2,
    "num_steps": 16,
    "item_init_std": 0.02,
    "MAX_ITEM_LIST_LENGTH": 20,
    "eval_step": 5,
    "stopping_step": 1000,
}
TINY: dict[str, Any] = {**CONFIG, "hidden_size": 8, "n_layers": 1, "num_steps": 4, "eval_step": 1}
LEARNING_RATES = [0.001, 0.002, 0.0005, 0.0015, 0.003, 0.0007, 0.0012, 0.0025]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Two trials at a time against one, and Ray's overhead.")
    parser.add_argument("--data_path", required=True, help="folder of the datasets")
    parser.add_argument("--dataset", default="beauty-mini", help="(%(default)s)")
    parser.add_argument("--model", default="DiffuRec", help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="of a trial; choose a trial of a minute (%(default)s)")
    parser.add_argument("--trials", type=int, default=4, help="of each sweep, at most 8 (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of all three ways (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "tune_concurrency.json"), help="JSON (%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="tiny sizes, to see that the command works")
    options = parser.parse_args()
    if options.try_out:
        options.epochs, options.trials, options.repeats = 2, 3, 1
    return options


def loop(options: argparse.Namespace, config: dict[str, Any], rates: list[float], place: Path) -> list[float]:
    """Train the configurations one after the other without Ray; seconds of each, from reading the data on."""
    from recbole_diffusion.config import RunConfig
    from recbole_diffusion.session import TrainingSession
    from recbole_diffusion.training.run_folder import RunFolder
    from recbole_diffusion.tuning.trial import opened

    seconds = []
    for rate in rates:
        began = time.perf_counter()
        given = {**config, "learning_rate": rate, "num_threads": 1, "use_gpu": False, "show_progress": False}
        settings = RunConfig(options.model, options.dataset, (), given)
        with opened(settings):
            TrainingSession(settings, RunFolder.create(place / "loop", "run")).train()
        seconds.append(time.perf_counter() - began)
    return seconds


def sweep(
    options: argparse.Namespace, config: dict[str, Any], rates: list[float], place: Path, at_a_time: int
) -> dict[str, Any]:
    """A sweep over the same configurations: its seconds, those between the ends of its trials, who read the data."""
    from recbole_diffusion.tuning.sweep import tune

    result = tune(
        options.model, options.dataset, {"learning_rate": {"grid": rates}}, config, storage_path=place / "sweeps",
        num_trials=1, max_concurrent=at_a_time, gpus_per_trial=0, show_progress=False,
    )  # fmt: skip
    facts = json.loads((result.folder / "tune_result.json").read_text())
    ends = sorted(_last_report(file)["timestamp"] for file in result.folder.glob("trial_*/result.json"))
    logs = [(result.folder / row.checkpoint / "run.log").read_text() for row in result.trials if row.checkpoint]
    found = {
        "seconds": facts["seconds"],
        "after_first": [later - earlier for earlier, later in itertools.pairwise(ends)],
        "from_cache": sum("prepared data from the cache" in log for log in logs),
        "trials": len(logs),
    }
    shutil.rmtree(result.folder)
    return found


def _last_report(file: Path) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(file.read_text().splitlines()[-1])
    return last


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the JSON's content."""
    import torch

    from recbole_diffusion.config import RunConfig
    from recbole_diffusion.tuning.preparation import prepare_data

    rates = LEARNING_RATES[: options.trials]
    load, progress = Load(), Progress("sweeps", 3 * options.repeats)
    repeats: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        config = {
            **(TINY if options.try_out else CONFIG),
            "epochs": options.epochs,
            "data_path": os.path.abspath(options.data_path),
            "cache_dir": str(place / "cache"),
        }
        prepare_data(RunConfig(options.model, options.dataset, (), config))
        with ray_running(None, num_cpus=2, object_store_memory=200 * 2**20):
            for _ in range(options.repeats):
                plain = loop(options, config, rates, place)
                progress.step(f"loop {sum(plain):.0f} s")
                one = sweep(options, config, rates, place, 1)
                progress.step(f"one at a time {one['seconds']:.0f} s")
                two = sweep(options, config, rates, place, 2)
                progress.step(f"two at a time {two['seconds']:.0f} s")
                repeats.append({"loop": plain, "one": one, "two": two})
    return {
        "benchmark": "tune_concurrency",
        "command": command_line(),
        "time": now(),
        "code": code_version(HERE),
        "try_out": options.try_out,
        "model": options.model,
        "dataset": options.dataset,
        "epochs": options.epochs,
        "trials": options.trials,
        "repeats": repeats,
        "summary": summary(repeats),
        "machine": machine(torch.device("cpu")),
        "load": load.report(),
    }


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians: how many times sooner two at a time are done; what Ray adds to a trial after the first, as a share."""
    sooner = [found["one"]["seconds"] / found["two"]["seconds"] for found in repeats]
    added = [statistics.mean(found["one"]["after_first"]) / statistics.mean(found["loop"][1:]) - 1 for found in repeats]
    sweeps = [found[way] for found in repeats for way in ("one", "two")]
    return {
        "sooner": round(statistics.median(sooner), 3),
        "sooner_spread": [round(min(sooner), 3), round(max(sooner), 3)],
        "trial_seconds": round(statistics.median([statistics.mean(found["loop"][1:]) for found in repeats]), 2),
        "overhead": round(statistics.median(added), 4),
        "overhead_spread": [round(min(added), 4), round(max(added), 4)],
        "from_cache": sum(found["from_cache"] for found in sweeps),
        "trials": sum(found["trials"] for found in sweeps),
    }


def main() -> int:
    """Measure and write the JSON."""
    options = arguments()
    result = measure(options)
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    found = result["summary"]
    say(f"two at a time are done {found['sooner']} times sooner; Ray adds {100 * found['overhead']:.1f} % to a trial")
    say(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
