"""export.json: what an export is, for programs; README.md says the same to people (model_card.py).

Shapes: K user vectors a row, D embedding, V items, L history.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.config import RunConfig
from recbole_diffusion.export.user_encoder import ITEM_SEQ, ROW_KEY, USER_VECTORS, Inference
from recbole_diffusion.export.verification import Verification
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.provenance import file_digest, package_versions
from recbole_diffusion.training.checkpoint import BEST_FILE

VERSION = 1  # of export.json
ITEM_VECTORS, ITEM_TOKENS, CARD = "item_vectors.npy", "items.csv", "README.md"


@dataclass(frozen=True)
class Exported:
    """What there is to say of an export.

    Attributes:
        form: its format.
        program: name of the file that gives user vectors.
        config: the run's configuration, with the keys of the export over it.
        overrides: these keys.
        run: the checkpoint's facts: versions, data, epoch.
        result: the run's result.json; empty where there is none.
        shapes: (K, D, V, L).
        inference: what the model does to rank one history.
        row_keys: whether a program takes the rows' keys as an input.
        score: how vectors are scored.
        verification: how it was verified.
        licence: of the data, where the user gave one.
    """

    form: str
    program: str
    config: RunConfig
    overrides: Mapping[str, Any]
    run: Mapping[str, Any]
    result: Mapping[str, Any]
    shapes: tuple[int, int, int, int]
    inference: Inference
    row_keys: bool
    score: str
    verification: Verification
    licence: str | None

    @property
    def model(self) -> str:
        """The model's name."""
        return self.config.entry.name

    @property
    def paper(self) -> str | None:
        """The model's paper in short, for models of this package."""
        row = OUR_MODELS.get(self.model)
        return (row.paper or None) if row else None


def manifest_of(exported: Exported, folder: Path) -> dict[str, Any]:
    """What export.json holds, made of the files that are in `folder` already."""
    vectors, dim, items, length = exported.shapes
    config, run = exported.config, exported.run
    inputs = [{"name": ITEM_SEQ, "type": "int64", "shape": ["batch", length]}]
    if exported.row_keys:
        inputs.append({"name": ROW_KEY, "type": "int64", "shape": ["batch"]})
    inference = exported.inference
    return {
        "export_version": VERSION,
        "format": exported.form,
        "model": exported.model,
        "paper": exported.paper,
        "dataset": config["dataset"],
        "program": {
            "file": exported.program,
            "inputs": [] if exported.program == BEST_FILE else inputs,
            "output": {"name": USER_VECTORS, "type": "float32", "shape": ["batch", vectors, dim]},
        },
        "item_vectors": {"file": ITEM_VECTORS, "type": "float32", "shape": [items, dim], "padding_row": 0},
        "items": {"file": ITEM_TOKENS, "count": items - 1},
        "score": exported.score,
        "score_of_an_item": f"the largest of the {vectors} user vectors'" if vectors > 1 else "the user vector's",
        "leave_out_items_of_the_history": bool(config["filter_seen"]),
        "noise": {
            "eval_seed": config["eval_seed"],
            "key": ROW_KEY if exported.row_keys else "history",
        }
        if inference.draws_noise
        else None,
        "reverse_chain": {"steps": inference.reverse_steps, "chains_averaged": inference.chains}
        if inference.chains
        else None,
        "settings_changed_by_the_export": dict(exported.overrides),
        "training": {
            "epoch": run.get("epoch"),
            "versions": run.get("versions"),
            "data": run.get("data"),
            "keys": config.hyper_parameters(),
        },
        "test_result": exported.result.get("test_result") or None,
        "protocol": exported.result.get("protocol"),
        "verification": exported.verification.facts(),
        "data_licence": exported.licence,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": package_versions(),
        "files": {path.name: file_digest(path) for path in sorted(folder.iterdir())},
    }


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """As JSON."""
    return json.dumps(json.loads(json.dumps(manifest, default=str)), indent=2, ensure_ascii=False) + "\n"
