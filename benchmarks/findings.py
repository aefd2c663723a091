"""The tables of docs/findings.md: differences with their intervals and costs, made from the kept suite `honest`, and
what `results/analyses` has of groups of users and items, of lambda and of noise schedules.

    python benchmarks/findings.py            write them, and docs/findings/*.csv, .png, .svg
    python benchmarks/findings.py --check    change nothing; fail when one differs from what the kept runs give

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; the text around it is typed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_tables import number, signed, table

from recbole_diffusion.analyses.differences import analyse
from recbole_diffusion.analyses.request import Request
from recbole_diffusion.benchmarking.metric_names import printed_name
from recbole_diffusion.benchmarking.printed import exact_p_value
from recbole_diffusion.benchmarking.statistics import welch_interval
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.plan_file import read_plan

HERE = Path(__file__).resolve().parent
KEPT = HERE / "results" / "suites" / "honest"
ANALYSES = HERE / "results" / "analyses"
PAGE = HERE.parent / "docs" / "findings.md"
FIGURES = PAGE.with_suffix("")
METRICS = "NDCG@10,HR@10"
PAIRS = (
    ("DiffuRec", "DiffuRec without diffusion"),
    ("DiffuRec", "SASRecCE"),
    ("DiffuRec without diffusion", "SASRecCE"),
    ("DiffuRecSys", "DiffuRec"),
    ("DiffuRecSys", "SASRecCE"),
    *((label, "SASRecCE") for label in ("DimeRec", "DMI", "DreamRec")),
    *((label, "SASRecCE") for label in ("SASRecSampled", "gSASRec", "GRU4Rec", "BERT4Rec")),
)
EVALUATIONS = {"differences": None, "differences without seen items": "without seen items"}
_BLOCK = re.compile(r"(<!-- table: (?P<name>[^>]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def findings(kept: Path, output: Path) -> dict[str, str]:
    """Write the figures and CSV files of the page; its tables by name.

    Args:
        kept: a suite's folder with all or some of its runs.
        output: of the figures.

    Raises:
        UserError: nothing is finished.
    """
    finished = {run.label for run in read_plan(kept) if run.run_folder is not None and run.finished}
    pairs = [pair for pair in PAIRS if {*pair} <= finished]
    if not pairs:
        raise UserError(f"{kept}: no two models of the page are finished; it compares {PAIRS[0][0]} with {PAIRS[0][1]}")
    words = " ".join(f"'{first}:{second}'" for first, second in pairs)
    tables = {}
    for name, evaluation in EVALUATIONS.items():
        folder = output / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        options = {"suite": str(kept), "pairs": words, "metric": METRICS}
        analyse(Request({**options, **({"evaluation": evaluation} if evaluation else {})}, Overrides(), folder))
        tables[name] = _differences(_rows(folder / "differences.csv"))
        costs = folder / "costs.csv"
        if evaluation is None:
            tables["costs"] = _costs(_rows(costs))
        else:
            costs.unlink()  # the same as of the runs' own tests
    return tables


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _value(text: str) -> float | None:
    return float(text) if text else None


def _differences(rows: Sequence[Mapping[str, str]]) -> str:
    lines = []
    for row in rows:
        low, high, of_seeds_low, of_seeds_high = (
            _value(row[name]) for name in ("users_low", "users_high", "seeds_low", "seeds_high")
        )
        lines.append([
            f"{row['first']} – {row['second']}", printed_name(row["metric"]),
            f"{row['first_seeds']}, {row['second_seeds']}",
            number(float(row["first_mean"]), 4), number(float(row["second_mean"]), 4),
            signed(float(row["difference"])), _interval(low, high), _interval(of_seeds_low, of_seeds_high),
            f"{100 * float(row['relative']):+.1f} %", exact_p_value(_value(row["t_p_corrected"])),
        ])  # fmt: skip
    head = ["first – second", "metric", "seeds", "first", "second", "difference"]
    return table([*head, "95 % over users", "95 % over seeds", "relative", "p"], lines)


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{signed(low)} to {signed(high)}"


def _costs(rows: Sequence[Mapping[str, str]]) -> str:
    lines = []
    for row in rows:
        seeds = int(row["seeds"])
        seconds = _value(row["wall_seconds"])
        stopped = [
            f"{words} {row[key]} of {seeds}"
            for key, words in (("ended_by_patience", "patience"), ("ended_by_time_limit", "time limit"))
            if int(row[key])
        ]
        lines.append([
            row["label"], str(seeds), number(_value(row["parameters"]), 0), number(_value(row["epochs"]), 1),
            number(_value(row["best_epoch"]), 1), number(None if seconds is None else seconds / 60, 1),
            ", ".join(stopped) or "epochs", row["device"],
        ])  # fmt: skip
    head = ["", "seeds", "parameters", "epochs", "best epoch", "minutes", "training ended by", "device"]
    return table(head, lines)


def analyses(folder: Path = ANALYSES) -> dict[str, str]:
    """The tables of the analyses that are there, by name."""
    makers = {
        "groups": (folder / "groups_seeds" / "groups.csv", _groups),
        "lambda": (folder / "lambda" / "differences.csv", _values),
        "schedules": (folder / "schedules" / "differences.csv", _values),
    }
    return {name: make(_rows(file)) for name, (file, make) in makers.items() if file.is_file()}


def _groups(rows: Sequence[Mapping[str, str]]) -> str:
    """NDCG@10 of every group: differences of means over seeds, with Welch's interval; runs are `LABEL, seed NUMBER`."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["metric"] == "ndcg@10" and row["grouping"] != "all":
            name = row["group"] if row["grouping"] == "item frequency" else f"{row['group']} items in the history"
            label = row["run"].partition(", seed ")[0]
            values.setdefault(name, {}).setdefault(label, []).append(100 * float(row["value"]))
    lines = []
    for name, of_group in values.items():
        cells = []
        for first, second in PAIRS[:3]:
            one, other = of_group[first], of_group[second]
            ends = welch_interval(one, other)
            difference = sum(one) / len(one) - sum(other) / len(other)
            low, high = (None, None) if ends is None else (ends.low, ends.high)
            cells.append(f"{difference:+.2f} ({'–' if low is None else f'{low:+.2f} to {high:+.2f}'})")
        lines.append([name, *cells])
    return table(["NDCG@10", *(f"{first} – {second}" for first, second in PAIRS[:3])], lines)


