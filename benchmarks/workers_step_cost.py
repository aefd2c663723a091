"""CPU time of a training step in each of several workers, beside one worker's and one's with its share of the rows.

    python benchmarks/workers_step_cost.py --data_path=FOLDER [--dataset=amazon-beauty] [--cases=REMI:128,...]
                                           [--steps=30] [--repeats=3] [--output=FILE.json]

A case is a model and the rows of a batch, all workers together. CPU time counts no waiting, so it says something on a
busy machine too: one worker's divided by each of several is a bound of what they gain (`workers_speed.py` measures the
gain). The share of the rows without anybody to talk to shows what no exchange of gradients can undercut. Threads of
gloo are counted apart. The three are measured one after the other, each in processes of one thread, and again for every
repeat; ratios are taken within a repeat. Linux.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import Load, Progress, code_version, command_line, machine, now, say, spread

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
WARM_UP = 3  # steps
CASES = "DiffuRec:512,SASRecCE:128,REMI:128,REMI:512,REMI:1024"
SMALL = {"hidden_size": 16}


class FirstBatches:
    """The first batches of a loader, as one that ends after them."""

    def __init__(self, loader: Any, batches: int) -> None:
        self._loader, self._batches = loader, batches

    def __iter__(self) -> Iterator[Any]:
        return itertools.islice(iter(self._loader), self._batches)

    def __len__(self) -> int:
        return self._batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def thread_seconds() -> dict[str, float]:
    """CPU seconds of this process's threads so far: of gloo's, and of the others."""
    seconds = {"gloo": 0.0, "computing": 0.0}
    for thread in Path("/proc/self/task").iterdir():
        kind = "gloo" if "gloo" in (thread / "comm").read_text() else "computing"
        seconds[kind] += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def train(keys: dict[str, Any], steps: int, rank: int, size: int, meeting: str) -> dict[str, float]:
    """Milliseconds of CPU time a step, by kind of thread, of one worker.

    Args:
        keys: of the run, model and dataset among them.
        steps: counted ones.
        rank, size: which worker of how many.
        meeting: a file that does not exist, where the workers find each other.

    Raises:
        ValueError: an epoch has fewer steps.
    """
    from torch import distributed

    from recbole_diffusion.config import Overrides, RunConfig
    from recbole_diffusion.session import TrainingSession
    from recbole_diffusion.training.run_folder import RunFolder
    from recbole_diffusion.training.worker_group import WorkerGroup

    torch.set_num_threads(1)
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    model, dataset = keys.pop("model"), keys.pop("dataset")
    config = RunConfig(model, dataset, (), Overrides({**keys, "num_workers": size}))
    with tempfile.TemporaryDirectory() as folder:
        session = TrainingSession(config, RunFolder(Path(folder), writes=rank == 0), WorkerGroup.joined())
        if len(session.train_data) < steps:
            raise ValueError(f"an epoch has {len(session.train_data)} batches; lower --steps, which is {steps}")
        session.trainer._train_epoch(FirstBatches(session.train_data, WARM_UP), 0)
        before = thread_seconds()
        session.trainer._train_epoch(FirstBatches(session.train_data, steps), 1)
        after = thread_seconds()
    if size > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    return {kind: 1000 * (after[kind] - before[kind]) / steps for kind in after}


def measure(keys: dict[str, Any], steps: int, size: int) -> dict[str, float]:
    """The mean over `size` workers, each a process."""
    with tempfile.TemporaryDirectory() as folder:
        given = [json.dumps(keys), str(steps), str(size), str(Path(folder) / "meeting")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", str(rank), *given],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            )
            for rank in range(size)
        ]  # fmt: skip
        found = []
        for worker in workers:
            output, errors = worker.communicate()
            if worker.returncode:
                raise RuntimeError(errors)
            found.append(json.loads(output.splitlines()[-1]))
    return {kind: sum(one[kind] for one in found) / size for kind in found[0]}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `cases` are pairs of model and rows."""
    parser = argparse.ArgumentParser(description="CPU time of a step in each of several workers.")
    parser.add_argument("--data_path", required=True, help="folder of the datasets")
    parser.add_argument("--dataset", default="amazon-beauty", help="(%(default)s)")
    parser.add_argument("--cases", default=CASES, help="model:rows of a batch, all workers together (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="workers beside one (%(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="of a measurement, after warming up (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each case (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "workers_step_cost.json"), help="(%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="tiny models, few steps: to see that the command works")
    options = parser.parse_args(given)
    cases = []
    for case in filter(None, options.cases.split(",")):
        model, _, rows = case.rpartition(":")
        if not model or not rows.isdecimal() or int(rows) < options.workers:
            parser.error(f"--cases: {case!r} is no MODEL:ROWS with a row for each worker, such as REMI:128")
        cases.append((model, int(rows)))
    options.cases = cases
    if options.try_out:
        options.steps, options.repeats = 3, 1
    return options


def summary(model: str, rows: int, repeats: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """A case: milliseconds of each side, the bound of what several gain, and that of any exchange.

    Args:
        model, rows: the case.
        repeats: side -> kind of thread -> milliseconds; sides are `one`, `share`, `several`.
    """
    milliseconds = {
        side: {kind: spread([repeat[side][kind] for repeat in repeats]) for kind in kinds}
        for side, kinds in repeats[0].items()
    }
    costs = [{side: sum(kinds.values()) for side, kinds in repeat.items()} for repeat in repeats]
    return {
        "model": model,
        "rows": rows,
        "milliseconds": milliseconds,
        "gain_at_most": spread([cost["one"] / cost["several"] for cost in costs]),
        "gain_without_exchange": spread([cost["one"] / cost["share"] for cost in costs]),
        "repeats": list(repeats),
    }


def main() -> None:
    """Measure and write the JSON."""
    if sys.argv[1:2] == ["--worker"]:
        rank, keys, steps, size, meeting = sys.argv[2:]
        print(json.dumps(train(json.loads(keys), int(steps), int(rank), int(size), meeting)))
        return
    options = arguments()
    torch.set_num_threads(1)
    common = {
        "dataset": options.dataset,
        "data_path": options.data_path,
        "num_threads": 1,
        "use_gpu": False,
        "show_progress": False,
        **(SMALL if options.try_out else {}),
    }
    load = Load()
    cases = []
    for model, rows in options.cases:
        progress = Progress(f"{model}, {rows} rows", options.repeats)
        sides = {"one": (rows, 1), "share": (-(-rows // options.workers), 1), "several": (rows, options.workers)}
        repeats = []
        for _ in range(options.repeats):
            repeats.append(
                {
                    side: measure({"model": model, **common, "train_batch_size": batch}, options.steps, size)
                    for side, (batch, size) in sides.items()
                }
            )
            found = {side: sum(kinds.values()) for side, kinds in repeats[-1].items()}
            progress.step(", ".join(f"{side} {milliseconds:.1f} ms" for side, milliseconds in found.items()))
        cases.append(summary(model, rows, repeats))
    result = {
        "benchmark": "workers_step_cost",
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE.parent),
        "machine": {**machine(torch.device("cpu")), "load": load.report()},
        "settings": {name: getattr(options, name) for name in ("dataset", "workers", "steps", "repeats", "try_out")},
        "cases": cases,
    }
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    say(f"{options.output}; render it with: python benchmarks/render.py")


if __name__ == "__main__":
    main()
