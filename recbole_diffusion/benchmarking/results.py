"""What run folders hold, as records: what was run, its metrics, and where they come from.

A run folder has a config.yaml from its beginning and a result.json once it is finished; per_user/test.parquet is
there with `save_per_user: parquet`. A run without result.json is a record, too, so that a table can say what is
missing. Reading a run opens its result.json and nothing else that is large: a configuration is read where a result
lacks what it says or where runs must be told apart, and rows only where a test needs them.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_diffusion.benchmarking.metric_names import metric_key
from recbole_diffusion.config_files import parse_value
from recbole_diffusion.config_protocols import KEYS_OF_PROTOCOL
from recbole_diffusion.errors import UserError

CONFIG, RESULT, ABOUT, EPOCHS = "config.yaml", "result.json", "about.json", "metrics.csv"
SWEEP, SWEEP_RUN = "sweep.json", "best_run"  # of a sweep's runs only the best one is tested
_KEY = re.compile(r"([A-Za-z_][\w.]*):(?:\s|$)")
_PROTOCOL_KEYS = dict.fromkeys(("protocol", "eval_args", *(k for keys in KEYS_OF_PROTOCOL.values() for k in keys)))


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        folder: where it lies.
        model: the model's name.
        label: what tables call it; runs of one label are seeds of one row.
        published_as: name of the model in published tables.
        dataset: the data's name.
        protocol: the word for which rows train and test.
        protocol_facts: that word and the keys that the protocol read.
        seed: of training; None where none is recorded.
        test, valid: metric -> value as results have it (a share, not percent); empty while unfinished.
        epochs: how many were trained.
        seconds: wall time; None while unfinished.
        processor_seconds: CPU time, of training, validations and test; None where it is not recorded.
        device: in words; None while unfinished.
        data: fingerprint of the data; None where none is recorded.
        code: version, commit, and whether files differed from it.
        finished: whether there is a result.
        best_epoch: of the best validation; None where none is recorded.
        valid_metric: that it was chosen by, as results name it; empty where none is recorded.
        parameters: how many are trained; None where it is not recorded.
        versions: package -> version.
        ended: when, as the run wrote it; empty while unfinished.
    """

    folder: Path
    model: str
    label: str
    published_as: str
    dataset: str
    protocol: str
    protocol_facts: Mapping[str, Any]
    seed: int | None
    test: Mapping[str, float] = field(default_factory=dict)
    valid: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 0
    seconds: float | None = None
    device: str | None = None
    data: Mapping[str, Any] | None = None
    code: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = True
    best_epoch: int | None = None
    valid_metric: str = ""
    parameters: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    ended: str = ""
    processor_seconds: float | None = None

    @property
    def filter_seen(self) -> bool | None:
        """Whether the items of a row's history were left out of its ranking; None where it is not recorded."""
        value = self.protocol_facts.get("filter_seen")
        return None if value is None else bool(value)

    @property
    def per_user(self) -> Path:
        """Where its test row by row is, if it was kept."""
        return self.folder / "per_user" / "test.parquet"

    @property
    def code_version(self) -> str:
        """Version, commit and uncommitted changes in words; empty where they are not recorded."""
        parts = [str(self.code.get("version") or ""), str(self.code.get("commit") or "")[:12]]
        parts.append("uncommitted changes" if self.code.get("modified") else "")
        return ", ".join(part for part in parts if part)