def _values(rows: Sequence[Mapping[str, str]]) -> str:
    """Every value of a grid beside its reference, from `analyse differences` of it."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines: dict[str, list[str]] = {}
    for row in rows:
        for name, mean, cell in (
            (row["second"], row["second_mean"], "–"),
            (row["first"], row["first_mean"], _interval_of(row)),
        ):
            own = lines.setdefault(name, [])
            if len(own) < 2 * (metrics.index(row["metric"]) + 1):
                own += [f"{float(mean):.2f}", cell]
    reference = rows[0]["second"]
    with contextlib.suppress(ValueError):  # numbers by size, names as they were given
        lines = dict(sorted(lines.items(), key=lambda line: float(line[0].split("=")[-1])))
    head = [part for metric in metrics for part in (printed_name(metric), f"less that of {reference.split('=')[-1]}")]
    return table(["", *head], [[name.split("=")[-1], *cells] for name, cells in lines.items()])


def _interval_of(row: Mapping[str, str]) -> str:
    low, high = float(row["users_low"]), float(row["users_high"])
    return f"{float(row['difference']):+.2f} ({low:+.2f} to {high:+.2f})"


def filled(page: str, tables: Mapping[str, str]) -> str:
    """The page with its tables.

    Raises:
        UserError: it names a table that there is not.
    """

    def fill(match: re.Match[str]) -> str:
        name = match["name"].strip()
        if name not in tables:
            raise UserError(f"{PAGE.name}: there is no table '{name}'; there are {', '.join(tables)}")
        return f"{match[1]}\n{tables[name]}\n{match[3]}"

    return _BLOCK.sub(fill, page)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0; 1 when something differs; 2 for a mistake."""
    parser = argparse.ArgumentParser(description="Render the tables of docs/findings.md from the kept suite.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail when something differs")
    parser.add_argument("--kept", type=Path, default=KEPT, help="the suite's folder")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page; its figures lie in a folder of its name")
    given = parser.parse_args(arguments)
    figures = given.page.with_suffix("")
    try:
        text = given.page.read_text(encoding="utf-8")
        if not given.check:
            tables = {**findings(given.kept, figures), **analyses()}
            given.page.write_text(filled(text, tables), encoding="utf-8", newline="\n")
            return 0
        with tempfile.TemporaryDirectory() as scratch:
            tables = {**findings(given.kept, Path(scratch)), **analyses()}
            wrong = [given.page.name] if filled(text, tables) != text else []
            for file in sorted(Path(scratch).rglob("*.csv")):
                committed = figures / file.relative_to(scratch)
                if not committed.is_file() or committed.read_bytes() != file.read_bytes():
                    wrong.append(committed.name)
        for name in wrong:
            print(f"error: {name} is not what the kept runs give; run python benchmarks/findings.py", file=sys.stderr)
        return 1 if wrong else 0
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
