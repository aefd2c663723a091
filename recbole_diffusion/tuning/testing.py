"""The one look at the test rows: the chosen trial's best epoch ranks them, at the end of the sweep.

Runs as a task of Ray with the resources of a trial, on the trial's last checkpoint, which is a run folder: its
result.json becomes that of a usual run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_diffusion.errors import UserError
from recbole_diffusion.tuning.trial import TrialPlan, opened


def weights_digest(file: Path) -> str:
    """SHA-256 of a checkpoint's weights: name, type, shape and bytes of every tensor of the model, in order of name."""
    from recbole_diffusion.training.checkpoint import read_checkpoint

    digest = hashlib.sha256()
    tensors = read_checkpoint(file).tensors
    for name in sorted(tensors):
        if name.startswith(("model.", "other.")):
            tensor = tensors[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def test_best(plan: TrialPlan, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Test the best epoch in a trial's run folder and write its result.json.

    Args:
        plan: of the sweep.
        values: the trial's drawn keys.
        path: the run folder.

    Returns:
        `result` as in result.json, `weights` the digest, `config` every key; or `error`, why it cannot be tested.
    """
    from recbole_diffusion.session import TrainingSession
    from recbole_diffusion.training.run_folder import RunFolder, RunLog
    from recbole_diffusion.tuning.sweep_folder import read_json

    plan.find_modules()
    folder = RunFolder(Path(path))
    try:
        config = plan.config(values)
        config["run_name"] = None  # the trial's own log goes on
        with opened(config), RunLog(folder.log, config["state"] or "INFO", terminal=False):
            session = TrainingSession(config, folder)
            trainer = session.trainer
            if not trainer.resume():
                raise UserError(f"the best trial's checkpoint {path} has no {folder.last.name}")
            trainer.eval_collector.data_collect(session.train_data)
            trainer.load_best()
            session.valid_result = dict(trainer.best_valid_result or {})
            session.choose_reverse_steps()
            session.test()
            session.finish()
        return {
            "result": read_json(folder.result),
            "weights": weights_digest(folder.best),
            "config": config.to_plain(),
        }
    except UserError as error:
        return {"error": str(error)}


test_best.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's
