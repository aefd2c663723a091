"""What values some of RecBole's keys of training may have: sampled negatives, clipped gradients, changed histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from recbole_diffusion.config_values import (
    Check,
    NotAllowedError,
    boolean,
    choice,
    integer,
    mapping,
    number,
)


def _entries(value: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    """A mapping with no other keys than those of ``checks``, each value checked.

    Raises:
        NotAllowedError: names the entry that is not allowed.
    """
    entries = mapping(*checks)(value)
    for name, entry in entries.items():
        try:
            entries[name] = checks[name](entry)
        except NotAllowedError as error:
            raise NotAllowedError(f"a mapping whose '{name}' is {error}") from None
    return entries


_SAMPLING: dict[str, Check] = {
    "distribution": choice("uniform", "popularity"),
    "sample_num": integer(1),
    "alpha": number(),
    "dynamic": boolean(),
    "candidate_num": integer(0),
}


def negative_sampling(value: Any) -> dict[str, Any] | None:
    """RecBole's ``train_neg_sample_args``: how many negatives a training row gets, drawn from what; None for none."""
    if value is None or value == "None":
        return None
    given = mapping(*_SAMPLING)(value)
    if given.get("distribution", "uniform") in (None, "none", "None"):
        return None
    sampling = _entries(given, _SAMPLING)
    if sampling.get("dynamic") and not sampling.get("candidate_num"):
        raise NotAllowedError("a mapping whose 'candidate_num' is an integer of at least 1 where 'dynamic' is True")
    return sampling


def _norm(value: Any) -> Any:
    """The order of a norm: a number above 0, infinity included."""
    if value == "inf" or (isinstance(value, float) and value == float("inf")):
        return value
    try:
        return number(above=0.0)(value)
    except NotAllowedError as error:
        raise NotAllowedError(f"{error} or .inf") from None


_CLIPPING: dict[str, Check] = {
    "max_norm": number(above=0.0),
    "norm_type": _norm,
    "error_if_nonfinite": boolean(),
    "foreach": boolean(none=True),
}


def gradient_clipping(value: Any) -> dict[str, Any] | None:
    """RecBole's ``clip_grad_norm``: arguments of torch's ``clip_grad_norm_``; None clips nothing."""
    if value is None:
        return None
    clipping = _entries(value, _CLIPPING)
    if "max_norm" not in clipping:
        raise NotAllowedError("a mapping such as {max_norm: 1.0} or ~")
    return clipping


TRAINING_CHECKS: dict[str, Check] = {
    "train_neg_sample_args": negative_sampling,
    "clip_grad_norm": gradient_clipping,
    # RecBole's `user_defined` is a place in its own source that does nothing, not a way to name a transform.
    "transform": choice("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", none=True),
}

_SHARES: dict[str, dict[str, Check]] = {
    "mask_itemseq": {"mask_ratio": number(above=0.0, maximum=1.0), "ft_ratio": number(0.0, maximum=1.0, none=True)},
    "crop_itemseq": {"eta": number(above=0.0, maximum=1.0)},
    "reorder_itemseq": {"beta": number(0.0, maximum=1.0)},
}
"""The shares of a history that each transform reads; one without default must be given."""


def refused_transform(
    values: Mapping[str, Any], is_given: Callable[[str], bool], *, sequential: bool
) -> tuple[str, str] | None:
    """A key of RecBole's ``transform`` that cannot be as it is, and what it must be; None where all can.

    Args:
        values: the configuration's final values.
        is_given: whether the user gave a key.
        sequential: whether the model is; only its rows have histories.
    """
    name = values["transform"]
    if name is None:
        return None
    if not sequential:
        return "transform", "~ for a model that is not sequential, whose rows have no history"
    for key, check in _SHARES.get(name, {}).items():
        value = values.get(key)
        if key == "ft_ratio" and value is None:
            continue
        try:
            check(value)
        except NotAllowedError as error:
            if value is None:
                return "transform", f"given with {key}, {error}"
            return key, str(error)
    length = values["MAX_ITEM_LIST_LENGTH"]
    if name == "mask_itemseq" and int(values["mask_ratio"] * length) < 1:
        key = "MAX_ITEM_LIST_LENGTH" if is_given("MAX_ITEM_LIST_LENGTH") else "mask_ratio"
        return key, f"large enough that mask_ratio * MAX_ITEM_LIST_LENGTH, here {values['mask_ratio'] * length:g}, is 1"
    return None
