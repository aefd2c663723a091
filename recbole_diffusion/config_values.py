"""What values a configuration's keys may have: checks for RecBole's keys and ours.

A check takes a value and returns it (normalised: one metric becomes a list of one), or raises :class:`NotAllowedError`
with what would have been allowed; whoever calls it adds the key, the value and where it was given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from recbole_diffusion.dates import moment
from recbole_diffusion.registry import nearest

Check = Callable[[Any], Any]


class NotAllowedError(Exception):
    """A value that is not allowed; the message is what would have been, to follow "must be"."""


def integer(minimum: int | None = None, *, below: int | None = None, none: bool = False) -> Check:
    """An integer (a bool is none) of at least ``minimum`` and less than ``below``; ``none`` lets None through."""
    allowed = "an integer" + ("" if minimum is None else f" of at least {minimum}")
    allowed += ("" if below is None else f" and below {below}") + (" or ~" if none else "")

    def check(value: Any) -> Any:
        if value is None and none:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or (minimum is not None and value < minimum)
            or (below is not None and value >= below)
        ):
            raise NotAllowedError(allowed)
        return value

    return check


def number(
    minimum: float | None = None, *, above: float | None = None, maximum: float | None = None, none: bool = False
) -> Check:
    """A finite number within bounds; ``above`` is a lower bound that is not allowed itself; ``none`` lets None
    through."""
    allowed = "a number"
    allowed += f" above {above:g}" if above is not None else f" of at least {minimum:g}" if minimum is not None else ""
    allowed += f" and at most {maximum:g}" if maximum is not None else ""
    allowed += " or ~" if none else ""

    def check(value: Any) -> Any:
        if value is None and none:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
            or (minimum is not None and value < minimum)
            or (above is not None and value <= above)
            or (maximum is not None and value > maximum)
        ):
            raise NotAllowedError(allowed)
        return value

    return check


def boolean(*, none: bool = False) -> Check:
    """True or False, no 0 or 1; ``none`` lets None through."""

    def check(value: Any) -> Any:
        if isinstance(value, bool) or (none and value is None):
            return value
        raise NotAllowedError("True or False" + (" or ~" if none else ""))

    return check


def choice(*choices: str, none: bool = False, any_case: bool = False) -> Check:
    """One of ``choices``; the error has the nearest."""

    def check(value: Any) -> Any:
        if value is None and none:
            return None
        if isinstance(value, str) and (value in choices or (any_case and value.lower() in map(str.lower, choices))):
            return value
        hint = nearest(value, choices) if isinstance(value, str) else None
        raise NotAllowedError(
            "one of " + ", ".join([*choices, *(["~"] if none else [])]) + (f" (did you mean '{hint}'?)" if hint else "")
        )

    return check


def text(*, none: bool = False) -> Check:
    """Text; ``none`` lets None through."""

    def check(value: Any) -> Any:
        if isinstance(value, str) or (none and value is None):
            return value
        raise NotAllowedError("text" + (" or ~" if none else ""))

    return check


def sequence(*, none: bool = False) -> Check:
    """A list (a tuple becomes one); ``none`` lets None through."""

    def check(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return list(value)
        if none and value is None:
            return None
        raise NotAllowedError("a list such as [a, b]" + (" or ~" if none else ""))

    return check


def mapping(*keys: str, none: bool = False) -> Check:
    """A mapping, with no other keys than ``keys`` where any are named; ``none`` lets None through."""

    def check(value: Any) -> Any:
        if none and value is None:
            return None
        if not isinstance(value, Mapping):
            raise NotAllowedError("a mapping such as {a: b}" + (" or ~" if none else ""))
        for key in value if keys else ():
            if key not in keys:
                hint = nearest(str(key), keys)
                raise NotAllowedError(
                    f"a mapping with the keys {', '.join(keys)} and not '{key}'"
                    + (f" (did you mean '{hint}'?)" if hint else "")
                )
        return dict(value)

    return check


def cutoffs(value: Any) -> list[int]:
    """Cut-offs of ranking metrics: a positive integer or several; returns a list."""
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    if not given or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in given):
        raise NotAllowedError("a positive integer or a list of them such as [5, 10, 20]")
    return given


def metric_names(value: Any) -> list[str]:
    """Names of metrics that RecBole knows, and of this package's, in any case; returns a list."""
    from recbole.evaluator.register import metric_types, metrics_dict

    from recbole_diffusion.evaluation.recbole_metrics import register_metrics

    register_metrics()
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else []
    known = sorted(metric_class.__name__ for metric_class in metrics_dict.values())
    for name in names or [""]:
        if not isinstance(name, str) or name.lower() not in metric_types:
            hint = nearest(str(name), known)
            raise NotAllowedError("a list of " + ", ".join(known) + (f" (did you mean '{hint}'?)" if hint else ""))
    return names


