"""Train every case as one of several workers and write what happened: `python -m tests.workers.training_arm ...`.

Arguments: data path, file to write, rank, number of workers, file in which the workers find each other. With one worker
there is no process group: it is a usual run's loop.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from recbole.utils import init_seed
from torch import distributed

from recbole_diffusion.registry import resolve_model
from recbole_diffusion.training import epochs
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.trainer import trainer_class
from recbole_diffusion.training.worker_group import WorkerGroup
from tests.contracts.building import build
from tests.contracts.cases import Case

from .cases import COMMON, STEPS, cases


def trained(case: Case, data_path: Path, workers: WorkerGroup, folder: Path) -> dict[str, Any]:
    """Metrics of the untrained model, losses of `STEPS` steps, rows seen in an epoch, sum of the weights."""
    keys = {**COMMON, **case.keys, "cache": False}
    if keys["train_batch_size"] == -1:  # all rows but one
        del keys["train_batch_size"]
        keys["train_batch_size"] = len(build(Case(case.model), data_path).train._dataset) - 1
    built = build(Case(case.model, keys), data_path)
    trainer_type = trainer_class(resolve_model(case.model).trainer_class)
    run_folder = RunFolder(folder, writes=workers.first)
    trainer = trainer_type(built.config, built.model, run_folder, built.train, None, workers)
    trainer.eval_collector.data_collect(built.train)
    metrics = trainer.evaluate(built.test, load_best_model=False)

    steps: list[float] = []
    add = epochs.EpochLosses.add

    def recorded(self: Any, terms: Any) -> Any:
        loss, value = add(self, terms)
        steps.append(value)
        return loss, value

    seen: list[list[int]] = []
    computed = epochs.BatchTerms.__call__

    def noted(self: Any, batch: Any, epoch: int, index: int) -> Any:
        interaction, terms = computed(self, batch, epoch, index)
        if epoch == 1 and hasattr(interaction, "rows"):
            empty = workers.rank >= len(batch)
            seen.append([] if empty else interaction.rows.target.tolist())
        return interaction, terms

    epochs.EpochLosses.add, epochs.BatchTerms.__call__ = recorded, noted  # type: ignore[method-assign]
    init_seed(built.config["seed"], True)
    try:
        epoch = 0
        while len(steps) < STEPS:
            trainer._train_epoch(built.train, epoch)
            epoch += 1
    finally:
        epochs.EpochLosses.add, epochs.BatchTerms.__call__ = add, computed  # type: ignore[method-assign]
    buffers = [float(value.double().sum()) for value in built.model.state_dict().values()]
    return {"metrics": metrics, "losses": steps[:STEPS], "seen": seen, "weights": buffers}


def main() -> None:
    """Run all cases."""
    data_path, output, rank, size, meeting = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]), sys.argv[5]
    torch.set_num_threads(1)
    if size > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    workers = WorkerGroup.joined()
    found = {}
    for case in [case for case in cases() if os.environ.get("ARM_CASES", "") in case.name]:
        with tempfile.TemporaryDirectory() as folder:
            found[case.name] = trained(case, data_path, workers, Path(folder))
    output.write_text(json.dumps(found), encoding="utf-8")
    if size > 1:
        distributed.barrier()
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