def find_runs(places: Path | str | Sequence[Path | str]) -> list[RunRecord]:
    """Every run in some folders, in order of the places and of the paths in them.

    Args:
        places: run folders, or folders that hold some at any depth. Of a sweep only its best run counts.

    Raises:
        UserError: a place is absent or holds no run; a run cannot be read.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, [places] if isinstance(places, (str, Path)) else places):
        if not place.is_dir():
            raise UserError(f"no folder {place}; give run folders, or a folder that holds some")
        below = list(_run_folders(place))
        if not below:
            raise UserError(
                f"{place} holds no run folder: one has a {CONFIG} and, once finished, a {RESULT}; give another folder"
            )
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return [read_run(folder) for folder in found.values()]


def _run_folders(place: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(place):
        if SWEEP in files:
            folders[:] = [folder for folder in folders if folder == SWEEP_RUN]
        elif CONFIG in files or RESULT in files:
            yield Path(name)
            folders.clear()
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))


def read_run(folder: Path | str, label: str | None = None) -> RunRecord:
    """The record of one run folder.

    Args:
        folder: with a result.json, or while unfinished a config.yaml.
        label: what tables call it; None for the `label` in its about.json, else the model's name.

    Raises:
        UserError: the folder is no run's, or a file in it is wrong (file, and line or key).
    """
    folder = Path(folder)
    about = _read_json(folder / ABOUT) if (folder / ABOUT).is_file() else {}
    result, config = folder / RESULT, folder / CONFIG
    if result.is_file():
        source, facts = result, _read_json(result)
    elif config.is_file():
        source, facts = config, values_of(settings(folder), config, ("model", "dataset", "seed"))
    else:
        raise UserError(f"{folder} is no run folder: it has neither {RESULT} nor {CONFIG}")
    finished = source == result
    model, dataset = (_checked(source, facts, key, str) for key in ("model", "dataset"))
    protocol_facts = _protocol(source, facts if finished else {}, folder)
    return RunRecord(
        folder=folder,
        model=model,
        label=table_label(label or str(about.get("label") or model)),
        published_as=str(about.get("compare_with") or model),
        dataset=dataset,
        protocol=str(protocol_facts["protocol"]),
        protocol_facts=protocol_facts,
        seed=_checked(source, facts, "seed", int, optional=True),
        test=_metrics(source, facts, "test_result") if finished else {},
        valid=_metrics(source, facts, "valid_result") if finished else {},
        epochs=(_checked(source, facts, "epochs", int, optional=True) or 0) if finished else _epochs(folder),
        seconds=_checked(source, facts, "wall_seconds", float, optional=True),
        device=_checked(source, facts, "device", str, optional=True),
        data=_checked(source, facts, "data", dict, optional=True),
        code=_checked(source, facts, "code", dict, optional=True) or {},
        finished=finished,
        best_epoch=_checked(source, facts, "best_epoch", int, optional=True),
        valid_metric=metric_key(_checked(source, facts, "valid_metric", str, optional=True) or ""),
        parameters=_checked(source, facts, "parameters", int, optional=True),
        versions=_checked(source, facts, "versions", dict, optional=True) or {},
        ended=(_checked(source, facts, "finished", str, optional=True) or "") if finished else "",
        processor_seconds=_checked(source, facts, "processor_seconds", float, optional=True),
    )


def table_label(label: str) -> str:
    """A label as tables have it: in one line, with single blanks."""
    return " ".join(label.split())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg}); repeat the run or leave it out"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(facts, dict):
        raise UserError(f"{path}: holds {type(facts).__name__} instead of an object of facts; leave it out")
    return facts


def _checked(source: Path, facts: Mapping[str, Any], key: str, kind: type, *, optional: bool = False) -> Any:
    """The value of a key, of the kind it must have."""
    value = facts.get(key)
    if value is None and optional:
        return None
    if value is None:
        raise UserError(f"{source}: has no '{key}'; give the folder of a run")
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise UserError(f"{source}: '{key}' is {value!r}; allowed: {kind.__name__}")
    return value


def _metrics(source: Path, facts: Mapping[str, Any], key: str) -> dict[str, float]:
    values = _checked(source, facts, key, dict, optional=True) or {}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UserError(f"{source}: '{name}' of '{key}' is {value!r}; allowed: a finite number")
    return {metric_key(name): float(value) for name, value in values.items()}


def _protocol(source: Path, facts: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """The protocol and what it read: of the result, else of the configuration."""
    recorded = facts.get("protocol")
    if isinstance(recorded, str):
        return {"protocol": recorded}
    if isinstance(recorded, Mapping) and recorded.get("protocol"):
        return recorded
    if (folder / CONFIG).is_file():
        read = values_of(settings(folder), folder / CONFIG, (*_PROTOCOL_KEYS, "filter_seen", "label_repeats"))
        if "protocol" not in read and isinstance(read.get("eval_args"), Mapping):
            read["protocol"] = "leave_one_out" if "LS" in read["eval_args"].get("split", {}) else "eval_args"
        word = read.get("protocol")
        if word in KEYS_OF_PROTOCOL:
            others = set(_PROTOCOL_KEYS) - {"protocol", "eval_args", *KEYS_OF_PROTOCOL[word]}
            return {key: value for key, value in read.items() if key not in others}
    raise UserError(
        f"{source}: has no 'protocol', nor has a {CONFIG} beside it; runs of no protocol cannot be compared"
    )


def _epochs(folder: Path) -> int:
    """Lines of metrics.csv below its header."""
    file = folder / EPOCHS
    return max(0, len(file.read_text(encoding="utf-8").splitlines()) - 1) if file.is_file() else 0


# Configurations ------------------------------------------------------------------------------------------------------


def settings(folder: Path) -> dict[str, str]:
    """The lines of each key of a run's config.yaml, as they stand there; empty where there is none.

    Values are not parsed: whether a thousand configurations agree is a question of text, and parsing them takes
    14 seconds.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    found: dict[str, str] = {}
    key = ""
    for line in lines:
        match = _KEY.match(line)
        if match:
            key = match[1]
            found[key] = line
        elif key and line and not line.startswith("#"):
            found[key] += "\n" + line
    return found