_INTERVAL = re.compile(r"\s*[\[(]\s*([-+.\w]+)\s*,\s*([-+.\w]+)\s*[\])]\s*")


def interval(value: Any) -> str | None:
    """An interval of counts in RecBole's notation, ``"[5,inf)"``, or None."""
    allowed = 'an interval such as "[5,inf)" in quotes, lower end first, or ~'
    if value is None:
        return None
    if isinstance(value, (list, tuple)) and len(value) == 2:
        value = f"[{value[0]},{value[1]}]"  # without quotes, YAML reads the closed interval [5,10] as a list
    match = _INTERVAL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise NotAllowedError(allowed)
    try:
        low, high = float(match.group(1)), float(match.group(2))
    except ValueError:
        raise NotAllowedError(allowed) from None
    if not low <= high:
        raise NotAllowedError(allowed)
    return match.group().strip()


def gpu_numbers(value: Any) -> str:
    """Numbers of GPUs as RecBole writes them, ``"0"`` or ``"0,1"``; ``""`` for none."""
    parts = list(value) if isinstance(value, (list, tuple)) else str(value).split(",") if value is not None else [""]
    if isinstance(value, bool) or any(re.fullmatch(r"\s*\d*\s*", str(part)) is None for part in parts):
        raise NotAllowedError("the number of a GPU such as 0, or '' for none")
    return ",".join(str(part).strip() for part in parts)


_SPLIT_BY_RATIO = "[0.8, 0.1, 0.1]"


def evaluation_protocol(value: Any) -> dict[str, Any]:
    """RecBole's ``eval_args``: how rows are split, ordered, grouped, and against which items they are ranked."""
    protocol = mapping("split", "order", "group_by", "mode")(value)
    nested: tuple[tuple[str, Check], ...] = (
        ("order", choice("TO", "RO")),
        ("group_by", choice("user", "none", none=True)),
        ("split", _split),
        ("mode", _ranked_against),
    )
    for name, check in nested:
        if name in protocol:
            try:
                protocol[name] = check(protocol[name])
            except NotAllowedError as error:
                raise NotAllowedError(f"a mapping whose '{name}' is {error}") from None
    return protocol


def _split(value: Any) -> dict[str, Any]:
    split = mapping("LS", "RS", "TS")(value)
    if len(split) != 1:
        raise NotAllowedError(f"{{LS: valid_and_test}}, {{RS: {_SPLIT_BY_RATIO}}} or {{TS: {_SPLIT_BY_RATIO}}}")
    if "LS" in split:
        choice("valid_and_test", "valid_only", "test_only")(split["LS"])
        return split
    ((kind, ratios),) = split.items()
    try:
        return {kind: _three_shares(ratios)}
    except NotAllowedError as error:
        raise NotAllowedError(f"{{{kind}: {_SPLIT_BY_RATIO}}}, {error}") from None


def _ranked_against(value: Any) -> Any:
    for mode in mapping("valid", "test")(value).values() if isinstance(value, Mapping) else [value]:
        if not isinstance(mode, str) or re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d*", mode) is None:
            raise NotAllowedError("full, labeled, or a number of sampled items such as uni100 or pop100")
    return value


def _three_shares(value: Any) -> list[float]:
    shares = list(value) if isinstance(value, (list, tuple)) else []
    if (
        len(shares) != 3
        or any(isinstance(share, bool) or not isinstance(share, (int, float)) for share in shares)
        or not all(share >= 0 and math.isfinite(share) for share in shares)
        or shares[0] <= 0
    ):
        raise NotAllowedError(f"three shares of training, validation and test such as {_SPLIT_BY_RATIO}")
    return shares


def _two_times(value: Any) -> list[int | float | str] | None:
    if value is None:
        return None
    times = list(value) if isinstance(value, (list, tuple)) else []
    if len(times) != 2 or any(isinstance(time, bool) or not isinstance(time, (int, float, str)) for time in times):
        raise NotAllowedError("[first time of validation, first time of test], numbers or dates such as 2014-09-01")
    for time in times:
        try:
            moment(time)
        except ValueError as error:
            raise NotAllowedError(f"two numbers or dates such as 2014-09-01 ({error})") from None
    return times


