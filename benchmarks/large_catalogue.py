"""Training over a large catalogue: memory of whole steps at a million items, and what doing without logits costs.

    python benchmarks/large_catalogue.py [--items=1000000] [--models=DiffuRec,SASRecCE] [--output=FILE.json]

Steps are those of a run's own trainer: look-ups of histories and targets, loss, backward pass, optimiser. Histories are
random, their lengths as in Amazon Beauty (geometric, 9 items on the mean, at most --history) unless --full_histories.

memory   each side in a process of its own, over --items: the largest resident memory of --steps steps less what the
         process held before the model was built, beside the bytes of parameters, gradients and optimiser state
time     over --time_items: a model with `loss: full` and one with `loss: chunked`, equal weights, take turns in one
         process; losses that differ by more than 1e-4 end the command with an error

chunked    loss: chunked, all items block by block
row_wise   loss: sampled, item_optimizer: row_wise
dense      loss: sampled, item_optimizer: dense
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measuring import Load, Progress, code_version, command_line, machine, now, resident_peak_mib, spread
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # measure this checkout, installed or not
MODELS = ("DiffuRec", "DiffuRecSys", "SASRecCE", "YouTubeDNN")
SIDES: dict[str, dict[str, Any]] = {
    "chunked": {"loss": "chunked"},
    "row_wise": {"loss": "sampled", "item_optimizer": "row_wise"},
    "dense": {"loss": "sampled", "item_optimizer": "dense"},
}
AIMS = {"times_needed": 1.35, "times_as_long": 1.2}
TOLERANCE = 1e-4
MEAN_HISTORY = 9.0
STATUS = Path("/proc/self/status")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Training steps over a large catalogue: memory, and time beside dense."
    )
    parser.add_argument("--items", type=int, default=1_000_000, help="catalogue of the memory part (%(default)s)")
    parser.add_argument("--time_items", type=int, default=100_000, help="catalogue of the time part (%(default)s)")
    parser.add_argument("--models", default="DiffuRec,SASRecCE", help=f"of {', '.join(MODELS)} (%(default)s)")
    parser.add_argument("--sides", default=",".join(SIDES), help="of the memory part (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=512, help="rows of a step (%(default)s)")
    parser.add_argument("--dimension", type=int, default=128, help="hidden_size (%(default)s)")
    parser.add_argument("--history", type=int, default=50, help="longest history (%(default)s)")
    parser.add_argument("--full_histories", action="store_true", help="every history is the longest")
    parser.add_argument("--steps", type=int, default=3, help="steps of each side of the memory part (%(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="pairs of steps of the time part (%(default)s)")
    parser.add_argument("--seed", type=int, default=2023, help="seed of weights and histories (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "large_catalogue.json"), help="JSON (%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="few items, to see that the command works")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    for name, known in (("models", MODELS), ("sides", tuple(SIDES))):
        values = [value for value in getattr(options, name).split(",") if value]
        unknown = [value for value in values if value not in known]
        if unknown:
            parser.error(f"--{name}: {', '.join(unknown)} is not one of {', '.join(known)}")
        setattr(options, name, values)
    for name in ("items", "time_items", "batch_size", "dimension", "history", "steps", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, needs 1 or more")
    if not STATUS.is_file():
        parser.error("resident memory is read from /proc, which this system does not have")
    if options.try_out:
        options.items, options.time_items, options.batch_size, options.repeats, options.steps = 5000, 2000, 16, 2, 2
    return options


class _Items:
    """Stands for a dataset: how many items there are, and nothing else of them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def num(self, field: str) -> int:
        return self.count


def make_batches(options: argparse.Namespace, items: int, count: int) -> list[Any]:
    """Batches of random histories and targets, as a loader gives them."""
    from recbole.data.interaction import Interaction

    generator = torch.Generator().manual_seed(options.seed)
    batches = []
    for _ in range(count):
        lengths = torch.empty(options.batch_size).geometric_(1 / MEAN_HISTORY, generator=generator).long()
        lengths.clamp_(options.history if options.full_histories else 1, options.history)
        width = int(lengths.max())
        histories = torch.randint(1, items + 1, (options.batch_size, width), generator=generator)
        histories[torch.arange(width) >= lengths[:, None]] = 0
        targets = torch.randint(1, items + 1, (options.batch_size,), generator=generator)
        batches.append(Interaction({"item_id_list": histories, "item_length": lengths, "item_id": targets}))
    return batches


