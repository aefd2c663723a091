"""The tables of a suite: its runs as they were trained, and once more for each further evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from recbole_diffusion.benchmarking.comparison import Comparison
from recbole_diffusion.benchmarking.published import read_published
from recbole_diffusion.benchmarking.results import RunRecord, read_run
from recbole_diffusion.benchmarking.table_files import write_tables
from recbole_diffusion.benchmarking.tables import build_tables
from recbole_diffusion.suites.plan import PlannedRun, slug
from recbole_diffusion.suites.suite import Suite

TABLES = "tables"


def write_suite_tables(suite: Suite, folder: Path, runs: Sequence[PlannedRun]) -> list[Path]:
    """Write every table of a suite below ``<folder>/tables``; the files. Nothing where no run has begun.

    Args:
        suite: the suite.
        folder: its folder.
        runs: its runs; those without a result stand there as unfinished.

    Raises:
        UserError: runs that must not stand in one table, a result that cannot be read.
    """
    files = _written(suite, folder / TABLES, [(run, run.run_folder) for run in runs])
    for name in suite.evaluations:
        places = [(run, run.evaluation_folder(name)) for run in runs]
        files += _written(suite, folder / TABLES / slug(name), places)
    return files


def _written(suite: Suite, place: Path, runs: Sequence[tuple[PlannedRun, Path | None]]) -> list[Path]:
    published_as = {model.label: model.published for model in suite.models}
    records = [_record(folder, run.label, published_as[run.label]) for run, folder in runs if folder is not None]
    if not any(record.finished for record in records):
        return []
    here = {record.label for record in records if record.finished}
    references = tuple(label for label in suite.reference if label in here)
    comparison = None
    if references:
        comparison = Comparison(reference=references[0]) if len(references) == 1 else Comparison(baselines=references)
    tables = build_tables(
        records, metrics=suite.metrics, comparison=comparison, published=read_published(suite.published)
    )
    return write_tables(tables, place)


def _record(folder: Path, label: str, published_as: str | None) -> RunRecord:
    record = read_run(folder, label)
    return record if published_as is None else dataclasses.replace(record, published_as=published_as)