def values_of(texts: Mapping[str, str], path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """The values of some keys of `settings`; those that are absent are left out.

    Args:
        texts: what `settings` gave.
        path: the file, for the message.
        keys: which.

    Raises:
        UserError: what stands there is no YAML (names the key).
    """
    values = {}
    for key in keys:
        if key in texts:
            parsed = parse_value(texts[key])
            if not isinstance(parsed, dict) or key not in parsed:
                raise UserError(f"{path}: '{key}' is not valid YAML; repeat the run or leave it out")
            values[key] = parsed[key]
    return values


# Rows ----------------------------------------------------------------------------------------------------------------


def has_rows(run: RunRecord) -> bool:
    """Whether a run's test was kept row by row."""
    return run.per_user.is_file()


def read_rows(run: RunRecord, metrics: Sequence[str]) -> pd.DataFrame:
    """The metrics of every row of a run's test.

    Args:
        run: with `save_per_user: parquet`.
        metrics: as results name them; those that have no value for a row are left out.

    Returns:
        (rows, metrics) float64, indexed by `user`; by `row` where the data have no users.

    Raises:
        UserError: there is no such file, it is none of this package's, or it is of another test than result.json.
    """
    import pyarrow
    import pyarrow.parquet

    path = run.per_user
    if not path.is_file():
        raise UserError(f"no {path}; repeat the test with save_per_user: parquet")
    try:
        with pyarrow.parquet.ParquetFile(path) as file:  # opened once: a thousand files take a second, not four
            schema = file.schema_arrow
            columns = [name for name in metrics if name in schema.names]
            keys = [name for name in ("user", "row") if name in schema.names]
            table = file.read(columns=[*keys[:1], *columns], use_threads=False)
            if keys and table[keys[0]].null_count:  # data without users
                keys = keys[1:]
                table = file.read(columns=[*keys, *columns], use_threads=False)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a file of save_per_user ({str(error).splitlines()[0]})") from error
    key = next((name for name in keys if not table[name].null_count), None)
    if key is None:
        raise UserError(f"{path}: not a file of save_per_user: it names neither user nor row of its lines")
    if not len(table):
        raise UserError(f"{path}: holds no rows; repeat the test with save_per_user: parquet")
    index = pd.Index(table[key].to_numpy(), name=key)
    values = np.empty((len(columns), len(table)))  # one block: a frame of single columns takes three times as long
    for place, name in enumerate(columns):
        values[place] = table[name].to_numpy()
    frame = pd.DataFrame(values.T, index=index, columns=columns)
    _check_same_test(run, frame, json.loads((schema.metadata or {}).get(b"recbole_diffusion", b"{}")))
    return frame


def _check_same_test(run: RunRecord, rows: pd.DataFrame, facts: Mapping[str, Any]) -> None:
    """Refuse rows that are not those behind the result: a later test of the folder may have replaced one of them."""
    reported = facts.get("result") or {}
    for name, value in run.test.items():
        if name in reported and reported[name] != value:
            raise UserError(
                f"{run.per_user}: is of a test with {name} {reported[name]}, {RESULT} says {value}; repeat the test"
            )
        if name in rows and not reported and abs(rows[name].mean() - value) > 1e-4 * max(1.0, abs(value)):
            raise UserError(
                f"{run.per_user}: has a mean {name} of {rows[name].mean():.6f}, {RESULT} says {value}; repeat the test"
            )
