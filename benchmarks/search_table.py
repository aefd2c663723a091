"""A search on validation: many settings of one model beside its base; tests of the chosen ones alone.

    python benchmarks/search_table.py RUN [RUN ...] --json=FILE --title=TEXT --base=MODEL [--tested=RUN_NAME ...]

collects finished run folders into one raw file, which `render.py` makes a table of. A setting is what differs from
the model's `--preset=paper`; the same setting with several seeds is one line with its mean and standard deviation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from markdown_tables import number, table

WITHOUT_EFFECT = ("output", "num_threads", "stopping_step", "epochs", "data_path", "checkpoint_dir", "seed", "state")


def settings_of(command: str) -> dict[str, Any]:
    """The keys on a command line that change a model, with their values."""
    words = (word[2:].partition("=") for word in command.split() if word.startswith("--"))
    keys = {key: yaml.safe_load(value) for key, _, value in words}
    steering = ("model", "dataset", "preset", "one_cut_per_user", *WITHOUT_EFFECT)
    return {key: value for key, value in keys.items() if key not in steering}


def collected(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One entry a finished run.

    Raises:
        SystemExit: a folder has no result.
    """
    entries = []
    for folder in folders:
        file = folder / "result.json"
        if not file.is_file():
            raise SystemExit(f"error: {folder} has no result.json; search_table.py takes finished runs")
        facts = json.loads(file.read_text(encoding="utf-8"))
        entries.append(
            {
                "run": folder.name,
                "model": facts["model"],
                "dataset": facts["dataset"],
                "settings": settings_of(facts["command"]),
                "seed": facts["seed"],
                "valid_metric": facts["valid_metric"],
                "valid": facts["best_valid_score"],
                "valid_result": facts["valid_result"],
                "test_result": facts["test_result"],
                "best_epoch": facts["best_epoch"],
                "epochs": facts["epochs"],
                "wall_seconds": facts["wall_seconds"],
                "commit": facts["code"]["commit"],
                "command": " ".join(word for word in facts["command"].split() if not word.startswith("--output")),
            }
        )
    return entries


def render_search(raw: Mapping[str, Any], name: str) -> str:
    """The settings in order of validation, and test figures of those that were chosen to be tested."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in raw["runs"]:
        groups.setdefault((entry["model"], json.dumps(entry["settings"], sort_keys=True)), []).append(entry)
    ordered = sorted(groups.items(), key=lambda item: -statistics.mean(entry["valid"] for entry in item[1]))
    metric = raw["runs"][0]["valid_metric"]
    key = metric.lower()
    rows, tests = [], []
    for (model, _), entries in ordered:
        valid = [100 * entry["valid"] for entry in entries]
        words = in_words(entries[0]["settings"])
        epochs = "/".join(f"{entry['best_epoch']} of {entry['epochs']}" for entry in entries)
        rows.append([model, words, spread(valid), str(len(entries)), epochs])
        if words in raw.get("tested", {}).get(model, []):
            tests.append(
                [model, words, spread([100 * entry["test_result"][key] for entry in entries]), str(len(entries))]
            )
    text = [f"# {raw['title']}\n", raw["about"] + "\n"]
    text.append(table(["model", "differs from the preset by", f"validation {metric}", "seeds", "best epoch"], rows))
    if tests:
        text.append("## Test\n")
        text.append(table(["model", "differs from the preset by", f"test {metric}", "seeds"], tests))
    text.append(f"Raw file, with every command: [{name}.json]({name}.json).\n")
    return "\n".join(text)


def in_words(settings: Mapping[str, Any]) -> str:
    """Settings as `key: value` pairs."""
    return ", ".join(f"{key}: {value}" for key, value in settings.items()) or "nothing"


def spread(values: Sequence[float]) -> str:
    """A mean, with the standard deviation where there are several."""
    mean = number(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ± {number(statistics.stdev(values))}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect runs into a raw file."""
    parser = argparse.ArgumentParser(description="Collect the runs of a search into one raw file.")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, required=True, help="raw file to write")
    parser.add_argument("--title", required=True)
    parser.add_argument("--about", required=True, help="one paragraph: what was searched, how it was judged")
    parser.add_argument(
        "--tested", action="append", default=[], help="MODEL|key: value, ... whose test figures are shown"
    )
    options = parser.parse_args(arguments)
    tested: dict[str, list[str]] = {}
    for word in options.tested:
        model, _, words = word.partition("|")
        tested.setdefault(model, []).append(words)
    raw = {
        "benchmark": "search",
        "title": options.title,
        "about": options.about,
        "tested": tested,
        "runs": collected(options.runs),
    }
    options.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
