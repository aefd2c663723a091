"""The end of a sweep: the best trial's run folder, its one test, best.yaml and tune_result.json."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import code_version, package_versions
from recbole_diffusion.training.checkpoint import write_text_atomically
from recbole_diffusion.tuning.results import STOPPED, TrialRow, text_table
from recbole_diffusion.tuning.schedule import Schedule
from recbole_diffusion.tuning.sweep_folder import BEST_FILE, SweepFolder, read_json, write_json
from recbole_diffusion.tuning.testing import test_best
from recbole_diffusion.tuning.trial import TrialPlan


@dataclass(frozen=True)
class SweepResult:
    """What a sweep ends with; the same facts as its tune_result.json.

    Attributes:
        folder: of the sweep.
        model, dataset: what was searched.
        metric: the validation metric that trials are compared by.
        best: the chosen trial.
        trials: all of them, ranked.
        test_result: metrics of the test rows, by the best trial's best epoch.
    """

    folder: Path
    model: str
    dataset: str
    metric: str
    best: TrialRow
    trials: list[TrialRow] = field(default_factory=list)
    test_result: dict[str, float] = field(default_factory=dict)

    def table(self) -> str:
        """The ranked table and the test, as text."""
        test = ", ".join(f"{name} {value:.6f}" for name, value in self.test_result.items()) or "no test rows"
        return "\n".join(
            [
                "",
                f"{self.model} on {self.dataset}: {len(self.trials)} trials by {self.metric} on the validation rows",
                "",
                text_table(self.trials, self.metric),
                "",
                f"test of trial {self.best.trial} at epoch {self.best.best_epoch}: {test}",
                f"folder: {self.folder}",
                f"again: --config_files={self.folder / BEST_FILE}",
            ]
        )

    @classmethod
    def read(cls, folder: SweepFolder) -> SweepResult:
        """The result of a finished sweep, from its tune_result.json."""
        facts = read_json(folder.result)
        rows = [TrialRow(**row) for row in facts["trials"]]
        return cls(
            folder=folder.path,
            model=facts["model"],
            dataset=facts["dataset"],
            metric=facts["metric"],
            best=next(row for row in rows if row.trial == facts["best"]["trial"]),
            trials=rows,
            test_result=facts["best"]["test_result"],
        )


def finish(
    ray: Any,
    folder: SweepFolder,
    facts: Mapping[str, Any],
    plan: TrialPlan,
    rows: Sequence[TrialRow],
    *,
    cpus: float,
    gpus: float,
    seconds: float,
) -> SweepResult:
    """Test the best trial and write the results.

    Args:
        ray: the running Ray.
        folder: of the sweep.
        facts: what sweep.json holds.
        plan: what the trials shared.
        rows: ranked.
        cpus, gpus: of a trial; the test has as many.
        seconds: that the sweep took, as far as this process knows.

    Raises:
        UserError: no trial can be chosen, or the best cannot be tested.
    """
    best = next((row for row in rows if row.rank == 1), None)
    if best is None or best.checkpoint is None:
        reasons = [f"trial {row.trial}: {row.reason or row.state}" for row in rows]
        raise UserError(
            f"none of the {len(rows)} trials of {folder.path} can be chosen; "
            f"{reasons[0] if reasons else 'none began'}; trials.csv has the others"
        )
    _copy_run(folder.path / best.checkpoint, folder.best_run)
    task = ray.remote(test_best).options(num_cpus=cpus, num_gpus=gpus or None, max_retries=2)
    tested = ray.get(task.remote(plan, best.values, str(folder.best_run)))
    if "error" in tested:
        raise UserError(tested["error"])
    config = dict(tested["config"])
    if best.state == STOPPED:
        config["epochs"] = best.epochs  # it would go on, and might find a later best epoch
    config.pop("show_progress", None)
    schedule = Schedule.read(folder.best_run)
    result = tested["result"]
    content = {
        "model": facts["model"],
        "dataset": facts["dataset"],
        "metric": facts["metric"],
        "best": {
            "trial": best.trial,
            "values": best.values,
            "config": config,
            "seed": config["seed"],
            "num_threads": config["num_threads"],
            "best_epoch": best.best_epoch,
            "epochs": best.epochs,
            "state": best.state,
            "valid_result": result["valid_result"],
            "test_result": result["test_result"],
            "weights_sha256": tested["weights"],
            "device": result["device"],
            "schedule": schedule.plain() if len(schedule.parts) > 1 else None,
        },
        "repeat": f"recbole-diff tune --repeat={folder.result.name}",
        "data": facts["data"],
        "versions": package_versions(),
        "code": code_version(),
        "space": facts["space"],
        "options": facts["options"],
        "counts": dict(Counter(row.state for row in rows)),
        "epochs_trained": sum(row.epochs for row in rows),
        "seconds": round(seconds, 3),
        "test_evaluations": 1,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "trials": [row.plain() for row in rows],
    }
    write_best(folder, config, best, changing=len(schedule.parts) > 1)
    write_json(folder.result, content)
    return SweepResult.read(folder)


def _copy_run(source: Path, target: Path) -> None:
    """A copy of a run folder that is there whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_best(folder: SweepFolder, config: Mapping[str, Any], best: TrialRow, *, changing: bool) -> None:
    """Write best.yaml."""
    head = f"# The best of this sweep: trial {best.trial}, best epoch {best.best_epoch} of {best.epochs}.\n"
    if changing:
        head += "# Its keys changed while it trained (population based training); these are the last. To repeat it:\n"
        head += f"# recbole-diff tune --repeat={folder.result.name}\n"
    else:
        head += "# recbole-diff --config_files=best.yaml repeats it.\n"
    text = yaml.safe_dump(dict(config), sort_keys=True, allow_unicode=True, default_flow_style=None)
    write_text_atomically(folder.best, head + text)
