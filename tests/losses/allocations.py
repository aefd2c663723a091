"""Which large tensors a computation makes, its backward pass included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Watch(TorchDispatchMode):
    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.made: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {
            one.untyped_storage().data_ptr()
            for one in (*args, *(kwargs or {}).values())
            if isinstance(one, Tensor) and not one.is_sparse
        }
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Tensor) and not one.is_sparse and one.untyped_storage().data_ptr() not in given:
                if one.untyped_storage().nbytes() >= self.numbers * one.element_size():
                    self.made.append((str(func), tuple(one.shape)))
        return result


@contextlib.contextmanager
def large_tensors(numbers: int) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Note operators that make a dense tensor of so many numbers or more, with its shape; views are none."""
    watch = _Watch(numbers)
    with watch:
        yield watch.made
