"""How rows become training, validation and test: which keys each protocol reads, and which of two keys wins.

`protocol` names a protocol; RecBole's own `eval_args.split` goes with the protocols `leave_one_out` and `eval_args`.
What contradicts itself is refused in one line, and so is a key that the chosen protocol does not read; see
docs/protocols.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from recbole_diffusion.dates import moment
from recbole_diffusion.errors import UserError

LEAVE_ONE_OUT = {"LS": "valid_and_test"}

KEYS_OF_PROTOCOL: dict[str, tuple[str, ...]] = {
    "leave_one_out": (),
    "user_split_multi": ("split_ratio", "user_order", "split_seed", "min_history", "one_cut_per_user"),
    "user_split_next": ("split_ratio", "user_order", "split_seed", "min_history", "eval_target"),
    "global_time": ("split_ratio", "split_time", "min_history", "time_target"),
    "eval_args": (),
}
"""The protocols, and the keys that each one reads beside eval_args.mode and filter_seen."""

_SPLITTING_KEYS = ("split_ratio", "user_order", "split_seed", "split_time")  # decide who or what trains
# Which interactions there are, and in what order: with another value a test target may be one that trained.
ORDERING_KEYS = (
    "time_precision",
    "TIME_FIELD",
    "rm_dup_inter",
    "val_interval",
    "user_inter_num_interval",
    "item_inter_num_interval",
)

OF_RECBOLE = ("leave_one_out", "eval_args")


def over_eval_args(below: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`eval_args` of which only a part is given, completed from the layers below; so is a `mode` of one split alone.

    RecBole would rank the other split as the one that is given: ``{mode: {valid: uni10}}`` would sample the test too.
    """
    merged = {**below, **given}
    mode, mode_below = merged.get("mode"), below.get("mode")
    if isinstance(mode, Mapping) and mode_below is not None:
        both = mode_below if isinstance(mode_below, Mapping) else {"valid": mode_below, "test": mode_below}
        merged["mode"] = {**both, **mode}
    return merged


def settle_protocol(
    values: dict[str, Any],
    defaults: Mapping[str, Any],
    given: Mapping[str, Any],
    origin: Callable[[str], str],
    *,
    sequential: bool,
    model: str,
) -> None:
    """Make `protocol`, `eval_args`, `filter_seen` and their companions say one thing, or refuse them.

    * Only one of `protocol` and `eval_args.split` is given: it wins. A split other than leave-one-out means
      ``protocol: eval_args``.
    * `filter_seen` of a model that is not sequential follows from RecBole's key `repeatable`, which also decides from
      which items it draws negatives.

    Args:
        values: the final values of all keys; changed in place.
        defaults: those of the layers below the person's.
        given: what the person gave, in files or overrides.
        origin: where a key was given.
        sequential: whether the model is.
        model: its name, for messages.

    Raises:
        UserError: a contradiction, a key that the protocol does not read, a protocol that the model cannot have.
    """
    _choose(values, given, origin)
    protocol = values["protocol"]

    def refuse(key: str, reason: str) -> UserError:
        return UserError(f"{key}: {values[key]} ({origin(key)}) {reason}")

    if not sequential:
        if protocol not in OF_RECBOLE:
            raise refuse("protocol", f"needs a sequential model, {model} has {' or '.join(OF_RECBOLE)}")
        _follow_repeatable(values, given, origin, model)
    elif values["eval_args"]["order"] != "TO":
        raise refuse("eval_args", f"must have order TO: {model} is sequential, its histories are in order of time")
    if protocol not in OF_RECBOLE and values.get("benchmark_filename"):
        raise refuse("protocol", "cannot be had with benchmark_filename, whose files are the split; leave one out")
    for key in dict.fromkeys(key for keys in KEYS_OF_PROTOCOL.values() for key in keys):
        if key in given and key not in KEYS_OF_PROTOCOL[protocol] and values[key] != defaults[key]:
            readers = [name for name, keys in KEYS_OF_PROTOCOL.items() if key in keys]
            raise refuse(key, f"is read by protocol {' or '.join(readers)}, not by {protocol}; leave it out")
    if protocol == "global_time" and values["split_time"] is not None:
        if "split_ratio" in given and values["split_ratio"] != defaults["split_ratio"]:
            raise refuse("split_ratio", "cannot be given together with split_time; leave one out")
        first, second = map(moment, values["split_time"])
        if second < first:
            raise refuse("split_time", "must begin test no earlier than validation")
    mode = values["eval_args"]["mode"]
    if any(one != "full" for one in (mode.values() if isinstance(mode, Mapping) else [mode])):
        if protocol == "user_split_multi" or (protocol == "global_time" and values["time_target"] == "all"):
            raise refuse("eval_args", f"must have mode full: rows of protocol {protocol} have several targets")
        several = {"user_split_next": ("eval_target", "all_positions"), "global_time": ("time_target", "successive")}
        key, value = several.get(protocol, ("protocol", None))
        if values[key] == value:
            raise refuse(key, "needs eval_args.mode full: RecBole joins the rows of a user where items are sampled")
        if sequential and values["filter_seen"]:
            raise refuse("filter_seen", "needs eval_args.mode full: sampled items are ranked as they are drawn")


