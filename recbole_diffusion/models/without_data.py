"""A model built before any data are read, for three items: what its parts refuse, a configuration is refused for.

Whether heads divide a width, a schedule has what it needs or a grid fits a number of steps is known by the parts that
are built, and by them alone. So the model is built, without drawing its weights, and thrown away: some milliseconds,
and no rule is written down twice (docs/decisions/030-keys-that-exist.md).

Shapes: V items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from recbole_diffusion.config_options import with_origins
from recbole_diffusion.errors import UserError

_ITEMS = 3
_MOST_REMEMBERED = 1000
_DRAWS = frozenset((torch.Tensor.normal_, torch.Tensor.uniform_))  # those that are not called through torch.nn.init


class _ThreeItems:
    """What a model asks of the training data when it is built: how many items there are, and how often each is a
    target. No part refuses anything for either."""

    iid_field = "item"
    inter_feat: Mapping[str, Any] = {iid_field: np.arange(1, _ITEMS + 1)}

    def num(self, field: str) -> int:
        """V."""
        return _ITEMS + 1


class _Undrawn(TorchFunctionMode):
    """Initialisations leave their tensors as they are: a wide model takes no longer than others."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS or getattr(func, "__module__", None) == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


_accepted: set[tuple[Any, ...]] = set()


def refuse_what_parts_refuse(model_class: Any, options: Any, config: Any) -> None:
    """Build a model and let go of it; one with the same options that was built before is not built again.

    Args:
        model_class: a subclass of `VectorRecommender`.
        options: its options of this configuration.
        config: the run's `RunConfig`.

    Raises:
        UserError: a part refuses its keys; says where those that the message names were given.
    """
    key = (model_class, repr(options), config["MAX_ITEM_LIST_LENGTH"])
    if key in _accepted:
        return
    try:
        with torch.random.fork_rng([]), _Undrawn():
            model_class(config, _ThreeItems())
    except ValueError as error:
        raise UserError(with_origins(str(error), type(options), config)) from error
    if len(_accepted) >= _MOST_REMEMBERED:
        _accepted.clear()
    _accepted.add(key)
