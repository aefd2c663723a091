"""Whether runs may stand in one table, and what a reader must know of them where they do.

Refused, unless it is allowed by name: other data (`data`), rows of another protocol (`protocol`), seeds of one row
that differ in more than the seed (`settings`). Two results of one label and seed are refused in any case: one of
them would count twice. Everything else that differs is said.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from recbole_diffusion.benchmarking.results import CONFIG, RESULT, RunRecord, settings, values_of
from recbole_diffusion.errors import UserError

DIFFERENCES = ("data", "protocol", "settings")
"""What can be allowed."""

# Of a protocol's facts these belong to the model or to the measurement, not to which rows are asked for.
_OF_THE_MODEL = ("topk", "eval_seed", "MAX_ITEM_LIST_LENGTH", "one_cut_per_user", "filter_seen", "repeatable")
# Keys that say where, how watched or on what a run ran, and never what it computes.
_OF_THE_PLACE = frozenset(
    (
        *(
            "seed",
            "preset",
            "data_path",
            "checkpoint_dir",
            "cache",
            "cache_dir",
            "rank_memory",
            "eval_batch_size",
            "reuse_memory",
        ),
        *("use_gpu", "gpu_id", "device", "num_threads", "worker", "num_workers", "worker_restarts", "ray_address"),
        *("save_per_user", "save_dataset", "save_dataloaders", "dataset_save_path", "dataloaders_save_path"),
        *("show_progress", "state", "loss_decimal_place", "loggers", "run_name", "log_wandb", "wandb_project"),
        *("mlflow_experiment", "mlflow_tracking_uri"),
    )
)


def check_allowed(allow: Collection[str]) -> None:
    """Refuse an allowance of something else.

    Raises:
        UserError: names it.
    """
    for word in allow:
        if word not in DIFFERENCES:
            raise UserError(f"allow: {word!r} is unknown; allowed: {', '.join(DIFFERENCES)}")


def check_seeds(label: str, runs: Sequence[RunRecord], allow: Collection[str]) -> list[str]:
    """Refuse finished runs that are not seeds of one thing, or say how they differ where that is allowed.

    Raises:
        UserError: a seed twice, or settings that differ.
    """
    seeds: dict[int, RunRecord] = {}
    for run in runs:
        if run.seed is not None and run.seed in seeds:
            raise UserError(
                f"{seeds[run.seed].folder} and {run.folder} are both {label} with seed {run.seed}; leave one out, or "
                'give one another label ({"label": ...} in its about.json)'
            )
        if run.seed is not None:
            seeds[run.seed] = run
    notes: dict[str, None] = {}
    texts = [settings(run.folder) for run in runs] if len(runs) > 1 else []
    for run, text in zip(runs[1:], texts[1:], strict=False):
        key, values = _first_difference(runs[0], run, texts[0], text)
        if key and "settings" not in allow:
            raise UserError(
                f"{runs[0].folder} and {run.folder} are both {label} but differ in {key}: {values[0]} and {values[1]}; "
                "give one another label ({\"label\": ...} in its about.json), leave it out, or allow 'settings'"
            )
        if key:
            notes[f"Runs of {label} differ in {key}."] = None
    return list(notes)


def _first_difference(
    one: RunRecord, other: RunRecord, text: Mapping[str, str], other_text: Mapping[str, str]
) -> tuple[str, tuple[Any, Any]]:
    """The first key that two runs have with different values; keys that only one version of the code has are left."""
    pairs = [("model", one.model, other.model)]
    facts, other_facts = one.protocol_facts, other.protocol_facts
    pairs += [(key, facts[key], other_facts[key]) for key in facts if key in other_facts and key != "topk"]
    for key in text:
        if key in other_text and key not in _OF_THE_PLACE and text[key] != other_text[key]:
            first, second = (
                values_of(lines, run.folder / CONFIG, [key])[key] for lines, run in ((text, one), (other_text, other))
            )
            pairs.append((key, first, second))
    for key, first, second in pairs:
        if first != second:
            return key, (first, second)
    return "", (None, None)


def check_table(runs: Sequence[RunRecord], allow: Collection[str]) -> list[str]:
    """Refuse finished runs of other data or protocols, or say how they differ where that is allowed.

    Raises:
        UserError: names both runs and what differs.
    """
    notes: dict[str, None] = {}
    for kind, difference in (("data", other_data), ("protocol", _other_protocol)):
        for one, other in combinations(_one_of_each(runs, difference), 2):
            what = difference(one, other)
            if kind not in allow:
                raise UserError(
                    f"{one.folder / RESULT} and {other.folder / RESULT} have other {kind}: {what}; leave one out, or "
                    f"allow '{kind}'"
                )
            notes[f"Other {kind}, not to be compared: {_name(one)} and {_name(other)}: {what}."] = None
    drawn = [run.label for run in runs if _sampled(run) and run.protocol_facts.get("eval_seed", 0) is None]
    if drawn:
        notes[f"Candidates drawn by each run for itself (eval_seed: ~): {listed(drawn)}."] = None
    unknown = [run for run in runs if run.data is None]
    if unknown:
        notes[f"Data not recorded, hence not checked: {listed(run.label for run in unknown)}."] = None
    return list(notes)


def _one_of_each(runs: Sequence[RunRecord], difference: Callable[[RunRecord, RunRecord], str]) -> list[RunRecord]:
    """The first run of each kind."""
    kinds: list[RunRecord] = []
    for run in runs:
        if all(difference(one, run) for one in kinds):
            kinds.append(run)
    return kinds


def comparable(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs were asked for the same rows of the same data, as far as that is recorded."""
    return not other_data(one, other) and not other_protocol_key(one, other)