def _choose(values: dict[str, Any], given: Mapping[str, Any], origin: Callable[[str], str]) -> None:
    """Settle `protocol` and `eval_args.split`: what a person gave wins, then a dataset's protocol."""
    protocol, split = values["protocol"], values["eval_args"]["split"]
    leaves_one_out = "LS" in split
    if protocol == "eval_args" or (protocol == "leave_one_out" and leaves_one_out):
        return
    protocol_given, split_given = "protocol" in given, "split" in given.get("eval_args", {})
    if protocol_given and split_given and split != LEAVE_ONE_OUT:
        raise UserError(
            f"protocol: {protocol} ({origin('protocol')}) and eval_args.split: {split} ({origin('eval_args')}) "
            "contradict each other; leave one out"
        )
    if protocol_given:
        if protocol == "leave_one_out":
            values["eval_args"]["split"] = dict(LEAVE_ONE_OUT)
    elif split_given or protocol == "leave_one_out":
        values["protocol"] = "leave_one_out" if leaves_one_out else "eval_args"


def _follow_repeatable(
    values: dict[str, Any], given: Mapping[str, Any], origin: Callable[[str], str], model: str
) -> None:
    follows = not values["repeatable"]
    if "filter_seen" in given and values["filter_seen"] is not follows:
        raise UserError(
            f"filter_seen: {values['filter_seen']} ({origin('filter_seen')}) contradicts repeatable: "
            f"{values['repeatable']}; {model} is not sequential, set repeatable: {not values['repeatable']} instead"
        )
    values["filter_seen"] = follows


def refuse_other_training_rows(config: Any, stored: Mapping[str, Any], checkpoint: object) -> None:
    """Refuse to rank with a checkpoint under a split other than its own: rows that test may have trained it.

    What is asked of the same users (`eval_target`, `time_target`, `filter_seen`, `eval_args.mode`) may change.

    Args:
        config: the configuration of the evaluation, a `RunConfig`.
        stored: the checkpoint's configuration; keys that its version did not have are taken to have today's defaults.
        checkpoint: where it lies, for the message.

    Raises:
        UserError: names the first key that differs.
    """
    split_keys = ("split", "order", "group_by")
    trained = {key: stored.get(key, config.default(key)) for key in ("protocol", *_SPLITTING_KEYS)}
    trained_eval_args = {**config.default("eval_args"), **stored.get("eval_args", {})}
    if "protocol" not in stored:
        trained["protocol"] = "leave_one_out" if "LS" in trained_eval_args["split"] else "eval_args"
    protocol = trained["protocol"]
    pairs = [("protocol", protocol, config["protocol"])]
    if protocol in OF_RECBOLE:
        pairs += [(f"eval_args.{key}", trained_eval_args[key], config["eval_args"][key]) for key in split_keys]
    else:
        keys = [key for key in _SPLITTING_KEYS if key in KEYS_OF_PROTOCOL[protocol]]
        pairs += [(key, trained[key], config[key]) for key in keys]
    pairs += [(key, stored.get(key, config.default(key)), config[key]) for key in ORDERING_KEYS]
    for key, own, now in pairs:
        if own != now:
            raise UserError(
                f"{key}: {now} ({config.origin(key.partition('.')[0])}) differs from {own}, by which {checkpoint} was "
                "trained: rows that test may have trained it; leave it out"
            )


def protocol_facts(config: Any) -> dict[str, Any]:
    """What a result must say for its numbers to be compared: the protocol and all that it read.

    Args:
        config: the configuration of the run.
    """
    protocol = config["protocol"] or "eval_args"
    keys = ["eval_args", *KEYS_OF_PROTOCOL[protocol], "filter_seen", "repeatable"]
    facts = {"protocol": protocol, **{key: config[key] for key in keys}}
    if protocol not in OF_RECBOLE:
        facts["eval_args"] = {"mode": config["eval_args"]["mode"]}  # the rest of it is not read
    if facts.get("user_order") == "first_time":
        del facts["split_seed"]
    if facts.get("split_time") is not None:
        del facts["split_ratio"]
    return facts


def recorded_protocol(config: Any) -> dict[str, Any]:
    """What a result records of its protocol: :func:`protocol_facts`, and what else its metrics depend on.

    Args:
        config: the configuration of the run.
    """
    keys = ("topk", "label_repeats", "category_field", "eval_seed", "MAX_ITEM_LIST_LENGTH")
    return {**protocol_facts(config), **{key: config[key] for key in keys}}
