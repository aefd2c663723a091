"""Full ranking of many users over many items: this project's evaluation beside RecBole's, in one run.

    python benchmarks/full_ranking.py [--users=20000] [--items=200000] [--repeats=3] [--output=FILE.json]

Both rank the same users over the same items with the same model, a product of user and item vectors, and report the
same metrics. Each measurement is a process of its own, so that a peak of memory is one side's; sides alternate.

recbole   RecBole's `Trainer.evaluate`: its collector and its evaluator
scores    ours, the model asked for scores of all items (`full_sort_predict`), as any model of RecBole is
vectors   ours, the model asked for its vectors, as models of this project are
ranks     as `vectors`, and the rank of every target counted, as `save_per_user` and GAUC need it

The vectors are whole numbers whose products are exact in float32, and the first seed from --seed on is taken for which
no target ties with another item, so the sides' metrics must be equal whatever the order of summation; a difference
above 1e-6 ends the command with an error. Targets are drawn so that about half of them
are found.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Load, Progress, code_version, command_line, machine, now, resident_peak_mib
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # measure this checkout, installed or not
SIDES = ("recbole", "scores", "vectors", "ranks")
TOLERANCE = 1e-6
AIMS = {"times_faster": 2.0, "peak_mib": 2048.0}
LARGEST_ENTRY = 300  # 64 products of such numbers stay below 2^24, where float32 is exact
SHARE_OF_TARGET = 0.35  # how much of a user's vector is the target's; about half the targets come among the first 20


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Full ranking beside RecBole's evaluator: seconds and peak memory.")
    parser.add_argument("--users", type=int, default=20_000, help="rows to rank (%(default)s)")
    parser.add_argument("--items", type=int, default=200_000, help="items to rank them over (%(default)s)")
    parser.add_argument("--dimension", type=int, default=64, help="size of the vectors, at most 64 (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=1024, help="rows of a batch, for all sides (%(default)s)")
    parser.add_argument("--rank_memory", type=int, default=256, help="our key of that name, MiB (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side (%(default)s)")
    parser.add_argument("--sides", default=",".join(SIDES), help="what to measure (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--seed", type=int, default=2023, help="seed of vectors and targets (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "full_ranking.json"), help="JSON (%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="few users and items, to see that the command works")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    options.sides = [name for name in options.sides.split(",") if name] if isinstance(options.sides, str) else []
    unknown = [name for name in options.sides if name not in SIDES]
    if unknown or not options.sides:
        parser.error(f"--sides: {', '.join(unknown) or 'nothing'} is not one of {', '.join(SIDES)}")
    for name in ("users", "items", "dimension", "batch_size", "rank_memory", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, needs 1 or more")
    if options.dimension > 64:
        parser.error(f"--dimension: got {options.dimension}, products are exact up to 64")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device=cuda: torch sees no CUDA device here")
    if options.try_out:
        options.users, options.items, options.batch_size, options.repeats = 300, 2000, 64, 1
    return options


@dataclass(frozen=True)
class Task:
    """Vectors of users (U, D) and items (V, D), row 0 of the items padding, and one target (U,) for each user."""

    users: Tensor
    items: Tensor
    targets: Tensor


def make_task(users: int, items: int, dimension: int, seed: int) -> Task:
    """Vectors of whole numbers; a user's vector is near its target's."""
    generator = np.random.default_rng(seed)
    item_vectors = generator.integers(-LARGEST_ENTRY, LARGEST_ENTRY, (items + 1, dimension), endpoint=True)
    targets = generator.integers(1, items + 1, users)
    noise = generator.integers(-LARGEST_ENTRY, LARGEST_ENTRY, (users, dimension), endpoint=True)
    user_vectors = np.round(SHARE_OF_TARGET * item_vectors[targets] + (1 - SHARE_OF_TARGET) * noise)
    return Task(
        torch.from_numpy(user_vectors).float(), torch.from_numpy(item_vectors).float(), torch.from_numpy(targets)
    )


def targets_tie(task: Task, k: int = 20) -> bool:
    """Whether a target among the best `k` has the score of another item: RecBole leaves open which comes first."""
    for users, targets in zip(task.users.split(64), task.targets.split(64)):
        scores = users @ task.items.t()
        scores[:, 0] = -torch.inf
        own = scores.gather(1, targets[:, None])
        tied = (scores == own).sum(1) > 1
        if bool(tied.any()) and bool(((scores > own).sum(1) < k)[tied].any()):
            return True
    return False


class _Items:
    """Stands for a dataset: how many items there are, and nothing else of them."""

    def __init__(self, count: int) -> None:
        self.item_num = count
        self.uid_field, self.iid_field = "user_id", "item_id"

    def num(self, field: str) -> int:
        return self.item_num

    def get_item_feature(self) -> Any:
        from recbole.data.interaction import Interaction

        return Interaction({"item_id": torch.arange(self.item_num)})


def make_loader(task: Task, batch_size: int) -> Any:
    """A loader of evaluation rows as RecBole's trainer takes it."""
    from recbole.data.dataloader import FullSortEvalDataLoader
    from recbole.data.interaction import Interaction

    class Rows(FullSortEvalDataLoader):
        def __init__(self) -> None:
            self._dataset = _Items(len(task.items))

        def __len__(self) -> int:
            return math.ceil(len(task.users) / batch_size)

        def __iter__(self) -> Iterator[Any]:
            for begin in range(0, len(task.users), batch_size):
                rows = torch.arange(begin, min(begin + batch_size, len(task.users)))
                yield Interaction({"user_id": rows}), None, torch.arange(len(rows)), task.targets[rows]

        __setattr__ = object.__setattr__  # torch's loader guards attributes that its own constructor sets

    return Rows()


