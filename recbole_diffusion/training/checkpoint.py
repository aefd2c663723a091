"""Checkpoints: safetensors weights plus JSON, written atomically; nothing is unpickled when one is read.

A checkpoint is one file in safetensors format. Tensors carry a prefix for where they belong (`model.`, `other.`,
`optimizer.`, `generator.`); everything that is not a tensor is one JSON text in the file's header. One file, written
under a temporary name, flushed to disk and renamed, is either the old checkpoint or the new one, whenever the process
is killed.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from recbole_diffusion.errors import UserError

HEADER_KEY = "recbole_diffusion"
BEST_FILE = "model.safetensors"
LAST_FILE = "checkpoint.state"


@dataclass
class Checkpoint:
    """Tensors by prefixed name, and what is not a tensor as a JSON-able mapping."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose name starts with ``prefix.``, without it."""
        start = prefix + "."
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}


def write_text_atomically(path: Path, text: str) -> None:
    """Write `text` so that `path` holds either the old content or the new, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _of_their_own(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, none in the memory of another; copied only where they are."""
    own: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, tensor in tensors.items():
        found = tensor.detach().cpu().contiguous()
        storage = found.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != found.numel() * found.element_size():
            found = found.clone()
        taken.add(found.untyped_storage().data_ptr())
        own[name] = found
    return own


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(_of_their_own(checkpoint.tensors), temporary, metadata={HEADER_KEY: json.dumps(checkpoint.facts)})
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU.

    Raises:
        UserError: the file is absent, is no checkpoint of this package, or is damaged.
    """
    return _read(path, with_tensors=True)


def read_facts(path: Path) -> dict[str, Any]:
    """What of a checkpoint is not a tensor, without reading the tensors.

    Raises:
        UserError: as `read_checkpoint` does.
    """
    return _read(path, with_tensors=False).facts


def _read(path: Path, *, with_tensors: bool) -> Checkpoint:
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt", device="cpu") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in (stream.keys() if with_tensors else ())}
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a readable checkpoint ({error}); give a run folder or its best/{BEST_FILE}"
        ) from error
    if HEADER_KEY not in metadata:
        raise UserError(f"{path} holds weights of another program; give a run folder or its best/{BEST_FILE}")
    try:
        facts = dict(json.loads(metadata[HEADER_KEY]))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} has a damaged header ({error}); give another checkpoint") from error
    return Checkpoint(tensors, facts)


SPARSE_PARTS = ("data", "indices", "indptr", "shape")


def model_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """A RecBole model's weights and buffers (prefix `model`), and what it keeps beside them (prefix `other`).

    RecBole's `other_parameter` may hold tensors, arrays, numbers and sparse matrices; modules among them are in the
    weights already, and None is nothing yet.

    Raises:
        UserError: the model keeps something else, which cannot be stored without pickling.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    recommender: Any = model
    other = recommender.other_parameter() if hasattr(model, "other_parameter") else None
    for name, value in (other or {}).items():
        if value is None or isinstance(value, torch.nn.Module):
            continue
        if isinstance(value, Tensor):
            tensors[f"other.{name}"] = value
        elif scipy.sparse.issparse(value):
            matrix = value.tocsr()
            for part in SPARSE_PARTS:
                tensors[f"other.{name}.{part}"] = torch.from_numpy(np.array(getattr(matrix, part)))
        else:
            array = np.asarray(value)
            if array.dtype.kind not in "biuf":
                raise UserError(
                    f"{type(model).__name__} keeps '{name}' ({type(value).__name__}) outside its weights, which "
                    "cannot be stored here; run this model with RecBole's own run_recbole"
                )
            tensors[f"other.{name}"] = torch.from_numpy(np.array(array))
    return tensors


def _other_parameters(stored: Mapping[str, Tensor], device: torch.device) -> dict[str, Any]:
    """What `model_tensors` took from `other_parameter`, as it was; `stored` without its prefix."""
    values: dict[str, Any] = {}
    for name, tensor in stored.items():
        stem, _, part = name.rpartition(".")
        if part in SPARSE_PARTS and f"{stem}.indptr" in stored:
            if part == "indptr":
                parts = {key: stored[f"{stem}.{key}"].numpy() for key in SPARSE_PARTS}
                values[stem] = scipy.sparse.csr_matrix(
                    (parts["data"], parts["indices"], parts["indptr"]), shape=tuple(parts["shape"].tolist())
                )
        else:
            values[name] = tensor.to(device)
    return values


def load_model(model: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Load weights into `model`.

    Raises:
        UserError: the names or shapes differ; the first differences are named.
    """
    weights = checkpoint.part("model")
    expected = model.state_dict()
    wrong = [
        f"{name} is {list(weights[name].shape) if name in weights else 'absent'}, the model has {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name not in weights or weights[name].shape != tensor.shape
    ]
    wrong += [f"{name} is not in the model" for name in weights if name not in expected]
    if wrong:
        raise UserError(f"{path} does not fit this model and dataset: {'; '.join(wrong[:3])}")
    model.load_state_dict(weights)
    other = checkpoint.part("other")
    if other:
        device = next(iter(expected.values())).device if expected else torch.device("cpu")
        recommender: Any = model
        recommender.load_other_parameter(_other_parameters(other, device))


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as tensors (prefix `optimizer`) and JSON-able facts."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    return tensors, {"param_groups": state["param_groups"], "scalars": scalars}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Restore what `pack_optimizer` gave; `tensors` without their prefix."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    for index, entries in facts["scalars"].items():
        state.setdefault(int(index), {}).update(entries)
    groups = [
        {key: tuple(value) if isinstance(value, list) and key != "params" else value for key, value in group.items()}
        for group in facts["param_groups"]
    ]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def pack_random_state(
    generators: Iterable[tuple[str, torch.Generator]], device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """States of torch's (CPU and `device`), NumPy's and Python's global generators and of the named ones.

    The tensors' prefix is `generator`.
    """
    tensors = {"generator.torch": torch.get_rng_state()}
    if device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(device)
    for name, generator in generators:
        tensors[f"generator.{name}"] = generator.get_state()
    algorithm, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, next_gauss = random.getstate()
    return tensors, {
        "numpy": [algorithm, np.asarray(keys).tolist(), int(place), int(has_gauss), float(gauss)],
        "python": [version, list(words), next_gauss],
    }


def unpack_random_state(
    generators: Iterable[tuple[str, torch.Generator]],
    device: torch.device,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Restore what `pack_random_state` gave; `tensors` without their prefix."""
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"], device)
    for name, generator in generators:
        if name in tensors:
            generator.set_state(tensors[name])
    algorithm, keys, place, has_gauss, gauss = facts["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), place, has_gauss, gauss))
    version, words, next_gauss = facts["python"]
    random.setstate((version, tuple(words), next_gauss))
