"""The word ``benchmark`` of the command line (``--benchmark=FILE`` without a word): its keys, and what it prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_diffusion.config_files import Overrides, parse_value
from recbole_diffusion.errors import UserError

OPTIONS: dict[str, str] = {
    "benchmark": "FILE of the suite, as in benchmarks/suites/; also given without its key",
    "data_path": "FOLDER that holds the datasets' folders (default: dataset)",
    "output": "FOLDER in which the suite makes its own (default: benchmark_runs)",
    "max_concurrent": "NUMBER of runs at a time (default: 1; on Ray as many as there is room for)",
    "threads": "NUMBER of CPU threads of a run (default: its share of the cores)",
    "ray_address": "ADDRESS of a Ray cluster for the runs, auto finds it, local starts Ray here (default: no Ray)",
    "cpus_per_run": "on Ray, NUMBER of CPU cores, and threads, of a run (default: 1)",
    "gpus_per_run": "on Ray, NUMBER of GPUs of a run, 0.5 for two runs on one (default: 1 where there is one)",
    "show_progress": "False: no lines while it runs",
}
FLAGS: dict[str, str] = {
    "tables_only": "run nothing: the tables and the report of what is finished, also while the suite runs elsewhere"
}
BARE = ()
POSITIONAL = "benchmark"  # the option that stands without its key
USAGE = "FILE"
WRITES = "makes a folder with every run, their tables and a report; what is finished is not made again"
EXAMPLES = """\
examples:
  recbole-diff benchmark benchmarks/suites/quick.yaml --data_path=data
  recbole-diff benchmark benchmarks/suites/honest.yaml --data_path=data --output=results --max_concurrent=2 --threads=1
  recbole-diff benchmark benchmarks/suites/dmi_table2.yaml --data_path=/data --output=/results --ray_address=auto
Every other --key=value is a key of every run, such as --epochs=5. Killed and started again, the command goes on.
"""


def run(options: Mapping[str, str], flags: set[str], config: Overrides) -> str:
    """Run a suite, or what is left of it, and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: those of :data:`FLAGS` that are given.
        config: keys of every run.

    Raises:
        UserError: a key is missing or wrong, what `benchmark` refuses, or runs that failed.
        KeyboardInterrupt: after Ctrl-C; says how to go on.
    """
    if "benchmark" not in options:
        raise UserError("benchmark needs the FILE of a suite, such as benchmarks/suites/quick.yaml")
    if not Path(options["benchmark"]).is_file():
        raise UserError(f"no suite file {options['benchmark']}")
    show = options.get("show_progress", "True").lower()
    if show not in ("true", "false"):
        raise UserError(f"--show_progress must be True or False, got {options['show_progress']!r}")
    whole = ("max_concurrent", "threads", "cpus_per_run")
    numbers: dict[str, Any] = {key: _whole(key, options[key]) for key in whole if key in options}
    if "gpus_per_run" in options:
        numbers["gpus_per_run"] = parse_value(options["gpus_per_run"])
    from recbole_diffusion.suites.benchmark import benchmark

    result = benchmark(
        options["benchmark"],
        config,
        data_path=options.get("data_path"),
        output=options.get("output", "benchmark_runs"),
        ray_address=options.get("ray_address"),
        show_progress=show == "true",
        tables_only="tables_only" in flags,
        **numbers,
    )
    result.check()
    pages = [path for path in result.tables if path.suffix == ".md"]
    texts = [path.read_text(encoding="utf-8") for path in pages]
    return "\n".join([*texts, *(f"table: {path}" for path in pages), f"report: {result.report}"])


def _whole(key: str, text: str) -> int:
    value: Any = parse_value(text)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"--{key} must be a whole number from 1, got '{text}'")
    return value
