"""What the runs of a suite are asked for, and of which data: compared before anything is trained.

Runs that a table refuses (`benchmarking.comparability`) are refused here as far as it can be known: another protocol by
the configurations, other data once they were read. Data are read once for each way in which runs read them, into the
cache that the runs map into memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.comparability import other_data, other_protocol_key
from recbole_diffusion.benchmarking.results import RunRecord, read_run, table_label
from recbole_diffusion.config import RunConfig
from recbole_diffusion.config_protocols import KEYS_OF_PROTOCOL, recorded_protocol
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.plan import PlannedRun, data_files
from recbole_diffusion.tuning.preparation import ReadData, read_data, reading_keys

logger = logging.getLogger(__name__)


def planned_record(run: PlannedRun, config: RunConfig, data: Mapping[str, Any] | None = None) -> RunRecord:
    """A run that has no folder yet, as tables know runs.

    Args:
        run: the planned run.
        config: its configuration.
        data: the fingerprint of its data, where it is known.
    """
    facts = recorded_protocol(config)
    return RunRecord(
        folder=run.place,
        model=config.entry.name,
        label=table_label(run.label),
        published_as=config.entry.name,
        dataset=run.dataset,
        protocol=facts["protocol"],
        protocol_facts=facts,
        seed=run.seed,
        data=data,
        finished=False,
    )


@dataclass(frozen=True)
class _Contestant:
    """The runs of a row of the tables, or of a candidate for it, which differ in the seed alone."""

    runs: Sequence[PlannedRun]
    config: RunConfig
    record: RunRecord

    @property
    def name(self) -> str:
        """In messages."""
        run = self.runs[0]
        return run.label + (f" (candidate {run.candidate})" if run.candidate else "")

    def where(self, key: str) -> str:
        """Where a key of it was given."""
        origin = self.config.origin(key)
        return origin if self.config.is_given(key) else Path(origin).name


def _contestants(runs: Iterable[PlannedRun], place: Mapping[str, Any], origin: str) -> list[_Contestant]:
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.label, run.dataset, run.candidate), []).append(run)
    found = []
    for members in groups.values():
        config = members[0].config(place, origin=origin)
        found.append(_Contestant(members, config, planned_record(members[0], config)))
    return found


def check_data(
    runs: Iterable[PlannedRun], place: Mapping[str, Any], *, origin: str, searched: Container[tuple[str, str]] = ()
) -> bool:
    """Refuse runs that could not stand in one table, and read the data of those that are not finished.

    Args:
        runs: all that can be made.
        place: keys that say where and how they run.
        origin: where those were given.
        searched: models and datasets for which a search chooses.

    Returns:
        whether data were downloaded.

    Raises:
        UserError: names two that cannot stand in one table; or data are absent, cannot be read, or have no validation
            rows where something is chosen by them.
    """
    contestants = _contestants(runs, place, origin)
    _refuse(contestants, _protocols)
    downloaded = False
    read: dict[str, ReadData] = {}
    known = []
    for one in contestants:
        first = one.runs[0]
        folder = first.run_folder
        if all(run.finished for run in one.runs) and folder is not None:
            known.append(replace(one, record=read_run(folder, first.label)))
            continue
        key = _way_of_reading(one.config)
        if key not in read:
            logger.info("data of %s, as %s reads them", first.dataset, one.name)
            there = bool(data_files(str(one.config["data_path"])))
            read[key] = read_data(one.config, reader="run")
            downloaded = downloaded or not there
        if not read[key].validates and (first.candidate or (first.label, first.dataset) in searched):
            raise UserError(
                f"{first.label} on {first.dataset}: its configuration is chosen on validation, but there are no "
                f"validation rows; change the split ({one.where('eval_args')}), or leave candidates and search out"
            )
        known.append(replace(one, record=replace(one.record, data=read[key].fingerprint)))
    if downloaded:
        data_files.cache_clear()
    _refuse(known, _data)
    return downloaded


def _way_of_reading(config: RunConfig) -> str:
    """What tells the data of a run from other data: the cache's key without the files' contents, and the split."""
    protocol = {key: config[key] for key in KEYS_OF_PROTOCOL[config["protocol"] or "eval_args"]}
    kind = config.entry.dataset_class
    facts = [f"{kind.__module__}.{kind.__qualname__}", str(config["data_path"]), reading_keys(config), protocol]
    return json.dumps(facts, sort_keys=True, default=str)


def _refuse(contestants: Sequence[_Contestant], difference: Callable[[_Contestant, _Contestant], str]) -> None:
    tables: dict[tuple[str, str], list[_Contestant]] = {}
    for one in contestants:
        tables.setdefault((one.record.dataset, one.record.protocol), []).append(one)
    for (dataset, _), members in tables.items():
        for one, other in combinations(members, 2):
            what = difference(one, other)
            if what:
                raise UserError(
                    f"{one.name} and {other.name} cannot stand in one table of {dataset}: {what}; give both the same, "
                    "or each a suite of its own"
                )


def _protocols(one: _Contestant, other: _Contestant) -> str:
    key = other_protocol_key(one.record, other.record)
    return _both(key, one, other) if key else ""


def _data(one: _Contestant, other: _Contestant) -> str:
    what = other_data(one.record, other.record)
    if not what:
        return ""
    keys, others = reading_keys(one.config), reading_keys(other.config)
    different = [_both(key, one, other) for key in keys if keys[key] != others[key]]
    return f"{what}{' with ' * bool(different)}{', '.join(different)}"


def _both(key: str, one: _Contestant, other: _Contestant) -> str:
    values = (f"{contestant.config[key]} ({contestant.where(key)})" for contestant in (one, other))
    return f"{key} {' and '.join(values)}"
