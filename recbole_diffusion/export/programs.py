"""Writing a user encoder as a program: `torch.export` (.pt2), and ONNX made from the same trace.

Shapes: B rows, L history.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_diffusion.errors import UserError
from recbole_diffusion.export.user_encoder import ITEM_SEQ, ROW_KEY, USER_VECTORS, UserEncoder
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.ray_session import install

logger = logging.getLogger(__name__)

PROGRAMS = {"torchexport": "user_encoder.pt2", "onnx": "user_encoder.onnx"}
"""Formats that are programs, and the file of each."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPTIMISED_NODES = 1000  # longer programs take torch's optimiser minutes; runtimes optimise what they load
TRACED_ROWS = 3  # one or two would be taken for constants


def check_packages(form: str) -> None:
    """Refuse a format whose packages are not there.

    Raises:
        UserError: names them and the extra that installs them.
    """
    missing = []
    for package in ONNX_PACKAGES if form == "onnx" else ():
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(f"--format=onnx needs {', '.join(missing)}; install with: {install('export')}")


def trace(encoder: UserEncoder, length: int, name: str) -> torch.export.ExportedProgram:
    """The program of an encoder, for any number of rows.

    It is traced with made-up rows: torch keeps what it was traced with in the file.

    Args:
        encoder: of a model on the CPU, which is then in evaluation mode and without gradients.
        length: L.
        name: the model's, for messages.

    Raises:
        UserError: it cannot be traced.
    """
    item_seq = torch.zeros(TRACED_ROWS, length, dtype=torch.int64)
    item_seq[:, 0] = 1
    inputs = (item_seq, torch.arange(TRACED_ROWS)) if encoder.row_keys else (item_seq,)
    rows = torch.export.Dim("batch", min=1)
    encoder.eval().requires_grad_(False)
    with _quiet(), torch.no_grad():
        try:
            shapes = tuple({0: rows} for _ in inputs)
            program = torch.export.export(encoder, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise UserError(_cannot(name, "torchexport", error)) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # file names of the machine it was traced on
    return program


def write_torch_program(program: torch.export.ExportedProgram, path: Path) -> None:
    """Write a .pt2 file."""
    with _quiet():
        torch.export.save(program, path)


def write_onnx_program(program: torch.export.ExportedProgram, path: Path, name: str) -> None:
    """Write an ONNX file; above 2 GB the weights are a second file beside it.

    Raises:
        UserError: an operation of it has no translation to ONNX.
    """
    names = [ITEM_SEQ, ROW_KEY][: len(program.graph_signature.user_inputs)]
    with _quiet():
        try:
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                input_names=names,
                output_names=[USER_VECTORS],
                verbose=False,
                optimize=len(program.graph.nodes) < OPTIMISED_NODES,
            )
            for node in made.model.graph.all_nodes():
                node.metadata_props.clear()  # file names of this machine, and nine tenths of the bytes
            made.save(str(path))
        except Exception as error:
            raise UserError(_cannot(name, "onnx", error)) from error


def run_program(
    form: str, path: Path, item_seq: np.ndarray, row_key: np.ndarray | None, sizes: Sequence[int]
) -> dict[int, np.ndarray]:
    """User vectors (N, K, D) by a program that is read from its file in a process of its own.

    Args:
        form: a key of :data:`PROGRAMS`.
        path: the file.
        item_seq: (N, L).
        row_key: (N,); None for a program without that input.
        sizes: numbers of rows at a time; a number below N is run on the first 3 batches.

    Returns:
        size -> the vectors of its rows.

    Raises:
        UserError: the program does not load or run.
    """
    source = Path(__file__).with_name("program_runner.py").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / f"{ITEM_SEQ}.npy", item_seq)
        if row_key is not None:
            np.save(Path(folder) / f"{ROW_KEY}.npy", row_key)
        words = [form, str(path.resolve()), folder, ",".join(map(str, sizes))]
        command = [sys.executable, "-c", source, *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise UserError(f"the exported program {path.name} does not run in a process of its own: {last}")
        return {size: np.load(Path(folder) / f"{USER_VECTORS}.{size}.npy") for size in sizes}


def _cannot(name: str, form: str, error: Exception) -> str:
    """One line about a model that cannot be exported."""
    lines = [line.strip(" -\t") for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "No ONNX function" in line or "specialized" in line), (lines or [""])[0])
    hint = "; take sizes of tensors from .shape, not from len()" if "specialized" in told else ""
    others = "" if name in OUR_MODELS else f"; these can: {', '.join(OUR_MODELS)}"
    return f"{name} cannot be exported as {form}: {type(error).__name__}: {told[:300]}{hint}{others}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Tracing's own messages are for those who write tracers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    logger.info("%s ...", what)
    began = time.perf_counter()
    yield
    logger.info("%s: %.1f s", what, time.perf_counter() - began)
