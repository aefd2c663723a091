"""Keep what a suite's tables are made from: its plan, tables and report, and of every run what says how it went.

    python benchmarks/keep_suite.py benchmark_runs/honest

copies into results/suites/<suite> what `recbole-diff benchmark FILE --tables_only --output=benchmarks/results/suites`
makes the same tables and the same report of. Of the results row by row it takes the numbers of rows, ranks and metrics:
weights, logs, users, items and folders of the machine stay where they are. What was kept of the same suite is replaced.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
from render import ABSOLUTE_PATH

from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.performing import ASKED
from recbole_diffusion.suites.plan_file import SUITE_FILE

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results" / "suites"
RUN_FILES = ("config.yaml", "metrics.csv", "result.json")
OF_THE_DATA = ("user", "targets", "top_items")
"""Columns of per_user/test.parquet that hold users and items of the data set."""


def keep(suite: Path, kept: Path = KEPT) -> Path:
    """Copy a suite's folder without what is large or belongs to its data.

    Args:
        suite: the folder that `recbole-diff benchmark` made.
        kept: where the folder of that name is made.

    Returns:
        the new folder.

    Raises:
        UserError: `suite` is no suite's folder.
    """
    if not (suite / SUITE_FILE).is_file():
        raise UserError(f"{suite} is no suite's folder: it has no {SUITE_FILE}")
    target, part = kept / suite.name, kept / f"{suite.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    for file in _files(suite):
        copy = part / file.relative_to(suite)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".parquet" and file.parent.name == "per_user":
            table = pyarrow.parquet.read_table(file)
            rows = table.drop_columns([name for name in OF_THE_DATA if name in table.column_names])
            pyarrow.parquet.write_table(
                rows, copy, compression="zstd", use_dictionary=[n for n in rows.column_names if n != "row"],
                column_encoding={"row": "DELTA_BINARY_PACKED"} if "row" in rows.column_names else None,
            )  # fmt: skip
        elif file.name in (*RUN_FILES, ASKED, SUITE_FILE):
            text = ABSOLUTE_PATH.sub(r"\1", file.read_text(encoding="utf-8"))
            copy.write_text(text, encoding="utf-8", newline="\n")
        else:
            shutil.copyfile(file, copy)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return target


def _files(suite: Path) -> Iterator[Path]:
    """What is kept; a candidate's and an evaluation's folder is a run's like any other."""
    yield from (suite / name for name in (SUITE_FILE, "report.html") if (suite / name).is_file())
    yield from (file for file in sorted((suite / "tables").rglob("*")) if file.is_file())
    for config in sorted((suite / "runs").rglob("config.yaml")):
        yield from (config.parent / name for name in RUN_FILES if (config.parent / name).is_file())
        yield from (path for path in [config.parent.parent / ASKED] if path.is_file())
        if (config.parent / "result.json").is_file() and (config.parent / "per_user" / "test.parquet").is_file():
            yield config.parent / "per_user" / "test.parquet"
    yield from sorted((suite / "runs").rglob("failed.txt"))


def main(arguments: list[str] | None = None) -> int:
    """Keep the suites of the command line."""
    parser = argparse.ArgumentParser(description="Keep what a suite's tables are made from.")
    parser.add_argument("suites", nargs="+", type=Path, help="folders that `recbole-diff benchmark` made")
    parser.add_argument("--output", type=Path, default=KEPT, help="where they are kept")
    given = parser.parse_args(arguments)
    try:
        for suite in given.suites:
            print(keep(suite, given.output))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