def _loggers(value: Any) -> list[str]:
    names = [] if value is None else [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or len(set(map(str, names))) < len(names):
        raise NotAllowedError("a list of different names such as [tensorboard, wandb]")
    known = ("tensorboard", "wandb", "mlflow")
    return [choice(*known)(name) for name in names]


def _scheduler(value: Any) -> str | None:
    name = choice("none", "step", none=True)(value)
    return None if name == "none" else name


CHECKS: dict[str, Check] = {
    # environment
    "gpu_id": gpu_numbers,
    "use_gpu": boolean(),
    "worker": integer(0),
    "num_threads": integer(1, none=True),
    "reuse_memory": boolean(),
    "num_workers": integer(1),
    "worker_restarts": integer(0),
    "ray_address": text(none=True),
    "train_noise": choice("generator", "keyed"),
    "seed": integer(0, below=2**32),  # numpy takes no larger one
    "eval_seed": integer(0, none=True),
    "reproducibility": boolean(),
    "show_progress": boolean(),
    "state": choice("INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL", none=True, any_case=True),
    "data_path": text(),
    "loggers": _loggers,
    "log_wandb": boolean(),
    "wandb_project": text(none=True),
    "mlflow_experiment": text(none=True),
    "mlflow_tracking_uri": text(none=True),
    "run_name": text(none=True),
    # training
    "epochs": integer(1),
    "train_batch_size": integer(1),
    "learner": choice("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam", any_case=True),
    "learning_rate": number(above=0.0),
    "weight_decay": number(0.0),
    "eval_step": integer(0),
    "stopping_step": integer(0),
    "time_limit": number(above=0.0, none=True),
    "time_limit_clock": choice("wall", "processor"),
    "loss_decimal_place": integer(0),
    "scheduler": _scheduler,
    "scheduler_step_size": integer(1),
    "scheduler_gamma": number(above=0.0, maximum=1.0),
    "precision": choice("fp32", "bf16", "fp16"),
    # evaluation
    "protocol": choice("leave_one_out", "user_split_multi", "user_split_next", "global_time", "eval_args"),
    "split_ratio": _three_shares,
    "split_seed": integer(0, below=2**32),
    "user_order": choice("shuffled", "first_time"),
    "split_time": _two_times,
    "time_target": choice("last", "first", "all", "successive"),
    "eval_target": choice("last", "all_positions"),
    "min_history": integer(1, none=True),
    "one_cut_per_user": boolean(),
    "filter_seen": boolean(),
    "rank_memory": integer(1),
    "save_per_user": choice("parquet", none=True),
    "eval_args": evaluation_protocol,
    "metrics": metric_names,
    "topk": cutoffs,
    "valid_metric": text(),
    "eval_batch_size": integer(1),
    "metric_decimal_place": integer(0),
    "tail_ratio": number(above=0.0, none=True),
    "label_repeats": boolean(),
    "category_field": text(none=True),
    "title_field": text(none=True),
    # data
    "MAX_ITEM_LIST_LENGTH": integer(1),
    "time_precision": choice("exact", "float32"),
    "cache": boolean(),
    "cache_dir": text(none=True),
    "length_bucketing": integer(1, none=True),
    "encoding": text(none=True),
    "field_separator": text(),
    "seq_separator": text(),
    "preload_weight": mapping(none=True),
    "rm_dup_inter": choice("first", "last", none=True),
    "alias_of_user_id": sequence(none=True),
    "alias_of_item_id": sequence(none=True),
    "alias_of_entity_id": sequence(none=True),
    "alias_of_relation_id": sequence(none=True),
    "benchmark_filename": sequence(none=True),
    "normalize_field": sequence(none=True),
    "normalize_all": boolean(none=True),
    "user_inter_num_interval": interval,
    "item_inter_num_interval": interval,
    "entity_kg_num_interval": interval,
    "relation_kg_num_interval": interval,
}


def check_like(default: Any) -> Check:
    """Check for a key that has no rule of its own: the kind of value that its default is."""
    if isinstance(default, bool):
        return boolean()
    if isinstance(default, (int, float)):
        return number()
    if isinstance(default, str):
        return text(none=True)
    if isinstance(default, list):
        return sequence()
    if isinstance(default, dict):
        return mapping(none=True)
    return lambda value: value
