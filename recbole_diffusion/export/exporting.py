"""Exporting a trained run: files beside each other in a folder that is there whole or not at all.

    model.safetensors or a program | item_vectors.npy | items.csv | README.md | export.json

The folder is written under another name, the export is read back from it and compared with the model (verification.py),
and only then renamed.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_diffusion.errors import UserError
from recbole_diffusion.export.manifest import CARD, ITEM_TOKENS, ITEM_VECTORS, Exported, manifest_of, manifest_text
from recbole_diffusion.export.model_card import card
from recbole_diffusion.export.programs import (
    PROGRAMS,
    check_packages,
    run_program,
    timed,
    trace,
    write_onnx_program,
    write_torch_program,
)
from recbole_diffusion.export.user_encoder import UserEncoder, check_exportable, watched_inference
from recbole_diffusion.export.verification import compare, model_vectors
from recbole_diffusion.export.verification_histories import VerificationHistories, verification_histories
from recbole_diffusion.recommendation.checkpoints import (
    EXPORT_MANIFEST,
    OpenedModel,
    checkpoint_file,
    modules_of_parts,
    open_model,
    refuse_own_code,
    run_of,
)
from recbole_diffusion.training.checkpoint import (
    BEST_FILE,
    Checkpoint,
    model_tensors,
    read_checkpoint,
    write_checkpoint,
)
from recbole_diffusion.training.item_catalogue import ITEMS_FILE, ItemCatalogue

logger = logging.getLogger(__name__)

FORMATS = ("safetensors", *PROGRAMS)
ROW_KEYS = ("history", "input")
TOLERANCE = 1e-4
WATCHED_ROWS = 32
SMALL_BATCHES = (1, 7)


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        folder: where it is.
        manifest: what its export.json holds.
    """

    folder: Path
    manifest: dict[str, Any]


