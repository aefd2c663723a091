"""Under which circumstances the figures of a report came about: protocol, data, code, packages and devices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_diffusion.benchmarking.comparability import listed
from recbole_diffusion.benchmarking.results import RunRecord
from recbole_diffusion.benchmarking.tables import ResultTable

ROWS_OF_PROTOCOL = {
    "leave_one_out": "each user's last item tests, the one before it validates",
    "user_split_multi": "of users that training has not seen, the last fifth of the items, all at once",
    "user_split_next": "one next item of users that training has not seen",
    "global_time": "what users do after a date before which everybody trains",
    "eval_args": "what RecBole's eval_args.split says",
}
"""Which rows a protocol's evaluation asks for (docs/protocols.md)."""


@dataclass(frozen=True)
class Fact:
    """One thing that is to be known.

    Attributes:
        name: of it.
        values: with the labels that have it; no labels where all have the same.
        key: whether the name is a key of the configuration.
    """

    name: str
    values: Sequence[tuple[str, str]]
    key: bool = False


def protocol_facts(table: ResultTable) -> list[Fact]:
    """Which rows are asked for, what is ranked, and every key that the protocol read."""
    runs = _runs(table)
    words = ROWS_OF_PROTOCOL.get(table.protocol)
    facts = [Fact("rows of the evaluation", [(words, "")])] if words else []
    facts.append(Fact("ranked", _values((_ranked(run.protocol_facts), run.label) for run in runs)))
    facts.append(Fact("items of a row's history", _values((_seen(run), run.label) for run in runs)))
    keys = dict.fromkeys(key for run in runs for key in run.protocol_facts)
    for key in keys:
        pairs = ((plain(run.protocol_facts[key]), run.label) for run in runs if key in run.protocol_facts)
        facts.append(Fact(key, _values(pairs), key=True))
    return facts


def data_facts(table: ResultTable) -> list[Fact]:
    """Sizes of the data after filtering, and SHA-256 of their files; empty where no run recorded them."""
    runs = [run for run in _runs(table) if run.data]
    facts = []
    for key in ("users", "items"):
        pairs = [(f"{run.data[key]:,}", run.label) for run in runs if run.data and key in run.data]
        if pairs:
            facts.append(Fact(f"{key} after filtering", _values(pairs)))
    files = dict.fromkeys(name for run in runs for name in (run.data or {}).get("files") or {})
    for name in files:
        pairs = [(digests[name], run.label) for run in runs if name in (digests := (run.data or {}).get("files") or {})]
        facts.append(Fact(f"SHA-256 of {name}", _values(pairs)))
    return facts


def environment_facts(runs: Sequence[RunRecord]) -> list[Fact]:
    """Code, devices and package versions of finished runs, each with how many of them had it where they differ."""
    counted = [
        ("code of recbole-diffusion", [run.code_version for run in runs if run.code_version]),
        ("device", [run.device for run in runs if run.device]),
    ]
    packages = dict.fromkeys(name for run in runs for name in run.versions)
    counted += [(name, [run.versions[name] for run in runs if name in run.versions]) for name in packages]
    return [Fact(name, _counted(values)) for name, values in counted if values]


def plain(value: Any) -> str:
    """A value of a configuration as text: one line of JSON, a text as it is."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def settings_text(settings: Mapping[str, Any]) -> str:
    """Keys with their values, in a row."""
    return ", ".join(f"{key}: {plain(value)}" for key, value in settings.items())


def _runs(table: ResultTable) -> list[RunRecord]:
    """Those behind the figures; the unfinished ones where there is no other."""
    finished = [run for row in table.rows for run in row.runs]
    return finished or [run for row in table.rows for run in row.unfinished]


def _ranked(facts: Mapping[str, Any]) -> str:
    mode = (facts.get("eval_args") or {}).get("mode") if isinstance(facts.get("eval_args"), Mapping) else None
    mode = mode.get("test") if isinstance(mode, Mapping) else mode
    if mode is None:
        return "not recorded"
    return "every item" if mode == "full" else f"the targets and sampled items ({mode})"


def _seen(run: RunRecord) -> str:
    if run.filter_seen is None:
        return "not recorded whether they are ranked"
    return "left out of the ranking (filter_seen)" if run.filter_seen else "ranked like the others"


def _values(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Different values, each with its labels; without them where there is one value."""
    groups: dict[str, dict[str, None]] = {}
    for value, label in pairs:
        groups.setdefault(value, {})[label] = None
    if len(groups) == 1:
        return [(next(iter(groups)), "")]
    return [(value, listed(labels)) for value, labels in groups.items()]


def _counted(values: Sequence[str]) -> list[tuple[str, str]]:
    """Different values, each with the number of runs; without it where there is one value."""
    numbers: dict[str, int] = {}
    for value in values:
        numbers[value] = numbers.get(value, 0) + 1
    if len(numbers) == 1:
        return [(next(iter(numbers)), "")]
    return [(value, f"{number} {'run' if number == 1 else 'runs'}") for value, number in numbers.items()]