def other_data(one: RunRecord, other: RunRecord) -> str:
    """What of the data differs, as far as both recorded it; empty where nothing does.

    Files beside the interactions do not count, as in `provenance.check_same_data`.
    """
    data, other_data = one.data or {}, other.data or {}
    files, other_files = (
        {name: digest for name, digest in (facts.get("files") or {}).items() if name.endswith(".inter")}
        for facts in (data, other_data)
    )
    for name in sorted(files.keys() | other_files.keys()) if files and other_files else ():
        if files.get(name) != other_files.get(name):
            return f"{name} {_short(files.get(name))} and {_short(other_files.get(name))}"
    for key in ("users", "items", "ids"):
        if key in data and key in other_data and data[key] != other_data[key]:
            return f"{key} {_short(data[key])} and {_short(other_data[key])} after filtering"
    return ""


def _short(value: Any) -> str:
    return "absent" if value is None else value[:12] if isinstance(value, str) else str(value)


def other_protocol_key(one: RunRecord, other: RunRecord) -> str:
    """Which key of the protocol differs; empty where none does, as far as both recorded it."""
    facts, other_facts = one.protocol_facts, other.protocol_facts
    for key in facts:
        if key in other_facts and key not in _OF_THE_MODEL and facts[key] != other_facts[key]:
            return key
    # The key's part in the protocol: which candidates of sampled evaluation are drawn.
    if _sampled(one) and facts.get("eval_seed") != other_facts.get("eval_seed"):
        return "eval_seed"
    return ""


def _sampled(run: RunRecord) -> bool:
    """Whether the test ranks among sampled candidates."""
    mode = (run.protocol_facts.get("eval_args") or {}).get("mode")
    test = mode.get("test") if isinstance(mode, Mapping) else mode
    return str(test)[:3] in ("uni", "pop")


def _other_protocol(one: RunRecord, other: RunRecord) -> str:
    """That key with both values."""
    key = other_protocol_key(one, other)
    return f"{key} {one.protocol_facts[key]} and {other.protocol_facts[key]}" if key else ""


def notes_of(rows: Mapping[str, tuple[Sequence[RunRecord], Sequence[RunRecord]]]) -> list[str]:
    """What a reader must know of the rows beside their figures.

    Args:
        rows: label -> finished runs, unfinished runs.
    """
    notes = []
    finished = {label: runs for label, (runs, _) in rows.items() if runs}
    if len({len(runs) for runs in finished.values()}) > 1:
        notes.append(
            "Numbers of seeds differ: " + _grouped((str(len(runs)), label) for label, runs in finished.items())
        )
    filtered = [(str(run.filter_seen), label) for label, runs in finished.items() for run in runs[:1]]
    known = [(word, label) for word, label in filtered if word != "None"]
    if len({word for word, _ in known}) > 1:
        notes.append(
            "Whether items of the history are left out of the ranking (filter_seen) differs: " + _grouped(known)
        )
    waiting = [_name(run) for _, unfinished in rows.values() for run in unfinished]
    if waiting:
        notes.append(f"Unfinished, not in the figures: {', '.join(waiting)}.")
    versions = dict.fromkeys(run.code_version for runs in finished.values() for run in runs if run.code_version)
    if len(versions) > 1:
        notes.append(f"Runs are of several versions of the code: {'; '.join(versions)}.")
    elif any("uncommitted" in version for version in versions):
        notes.append("The code had uncommitted changes.")
    return notes


def _grouped(pairs: Iterable[tuple[str, str]]) -> str:
    """`value` for labels; the next value for others."""
    groups: dict[str, dict[str, None]] = {}
    for value, label in pairs:
        groups.setdefault(value, {})[label] = None
    return "; ".join(f"{value} for {listed(labels)}" for value, labels in groups.items()) + "."


def listed(labels: Iterable[str]) -> str:
    """Labels in a row, each once; quoted where one has a comma itself."""
    return ", ".join(f"'{label}'" if "," in label else label for label in dict.fromkeys(labels))


def _name(run: RunRecord) -> str:
    return run.label if run.seed is None else f"{run.label} seed {run.seed}"