def make_trainer(options: argparse.Namespace, model_name: str, items: int, keys: dict[str, Any], folder: Path) -> Any:
    """A run's trainer with its model over `items` items."""
    from recbole.trainer import Trainer

    from recbole_diffusion.config import RunConfig
    from recbole_diffusion.memory_reuse import reuse_freed_memory
    from recbole_diffusion.training.run_folder import RunFolder
    from recbole_diffusion.training.trainer import trainer_class

    given = {
        **keys,
        "hidden_size": options.dimension,
        "MAX_ITEM_LIST_LENGTH": options.history,
        "train_batch_size": options.batch_size,
        "use_gpu": False,
        "show_progress": False,
    }
    if model_name == "SASRecCE":
        given["train_positions"] = "last"  # a target a row, as the others have
    config = RunConfig(model_name, "large_catalogue", (), given)
    config["checkpoint_dir"] = str(folder)
    if config["reuse_memory"]:  # as a run does
        reuse_freed_memory()
    torch.manual_seed(options.seed)
    model = config.model_class(config, _Items(items + 1))
    return trainer_class(Trainer)(config, model, RunFolder(folder))


def resident_mib() -> float:
    """Memory that this process holds now, in MiB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def needed_mib(trainer: Any) -> dict[str, float]:
    """MiB of parameters, of gradients and of the optimiser's state, after a step."""

    def size(tensor: Tensor) -> int:
        if tensor.is_sparse:
            return size(tensor._indices()) + size(tensor._values())
        return tensor.numel() * tensor.element_size()

    parameters = list(trainer.model.parameters())
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    parts = {
        "parameters": parameters,
        "gradients": [parameter.grad for parameter in parameters if parameter.grad is not None],
        "optimiser": [value for value in states if isinstance(value, Tensor)],
    }
    return {name: round(sum(map(size, tensors)) / 2**20, 1) for name, tensors in parts.items()}


def one_step(trainer: Any, batch: Any) -> tuple[float, float, float]:
    """Loss, seconds and processor seconds of a step."""
    began, began_processor = time.perf_counter(), time.process_time()
    loss = trainer._train_epoch([batch], 0)
    return loss, time.perf_counter() - began, time.process_time() - began_processor


