"""CPU time of a training step in each of several workers, beside one worker's and one's with its share of the rows.

    python benchmarks/workers_step_cost.py --data_path=FOLDER [--model=REMI] [--train_batch_size=128] [--steps=30]

CPU time counts no waiting, so it says something on a busy machine too: one worker's divided by each of several is a
bound of what they gain (`workers_speed.py` measures the gain). The share of the rows without anybody to talk to shows
what no exchange of gradients can undercut. Threads of gloo are counted apart. It prints and writes nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
WARM_UP = 3  # steps


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
    """Milliseconds of CPU time a step, by kind of thread, of one worker."""
    import torch
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


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--worker"]:
        rank, keys, steps, size, meeting = sys.argv[2:]
        print(json.dumps(train(json.loads(keys), int(steps), int(rank), int(size), meeting)))
        return
    parser = argparse.ArgumentParser(description="CPU time of a step in each of several workers.")
    parser.add_argument("--data_path", required=True, help="folder of the datasets")
    parser.add_argument("--dataset", default="amazon-beauty", help="(%(default)s)")
    parser.add_argument("--model", default="REMI", help="(%(default)s)")
    parser.add_argument("--train_batch_size", type=int, default=128, help="of all workers together (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=30, help="(%(default)s)")
    parser.add_argument("--hidden_size", type=int, help="(the model's own)")
    options = parser.parse_args()
    keys = {
        "model": options.model,
        "dataset": options.dataset,
        "data_path": options.data_path,
        "num_threads": 1,
        "use_gpu": False,
        "show_progress": False,
        **({} if options.hidden_size is None else {"hidden_size": options.hidden_size}),
    }
    rows = options.train_batch_size
    one = measure({**keys, "train_batch_size": rows}, options.steps, 1)
    share = measure({**keys, "train_batch_size": -(-rows // options.workers)}, options.steps, 1)
    several = measure({**keys, "train_batch_size": rows}, options.steps, options.workers)
    print(f"{options.model}, {rows} rows, milliseconds of CPU time a step")
    print(f"one worker                          {one['computing']:8.1f}")
    print(f"one with its share of the rows      {share['computing']:8.1f}")
    print(f"each of {options.workers}: computing, gloo's threads {several['computing']:8.1f} {several['gloo']:8.1f}")
    print(f"bound of the gain                   {one['computing'] / sum(several.values()):8.2f}")


if __name__ == "__main__":
    main()