def make_trainer(options: argparse.Namespace, task: Task, folder: Path) -> Any:
    """The trainer of a side, its model holding the task's vectors."""
    from recbole.model.abstract_recommender import SequentialRecommender
    from recbole.trainer import Trainer
    from recbole.utils import InputType

    from recbole_diffusion.compat import without_recbole_loggers
    from recbole_diffusion.config import RunConfig
    from recbole_diffusion.models.base import DiffusionRecommender
    from recbole_diffusion.training.run_folder import RunFolder
    from recbole_diffusion.training.trainer import trainer_class

    @dataclass(frozen=True)
    class Options:
        score: str = "dot"
        eval_seed: int | None = None
        n_eval_samples: int = 1

    class Scores(SequentialRecommender):
        input_type = InputType.POINTWISE

        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.users = torch.nn.Embedding.from_pretrained(task.users, freeze=False)
            self.items = torch.nn.Embedding.from_pretrained(task.items, freeze=False)

        def full_sort_predict(self, interaction: Any) -> Tensor:
            return self.users(interaction["user_id"]) @ self.items.weight.t()

    class Vectors(DiffusionRecommender):
        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.users = torch.nn.Embedding.from_pretrained(task.users, freeze=False)
            self.items = torch.nn.Embedding.from_pretrained(task.items, freeze=False)

        def user_vectors(self, interaction: Any) -> Tensor:
            return self.users(interaction["user_id"])[:, None]

        def item_vectors(self) -> Tensor:
            return self.items.weight

    Vectors.Options = Options
    ours = options.side in ("vectors", "ranks")
    keys = {
        "use_gpu": options.device.startswith("cuda"),
        "eval_batch_size": options.batch_size,
        "rank_memory": options.rank_memory,
        "show_progress": False,
        "save_per_user": "parquet" if options.side == "ranks" else None,
    }
    config = RunConfig(Vectors if ours else Scores, "full_ranking", (), keys)
    config["checkpoint_dir"] = str(folder)
    model = (Vectors if ours else Scores)(config, _Items(len(task.items))).to(config["device"])
    if options.side == "recbole":
        with without_recbole_loggers():
            return Trainer(config, model)
    return trainer_class(Trainer)(config, model, RunFolder(folder))


