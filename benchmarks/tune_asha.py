"""ASHA against full runs of the same configurations: the best validation score and the epochs that it took.

    python benchmarks/tune_asha.py --data_path=DATA
    python benchmarks/tune_asha.py --data_path=DATA --try_out

For each sweep seed, one sweep without a scheduler and one with ASHA draw the same configurations of DiffuRec.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from measuring import Load, Progress, code_version, command_line, machine, now, say  # noqa: E402

from recbole_diffusion.ray_session import ray_running  # noqa: E402

SPACE: dict[str, Any] = {
    "learning_rate": {"loguniform": [3e-4, 1e-2]},
    "dropout_prob": {"choice": [0.1, 0.2, 0.3]},
    "embedding_dropout_prob": {"choice": [0.1, 0.3, 0.5]},
    "lambda_mean": {"loguniform": [1e-4, 1e-1]},
    "mask_mode": {"choice": ["query", "key"]},
}
CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "n_layers": 2,
    "n_heads": 2,
    "num_steps": 16,
    "item_init_std": 0.02,
    "MAX_ITEM_LIST_LENGTH": 20,
    "train_batch_size": 256,
    "eval_step": 1,
    "stopping_step": 1000,
}
SCHEDULERS = ("none", "asha")
ENOUGH = {"score": 0.98, "epochs": 0.5}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="ASHA against full runs of the same configurations.")
    parser.add_argument("--data_path", required=True, help="folder of the datasets")
    parser.add_argument("--dataset", default="beauty-mini", help="(%(default)s)")
    parser.add_argument("--trials", type=int, default=12, help="(%(default)s)")
    parser.add_argument("--epochs", type=int, default=27, help="of a full trial (%(default)s)")
    parser.add_argument("--grace_period", type=int, default=3, help="epochs that ASHA leaves every trial (%(default)s)")
    parser.add_argument("--reduction_factor", type=float, default=3, help="(%(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="of the sweeps (%(default)s)")
    parser.add_argument("--output", default=str(HERE / "results" / "tune_asha.json"), help="JSON (%(default)s)")
    parser.add_argument("--try_out", action="store_true", help="tiny sizes, to see that the command works")
    options = parser.parse_args()
    if options.try_out:
        options.trials, options.epochs, options.grace_period, options.seeds = 3, 3, 1, "0"
    options.seeds = [int(seed) for seed in str(options.seeds).split(",")]
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the JSON's content."""
    import torch

    from recbole_diffusion.tuning.sweep import tune

    load, progress = Load(), Progress("sweeps", len(SCHEDULERS) * len(options.seeds))
    config = {**CONFIG, **({"hidden_size": 8, "n_layers": 1, "num_steps": 4} if options.try_out else {})}
    config["epochs"] = options.epochs
    sweeps = []
    with tempfile.TemporaryDirectory() as scratch, ray_running(None, num_cpus=2, object_store_memory=200 * 2**20):
        for seed in options.seeds:
            for scheduler in SCHEDULERS:
                asha = {"grace_period": options.grace_period, "reduction_factor": options.reduction_factor}
                result = tune(
                    "DiffuRec", options.dataset, SPACE, config, data_path=options.data_path, storage_path=scratch,
                    num_trials=options.trials, search_seed=seed, scheduler=scheduler, gpus_per_trial=0,
                    show_progress=False, **(asha if scheduler == "asha" else {}),
                )  # fmt: skip
                facts = json.loads((result.folder / "tune_result.json").read_text())
                sweeps.append(
                    {
                        "seed": seed,
                        "scheduler": scheduler,
                        "best": facts["trials"][0]["score"],
                        "epochs": facts["epochs_trained"],
                        "seconds": facts["seconds"],
                        "trials": [
                            {key: row[key] for key in ("score", "epochs", "state", "values")} for row in facts["trials"]
                        ],
                    }
                )
                shutil.rmtree(result.folder)
                progress.step(f"seed {seed}, {scheduler}: best {sweeps[-1]['best']:.4f}, {sweeps[-1]['epochs']} epochs")
    return {
        "benchmark": "tune_asha",
        "command": command_line(),
        "time": now(),
        "code": code_version(HERE),
        "try_out": options.try_out,
        "dataset": options.dataset,
        "settings": {name: getattr(options, name) for name in ("trials", "epochs", "grace_period", "reduction_factor")},
        "sweeps": sweeps,
        "summary": summary(sweeps),
        "enough": ENOUGH,
        "machine": machine(torch.device("cpu")),
        "load": load.report(),
    }


def summary(sweeps: list[dict[str, Any]]) -> dict[str, float]:
    """ASHA's mean best score and its epochs as shares of those of full runs."""
    of = {name: [found for found in sweeps if found["scheduler"] == name] for name in SCHEDULERS}
    best = {name: statistics.mean(found["best"] for found in part) for name, part in of.items()}
    epochs = {name: sum(found["epochs"] for found in part) for name, part in of.items()}
    return {
        "score": round(best["asha"] / best["none"], 4),
        "epochs": round(epochs["asha"] / epochs["none"], 4),
        "best_full": round(best["none"], 6),
        "best_asha": round(best["asha"], 6),
    }


def main() -> int:
    """Measure and write the JSON."""
    options = arguments()
    result = measure(options)
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    found = result["summary"]
    say(f"ASHA: {found['score']:.3f} of the full runs' best score with {found['epochs']:.3f} of their epochs")
    say(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