def measure_memory(options: argparse.Namespace, model_name: str, side: str) -> dict[str, Any]:
    """In a process of its own: the largest resident memory of whole steps."""
    batches = make_batches(options, options.items, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        # everything is imported once a trainer of a few items is there
        make_trainer(options, model_name, 10, {"loss": "full"}, Path(folder) / "few").tensorboard.close()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again from here
        before = resident_mib()
        trainer = make_trainer(options, model_name, options.items, SIDES[side], Path(folder) / "run")
        steps = [one_step(trainer, batch) for batch in batches]
        grown = resident_peak_mib() - before
        trainer.tensorboard.close()
        needed = needed_mib(trainer)
    return {
        "peak_mib": round(grown, 1),
        "before_mib": round(before, 1),
        "needed_mib": needed,
        "times_needed": round(grown / sum(needed.values()), 4),
        "seconds": [round(seconds, 3) for _, seconds, _ in steps],
        "processor_seconds": [round(seconds, 3) for _, _, seconds in steps],
    }


def measure_time(options: argparse.Namespace, model_name: str) -> dict[str, Any]:
    """In a process of its own: pairs of steps with and without the logits, in turns.

    Raises:
        ArithmeticError: their losses differ.
    """
    batches = make_batches(options, options.time_items, options.repeats + 1)
    taken: dict[str, list[tuple[float, float, float]]] = {"full": [], "chunked": []}
    with tempfile.TemporaryDirectory() as folder:
        trainers = {
            loss: make_trainer(options, model_name, options.time_items, {"loss": loss}, Path(folder) / loss)
            for loss in taken
        }
        for number, batch in enumerate(batches):
            for loss in taken if number % 2 else reversed(taken):
                torch.manual_seed(number)  # equal dropout and noise
                taken[loss].append(one_step(trainers[loss], batch))
        for trainer in trainers.values():
            trainer.tensorboard.close()
    worst = max(abs(one[0] - other[0]) for one, other in zip(taken["full"], taken["chunked"], strict=True))
    if not worst <= TOLERANCE:
        raise ArithmeticError(f"{model_name}: losses of the two differ by {worst:.1e} (allowed {TOLERANCE:.0e})")
    result: dict[str, Any] = {"largest_difference": worst}
    for place, name in ((1, "seconds"), (2, "processor_seconds")):
        # the first pair fills caches and makes the optimiser's state
        columns = {loss: [step[place] for step in steps[1:]] for loss, steps in taken.items()}
        ratios = [ours / theirs for ours, theirs in zip(columns["chunked"], columns["full"], strict=True)]
        result[name] = {**{loss: spread(values) for loss, values in columns.items()}, "times_as_long": spread(ratios)}
    return result


def run_part(part: str, given: list[str]) -> dict[str, Any]:
    """One measurement in a new process.

    Raises:
        RuntimeError: it failed; the last line that it wrote.
    """
    done = subprocess.run(
        [sys.executable, __file__, *given, f"--part={part}"], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode} (out of memory?)"]
        raise RuntimeError(f"{part}: {lines[-1]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def meets_aims(memory: dict[str, Any], timing: dict[str, Any]) -> dict[str, dict[str, bool]]:
    """Whether each model's full softmax is small and fast enough."""
    met: dict[str, dict[str, bool]] = {}
    for model_name, sides in memory.items():
        if "chunked" in sides:
            met.setdefault(model_name, {})["times_needed"] = sides["chunked"]["times_needed"] < AIMS["times_needed"]
    for model_name, figures in timing.items():
        median = figures["seconds"]["times_as_long"]["median"]
        met.setdefault(model_name, {})["times_as_long"] = median <= AIMS["times_as_long"]
    return met


def measure(options: argparse.Namespace, given: list[str]) -> dict[str, Any]:
    """Everything asked for, as the JSON's content."""
    load = Load()
    progress = Progress("measurement", len(options.models) * (len(options.sides) + 1))
    memory: dict[str, Any] = {}
    timing: dict[str, Any] = {}
    for model_name in options.models:
        for side in options.sides:
            found = run_part(f"{model_name}:{side}", given)
            memory.setdefault(model_name, {})[side] = found
            seconds = statistics.median(found["seconds"])
            progress.step(
                f"{model_name} {side}: {found['peak_mib']:.0f} MiB, {found['times_needed']:.3f} times what it needs, "
                f"{seconds:.2f} s a step"
            )
        timing[model_name] = found = run_part(f"{model_name}:time", given)
        progress.step(f"{model_name}: chunked takes {found['seconds']['times_as_long']['median']:.2f} times as long")
    names = (
        "items", "time_items", "batch_size", "dimension", "history", "full_histories", "steps", "repeats", "seed",
        "try_out",
    )  # fmt: skip
    return {
        "benchmark": "large_catalogue",
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE),
        "machine": {**machine(torch.device("cpu")), "load": load.report()},
        "settings": {name: getattr(options, name) for name in names},
        "memory": memory,
        "time": timing,
        "tolerance": TOLERANCE,
        "aims": AIMS,
        "met": meets_aims(memory, timing),
    }


def main() -> None:
    """The command line."""
    options = arguments()
    if options.part:
        logging.disable(logging.WARNING)
        model_name, _, part = options.part.partition(":")
        found = measure_time(options, model_name) if part == "time" else measure_memory(options, model_name, part)
        print(json.dumps(found))
        return
    try:
        result = measure(options, sys.argv[1:])
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    output = Path(options.output)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8", newline="\n")
    print(output.name)


if __name__ == "__main__":
    main()