def measure_side(options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: seconds, peak memory and metrics of one side."""
    task = make_task(options.users, options.items, options.dimension, options.seed)
    loader = make_loader(task, options.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(options, task, Path(folder))
        on_gpu = options.device.startswith("cuda")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        baseline = resident_peak_mib()
        start = time.perf_counter()
        metrics = trainer.evaluate(loader, load_best_model=False)
        seconds = time.perf_counter() - start
        trainer.tensorboard.close()
    result: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "peak_mib": round(resident_peak_mib(), 1),
        "baseline_mib": round(baseline, 1),
        "metrics": {name: float(value) for name, value in metrics.items()},
    }
    if on_gpu:
        result["device_peak_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return result


def run_side(side: str, given: list[str]) -> dict[str, Any]:
    """`measure_side` in a new process.

    Raises:
        RuntimeError: it failed; the last line that it wrote.
    """
    command = [sys.executable, __file__, *given, f"--side={side}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode} (out of memory?)"]
        raise RuntimeError(f"{side}: {lines[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def check_metrics(results: dict[str, list[dict[str, Any]]]) -> float:
    """The largest difference between two sides' metrics.

    Raises:
        ArithmeticError: it is above the tolerance, or no target was found and nothing is compared.
    """
    all_metrics = [result["metrics"] for side in results.values() for result in side]
    worst = max(abs(metrics[name] - all_metrics[0][name]) for metrics in all_metrics for name in all_metrics[0])
    if not worst <= TOLERANCE:
        raise ArithmeticError(f"the sides' metrics differ by {worst:.1e} (allowed {TOLERANCE:.0e}): {all_metrics}")
    if not min(all_metrics[0].values()) > 0:
        raise ArithmeticError(f"nothing was found, so nothing is compared: {all_metrics[0]}")
    return worst


def summary(results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Seconds and the largest peak of each side, and how many times faster than RecBole it is."""
    sides: dict[str, Any] = {}
    for side, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        sides[side] = {
            "seconds": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
            "peak_mib": max(run["peak_mib"] for run in runs),
            "growth_mib": round(max(run["peak_mib"] - run["baseline_mib"] for run in runs), 1),
        }
        if "device_peak_mib" in runs[0]:
            sides[side]["device_peak_mib"] = max(run["device_peak_mib"] for run in runs)
        if "recbole" in results:
            ratios = [theirs["seconds"] / ours["seconds"] for theirs, ours in zip(results["recbole"], runs)]
            sides[side]["times_faster"] = {
                "median": round(statistics.median(ratios), 3),
                "min": round(min(ratios), 3),
                "max": round(max(ratios), 3),
            }
    return sides


def meets_aims(side: dict[str, Any]) -> dict[str, bool]:
    """Whether a side is fast and small enough; speed only where RecBole was measured too."""
    met = {"peak_mib": side["peak_mib"] < AIMS["peak_mib"]}
    if "times_faster" in side:
        met["times_faster"] = side["times_faster"]["median"] >= AIMS["times_faster"]
    return met


def measure(options: argparse.Namespace, given: list[str]) -> dict[str, Any]:
    """Everything asked for, as the JSON's content."""
    while targets_tie(make_task(options.users, options.items, options.dimension, options.seed)):
        options.seed += 1  # whole numbers tie now and then
    given = [*given, f"--seed={options.seed}"]
    load = Load()
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in options.sides}
    progress = Progress("measurement", options.repeats * len(options.sides))
    for _ in range(options.repeats):
        for side in options.sides:
            result = run_side(side, given)
            results[side].append(result)
            progress.step(f"{side} {result['seconds']:.1f} s, peak {result['peak_mib']:.0f} MiB")
    worst = check_metrics(results)
    sides = summary(results)
    names = ("users", "items", "dimension", "batch_size", "rank_memory", "repeats", "device", "seed", "try_out")
    return {
        "benchmark": "full_ranking",
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE),
        "machine": {**machine(torch.device(options.device)), "load": load.report()},
        "settings": {name: getattr(options, name) for name in names},
        "metrics": results[options.sides[0]][0]["metrics"],
        "largest_difference": worst,
        "tolerance": TOLERANCE,
        "sides": sides,
        "aims": AIMS,
        "met": {side: meets_aims(figures) for side, figures in sides.items() if side != "recbole"},
        "measurements": results,
    }


def main() -> None:
    """The command line."""
    options = arguments()
    if options.side:
        logging.disable(logging.WARNING)
        print(json.dumps(measure_side(options)))
        return
    try:
        result = measure(options, sys.argv[1:])
    except (ArithmeticError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    output = Path(options.output)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")
    print(output.name)


if __name__ == "__main__":
    main()
