"""The tables of a suite: its runs as they were trained, and once more for each further evaluation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from recbole_diffusion.benchmarking.comparison import Comparison
from recbole_diffusion.benchmarking.metric_names import metric_key, printed_name
from recbole_diffusion.benchmarking.published import read_published
from recbole_diffusion.benchmarking.results import RunRecord, read_run, table_label
from recbole_diffusion.benchmarking.table_files import write_tables
from recbole_diffusion.benchmarking.tables import ResultTable, build_tables
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.plan import PlannedRun, slug
from recbole_diffusion.suites.run_data import planned_record
from recbole_diffusion.suites.suite import Suite
from recbole_diffusion.training.checkpoint import write_text_atomically

TABLES = "tables"
WRITTEN = "files.json"
AS_TRAINED = ""
"""The name of the evaluation that belongs to the training."""


def read_records(suite: Suite, runs: Sequence[PlannedRun], evaluation: str = AS_TRAINED) -> list[RunRecord | None]:
    """What each run's folder holds; None for a run that has none yet.

    Args:
        suite: the suite.
        runs: its runs.
        evaluation: the name of a further one.

    Raises:
        UserError: a result that cannot be read.
    """
    published_as = {model.label: model.published for model in suite.models}
    records: list[RunRecord | None] = []
    for run in runs:
        folder = run.evaluation_folder(evaluation) if evaluation else run.run_folder
        record = None if folder is None else read_run(folder, run.label)
        name = published_as[run.label]
        records.append(record if record is None or name is None else dataclasses.replace(record, published_as=name))
    return records


def check_tables(suite: Suite, planned: Sequence[PlannedRun]) -> None:
    """Refuse, before anything runs, what would leave the suite without tables at its end.

    Args:
        suite: the suite.
        planned: its runs.

    Raises:
        UserError: a file of printed figures that cannot be read, or a column that no run, or no run of a further
            evaluation, computes; with file and line.
    """
    read_published(suite.published)
    if suite.metrics is None or not planned:
        return
    configs = [(run, run.config()) for run in planned]
    for name in (AS_TRAINED, *suite.evaluations):
        there = dict.fromkeys(
            metric for run, config in configs for metric in config.computed_metrics(run.evaluations.get(name))
        )
        for column in suite.metrics:
            if metric_key(column) not in there:
                raise UserError(
                    f"{suite.lines.get(('metrics',), str(suite.file))}: metrics: no run computes "
                    f"{printed_name(column)}{f' in the evaluation {name!r}' if name else ''}; they compute "
                    f"{', '.join(map(printed_name, there))} (keys metrics and topk of settings)"
                )


def suite_tables(
    suite: Suite, runs: Sequence[PlannedRun], records: Sequence[RunRecord | None], evaluation: str = AS_TRAINED
) -> list[ResultTable]:
    """The tables of the runs that have begun or failed; none where no run is finished.

    Args:
        suite: the suite.
        runs: its runs.
        records: of them; those without a result stand in the tables as unfinished, and so do those that failed before
            they had a folder.
        evaluation: which one they are of.

    Raises:
        UserError: runs that must not stand in one table.
    """
    here = {record.label for record in records if record is not None and record.finished}
    if not here:
        return []
    begun = [
        planned_record(run, run.config()) if record is None else record
        for run, record in zip(runs, records, strict=True)
        if record is not None or run.failure is not None
    ]
    references = tuple(label for label in dict.fromkeys(map(table_label, suite.reference)) if label in here)
    comparison = None
    if references:
        against: dict[str, Any] = {"reference": references[0]} if len(references) == 1 else {"baselines": references}
        comparison = Comparison(**against, **suite.testing)
    published = read_published(suite.published)
    tables = build_tables(begun, metrics=suite.metrics, comparison=comparison, published=published)
    return (
        [_of_evaluation(table, evaluation, suite.evaluations[evaluation]) for table in tables] if evaluation else tables
    )


def _of_evaluation(table: ResultTable, name: str, keys: Mapping[str, Any]) -> ResultTable:
    """The table of a further evaluation, which says what it is."""
    note = f"The same checkpoints evaluated with {', '.join(f'{key}: {value}' for key, value in keys.items())}"
    if any(row.published for row in table.rows):
        note += "; printed figures are of the papers' own evaluation"
    return dataclasses.replace(table, evaluation=name, notes=(f"{note}.", *table.notes))


def tables_folder(folder: Path, evaluation: str = AS_TRAINED) -> Path:
    """Where the tables of an evaluation lie in a suite's folder."""
    return folder / TABLES / slug(evaluation) if evaluation else folder / TABLES


def write_suite_tables(suite: Suite, tables: Mapping[str, Sequence[ResultTable]], folder: Path) -> list[Path]:
    """Write every table of a suite below ``<folder>/tables``, and take away what it wrote there and has no more; the
    files.

    Taken away are tables of datasets and evaluations that are not the suite's any more, and a dataset's other tables
    where it has tables now: ``files.json`` remembers what was written, and nothing else is touched.

    Args:
        suite: the suite.
        tables: of each evaluation, by its name.
        folder: of the suite.

    Raises:
        UserError: a file cannot be written, or files.json is not what a suite writes.
    """
    written: dict[Path, tuple[str, str]] = {}  # evaluation and dataset
    for name, of_it in tables.items():
        for table in of_it:
            written.update(dict.fromkeys(write_tables([table], tables_folder(folder, name)), (name, table.dataset)))
    made = list(written)
    known = _written_before(folder)
    evaluations = {AS_TRAINED, *suite.evaluations}
    for path, (name, dataset) in known.items():
        if path in written:
            continue
        if name in evaluations and dataset in suite.datasets and (name, dataset) not in written.values():
            written[path] = (name, dataset)  # of runs that are not finished, so there is no newer one
            continue
        path.unlink(missing_ok=True)
        if path.parent != folder / TABLES:
            with suppress(OSError):  # something else lies there
                path.parent.rmdir()
    if written:
        facts = {path.relative_to(folder / TABLES).as_posix(): whose for path, whose in written.items()}
        write_text_atomically(folder / TABLES / WRITTEN, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return made


def _written_before(folder: Path) -> dict[Path, tuple[str, str]]:
    """The tables that earlier calls wrote, with their evaluation and dataset."""
    file = folder / TABLES / WRITTEN
    if not file.is_file():
        return {}
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        found = {Path(name): (str(evaluation), str(dataset)) for name, (evaluation, dataset) in facts.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not what a suite writes ({error}); remove it") from error
    return {
        folder / TABLES / name: whose
        for name, whose in found.items()
        if not name.is_absolute() and ".." not in name.parts
    }