def export_model(
    checkpoint: str | Path,
    output: str | Path,
    form: str,
    *,
    config: Mapping[str, Any] | None = None,
    histories: str | Path | None = None,
    data_path: str | Path | None = None,
    row_keys: str = "history",
    verify_rows: int = 256,
    tolerance: float = TOLERANCE,
    list_length: int = 20,
    licence: str | None = None,
    own_code: str | Sequence[str] = (),
) -> Export:
    """Export a run's best epoch.

    Args:
        checkpoint: a run's folder or a checkpoint file.
        output: the folder to make; it must not be there, or be empty.
        form: the format, one of :data:`FORMATS`.
        config: keys that override those of the run, such as `reverse_steps`; the export has them for good.
        histories: Parquet to verify on, as for `recommend`; None for the run's test rows, or random items without them.
        data_path: folder of the datasets, where it is no longer the run's.
        row_keys: what noise is keyed by in a program: `history`, or `input`, a second input `row_key`.
        verify_rows: histories to verify on, at most.
        tolerance: by what part of its largest entry a row's vectors may differ.
        list_length: items of the lists that are compared.
        licence: of the data, for the model card.
        own_code: as in `Recommender.load`.

    Raises:
        UserError: anything a person can correct, in one line; nothing is then left of the export.
    """
    _check_words(form, row_keys, verify_rows, tolerance, list_length)
    target = Path(os.path.abspath(output))
    _check_output(target)
    check_packages(form)
    path = checkpoint_file(checkpoint)
    stored = read_checkpoint(path)
    refuse_own_code(stored, path, config, own_code)  # before its model is looked up
    check_exportable(run_of(stored, path)[0])
    opened = open_model(path, data_path=data_path, device="cpu", config=config, own_code=own_code)
    model: Any = opened.model
    if opened.config["eval_seed"] is None and hasattr(model.options, "eval_seed"):
        raise UserError("eval_seed is ~, so an export could not be verified; give a number with --eval_seed")
    verified_on = verification_histories(
        opened, stored.facts.get("data"), None if histories is None else Path(histories), verify_rows
    )
    logger.info("verified on %s", verified_on.source)
    inference = watched_inference(model, torch.from_numpy(verified_on.item_seq[:WATCHED_ROWS]))
    keyed = row_keys == "input"
    if keyed and not inference.draws_noise:
        raise UserError(f"row_keys is input, but {opened.config.entry.name} draws no noise here; leave row_keys out")
    with _written_beside(target) as folder:
        with torch.no_grad():
            item_vectors = model.item_vectors().detach().float().contiguous().numpy()
        np.save(folder / ITEM_VECTORS, item_vectors, allow_pickle=False)
        _write_tokens(folder / ITEM_TOKENS, opened.tokens)
        expected = model_vectors(model, verified_on, row_keys=keyed)
        if form == "safetensors":
            found, runtime = _as_weights(opened, stored, folder, verified_on)
        else:
            found, runtime = _as_program(opened, form, folder, verified_on, keyed)
        verification = compare(
            expected,
            found,
            item_vectors,
            model.options.score,
            verified_on,
            tolerance=tolerance,
            list_length=min(list_length, len(item_vectors) - 1),
            runtime=runtime,
        )
        exported = Exported(
            form=form,
            program=PROGRAMS.get(form, BEST_FILE),
            config=opened.config,
            overrides={key: opened.config[key] for key in config or {}},
            run=stored.facts,
            result=_result_of(path),
            shapes=(expected.shape[1], expected.shape[2], len(item_vectors), verified_on.item_seq.shape[1]),
            inference=inference,
            row_keys=keyed,
            score=model.options.score,
            verification=verification,
            licence=licence,
        )
        (folder / CARD).write_text(card(exported, [str(token) for token in opened.tokens[1:3]]), encoding="utf-8")
        manifest = manifest_of(exported, folder)
        (folder / EXPORT_MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    return Export(target, manifest)


def _check_words(form: str, row_keys: str, verify_rows: int, tolerance: float, list_length: int) -> None:
    if form not in FORMATS:
        raise UserError(f"format is {form!r}; it must be {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if row_keys not in ROW_KEYS:
        raise UserError(f"row_keys is {row_keys!r}; it must be {' or '.join(ROW_KEYS)}")
    if row_keys == "input" and form == "safetensors":
        raise UserError("row_keys is input, which goes with programs; a Recommender takes row_keys with every call")
    for name, value in (("verify_rows", verify_rows), ("list_length", list_length)):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more")
    if not 0.0 <= tolerance < 1.0:
        raise UserError(f"tolerance is {tolerance}; it must be at least 0 and less than 1")


def _check_output(output: Path) -> None:
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise UserError(f"output {output} is no folder; give a new one with --output")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"output {output} is not empty; give a new folder with --output, or empty it")


@contextlib.contextmanager
def _written_beside(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its name at the end; nothing is left of it where that is not reached."""
    made = [parent for parent in output.parents if not parent.exists()]
    beside = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        try:
            beside.mkdir(parents=True)
        except OSError as error:
            raise UserError(f"cannot write to {output.parent} ({error.strerror}); change --output") from error
        yield beside
        for path in [*beside.iterdir(), beside]:
            _flush(path)
        with contextlib.suppress(FileNotFoundError):
            output.rmdir()
        beside.rename(output)
        made = []
    except OSError as error:
        raise UserError(f"the export could not be written to {output} ({error}); nothing was left") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _flush(path: Path) -> None:
    """To the disk, where the system can."""
    with contextlib.suppress(PermissionError):  # folders, on Windows
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _write_tokens(path: Path, tokens: np.ndarray) -> None:
    """items.csv: row number of item_vectors.npy and token."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["row", "item_id"])
        writer.writerows(enumerate(map(str, tokens)))


Found = tuple[dict[int, np.ndarray], str]


def _as_weights(opened: OpenedModel, stored: Checkpoint, folder: Path, histories: VerificationHistories) -> Found:
    """Write weights, configuration and items, and open them again."""
    source = opened.path.with_name(ITEMS_FILE)
    if not source.is_file():
        raise UserError(
            f"{opened.path} has no {ITEMS_FILE} beside it, without which its weights cannot be opened elsewhere; run "
            "the model again with this version, or export a program (--format=onnx)"
        )
    ItemCatalogue.read(source).write(folder / ITEMS_FILE)
    kept = ("model", "dataset", "epoch", "best_epoch", "best_valid_score", "best_valid_result", "versions", "data")
    facts = {key: stored.facts.get(key) for key in kept}
    keys = opened.config.to_plain()
    facts["config"] = {key: keys[key] for key in keys if not key.endswith(("_path", "_dir", "_filename"))}
    write_checkpoint(folder / BEST_FILE, Checkpoint(model_tensors(opened.model), facts))
    own_code = tuple(modules_of_parts(keys).values())  # allowed when the run was opened
    read: Any = open_model(folder / BEST_FILE, device="cpu", own_code=own_code).model
    (folder / BEST_FILE).chmod((folder / ITEM_VECTORS).stat().st_mode)  # safetensors lets nobody else read its files
    found = {size: model_vectors(read, histories, row_keys=False, rows=size) for size in _sizes(histories)}
    return found, f"PyTorch {torch.__version__}, in a model built from this folder alone"


def _as_program(opened: OpenedModel, form: str, folder: Path, histories: VerificationHistories, keyed: bool) -> Found:
    """Write a program, and run it from its file."""
    name, path = opened.config.entry.name, folder / PROGRAMS[form]
    model: Any = opened.model
    with timed(f"tracing {name}"):
        program = trace(UserEncoder(model, row_keys=keyed), histories.item_seq.shape[1], name)
    if form == "torchexport":
        write_torch_program(program, path)
    else:
        with timed("translating to ONNX"):
            write_onnx_program(program, path, name)
    with timed(f"running {path.name} in a process of its own"):
        given = histories.row_key if keyed else None
        found = run_program(form, path, histories.item_seq, given, _sizes(histories))
    runtime = f"PyTorch {torch.__version__} (torch.export)"
    if form == "onnx":
        runtime = f"ONNX Runtime {importlib.metadata.version('onnxruntime')}"
    return found, runtime


def _sizes(histories: VerificationHistories) -> list[int]:
    """Numbers of rows at a time, all of them the last."""
    return [*(size for size in SMALL_BATCHES if size < len(histories)), len(histories)]


def _result_of(path: Path) -> dict[str, Any]:
    """The result.json of the run that a best checkpoint belongs to; nothing where it has none."""
    file = path.parent.parent / "result.json"
    if path.name != BEST_FILE or path.parent.name != "best" or not file.is_file():
        return {}
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); remove it to export without the run's metrics") from error
    return result if isinstance(result, dict) else {}
