"""What training changes in a model outside its `state_dict`: plain numbers and tensors that are its attributes.

Some of RecBole's models anneal a loss by a step count of their own (MultiVAE, MacridVAE, LDiffRec), keep the latest
losses of every diffusion step (DiffRec) or weigh a graph anew (KGAT). None of that is a parameter or a persistent
buffer, so a run that is resumed would begin it again. What differs from the beginning is found without knowing a
model: numbers by value, tensors by identity and by the count of in-place changes that torch keeps of each. Tensors are
neither copied nor compared for it.

Attributes of other kinds (lists, arrays, objects) are left alone; what a model names in `other_parameter` is stored as
such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # `training`, hooks, the tables of parameters and buffers
_Attribute = bool | int | float | Tensor
TENSOR_PARTS = ("attribute", "content", "sparse")


def _attributes(model: nn.Module) -> Iterator[tuple[str, _Attribute]]:
    """(dotted name, value) of every number and tensor that is no parameter and in no `state_dict`."""
    recommender: Any = model
    kept = set(recommender.other_parameter() or ()) if hasattr(model, "other_parameter") else set()
    for place, module in model.named_modules():
        values = {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}
        values.update((name, getattr(module, name)) for name in module._non_persistent_buffers_set)
        for name, value in values.items():
            if isinstance(value, bool | int | float | Tensor) and not (place == "" and name in kept):
                yield f"{place}.{name}" if place else name, value


def _changes(tensor: Tensor) -> int:
    """How often a tensor was changed in place; those made in inference mode do not count it."""
    return 0 if tensor.is_inference() else tensor._version


class ChangedAttributes:
    """A model's attributes when its training starts, against which later ones are compared.

    Args:
        model: as it was built; nothing is resumed yet.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = {
            name: (value, _changes(value) if isinstance(value, Tensor) else 0) for name, value in _attributes(model)
        }

    def pack(self) -> tuple[dict[str, Tensor], dict[str, bool | int | float]]:
        """What differs now: tensors, prefixed with one of TENSOR_PARTS, and JSON-able numbers by name.

        `attribute` are tensors put in the place of others, `content` those changed in place, `sparse` the indices,
        values and size of sparse ones. A sparse tensor that was not there at the start is a matrix that the model
        makes anew (SGL's graphs of an epoch) and is not kept.
        """
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, bool | int | float] = {}
        for name, value in _attributes(self.model):
            start, changes = self.before.get(name, (None, 0))
            if not isinstance(value, Tensor):
                if type(start) is not type(value) or start != value:
                    numbers[name] = value
            elif value is start and _changes(value) == changes:
                continue
            elif value.layout == torch.strided:
                tensors[f"{'content' if value is start else 'attribute'}.{name}"] = value
            elif value.layout == torch.sparse_coo and isinstance(start, Tensor):
                matrix = value.detach().coalesce()
                size = torch.tensor(matrix.shape)
                parts = {"indices": matrix.indices(), "values": matrix.values(), "size": size}
                tensors.update({f"sparse.{name}.{part}": tensor for part, tensor in parts.items()})
        return tensors, numbers

    @torch.no_grad()
    def unpack(self, tensors: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, bool | int | float]) -> None:
        """Set what `pack` gave.

        Args:
            tensors: by prefix, without it.
            numbers: by name.
        """
        device = next((parameter.device for parameter in self.model.parameters()), torch.device("cpu"))
        for name, number in numbers.items():
            self._set(name, number)
        for name, tensor in tensors["attribute"].items():
            self._set(name, tensor.to(device))
        for name, tensor in tensors["content"].items():
            start = self.before[name][0]
            if isinstance(start, Tensor) and start.shape == tensor.shape:
                start.copy_(tensor)  # in place: other objects may hold it, too
            else:
                self._set(name, tensor.to(device))
        sparse = tensors["sparse"]
        for name in {name.rpartition(".")[0] for name in sparse}:
            indices, values, size = (sparse[f"{name}.{part}"] for part in ("indices", "values", "size"))
            matrix = torch.sparse_coo_tensor(indices, values, size.tolist(), is_coalesced=True, check_invariants=True)
            self._set(name, matrix.to(device))

    def _set(self, name: str, value: _Attribute) -> None:
        place, _, attribute = name.rpartition(".")
        setattr(self.model.get_submodule(place), attribute, value)
