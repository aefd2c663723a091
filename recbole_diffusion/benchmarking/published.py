"""Figures that papers printed, to stand beside ours.

A file is one source:

    {"short": "DMI paper, Table 2", "source": "Le et al.: ...", "unit": "percent", "protocol": "users 8:1:1 ...",
     "values": {"<dataset>_<protocol>": {"<model>": {"HR@50": 26.41, ...}}}}

`<dataset>` alone stands for the protocol leave_one_out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.metric_names import metric_key
from recbole_diffusion.errors import UserError


@dataclass(frozen=True)
class Published:
    """One source of printed figures.

    Attributes:
        short: what a table calls it.
        source: the reference in full.
        protocol: how it evaluated, in words.
        values: table -> model -> metric (as results name it) -> value in the table's unit.
    """

    short: str
    source: str
    protocol: str
    values: Mapping[str, Mapping[str, Mapping[str, float]]]

    def of(self, table: str, model: str) -> Mapping[str, float]:
        """The figures of a model in a table; empty where it printed none."""
        return self.values.get(table, {}).get(model, {})


def table_name(dataset: str, protocol: str) -> str:
    """What files of published figures and of tables call a dataset under a protocol."""
    return dataset if protocol == "leave_one_out" else f"{dataset}_{protocol}"


def read_published(places: Path | str | Sequence[Path | str]) -> list[Published]:
    """Every source in some files, or in the `.json` files of some folders.

    Raises:
        UserError: a place is absent, or a file is not of the form above (file, and line or key).
    """
    files: list[Path] = []
    for place in map(Path, [places] if isinstance(places, (str, Path)) else places):
        if not place.exists():
            raise UserError(f"no published figures at {place}; give a .json file or a folder of them")
        files += sorted(place.glob("*.json")) if place.is_dir() else [place]
    return [_read(file) for file in files]


def _read(path: Path) -> Published:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    for key, kind in (("short", str), ("source", str), ("values", dict)):
        if not isinstance(facts, dict) or not isinstance(facts.get(key), kind):
            raise UserError(
                f"{path}: needs '{key}', {'a text' if kind is str else 'table -> model -> metric -> value'}"
            )
    if facts.get("unit", "percent") != "percent":
        raise UserError(f"{path}: 'unit' is {facts['unit']!r}; allowed: percent")
    values: dict[str, dict[str, dict[str, float]]] = {}
    for table, models in facts["values"].items():
        values[table] = {}
        for model, figures in _mapping(path, table, models).items():
            values[table][model] = {
                metric_key(name): _number(path, f"{table}, {model}, {name}", value)
                for name, value in _mapping(path, f"{table}, {model}", figures).items()
            }
    return Published(facts["short"], facts["source"], str(facts.get("protocol") or ""), values)


def _mapping(path: Path, where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{path}: 'values' of {where} are {value!r}; allowed: table -> model -> metric -> value")
    return value


def _number(path: Path, where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{path}: the value of {where} is {value!r}; allowed: a number in percent")
    return float(value)
