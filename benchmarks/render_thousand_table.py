"""The table of the benchmark of rendering a thousand runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table

NAMES = {
    "process": "whole process",
    "processor": "its CPU time",
    "imports": "parts: imports",
    "reading": "reading results",
    "tables": "rows, means, tests, intervals",
    "files": "tables as Markdown, LaTeX, CSV, parquet",
    "report": "report, learning curves read",
}


def render_thousand(raw: Mapping[str, Any], name: str) -> str:
    """Table of benchmarks/render_thousand.py: seconds of each part."""
    settings, machine = raw["settings"], raw["machine"]
    text = [f"# Tables and report of {settings['runs']:,} finished runs\n"]
    if settings["try_out"]:
        text.append("**Few runs, to see that the command works: the numbers mean nothing.**\n")
    rows = [
        [
            what,
            number(raw["seconds"][key]["median"]),
            number(raw["seconds"][key]["min"]),
            number(raw["seconds"][key]["max"]),
        ]
        for key, what in NAMES.items()
    ]
    text.append(table(["seconds", "median", "smallest", "largest"], rows))
    text.append(
        f"From the start of the process to its end; aim: every process below {raw['aim_seconds']:g} s, "
        f"{'met' if raw['met'] else 'not met'}. The page has {number(raw['page_mib'])} MiB.\n"
    )
    text.append("## How it was measured\n")
    load = machine["load"]
    before = load["average_before"]
    runs = f"{settings['models']} models, {settings['seeds']} seeds, {settings['datasets']} datasets"
    text.append(
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                ["machine", f"{machine['processor']}, {machine['cores']} cores"],
                ["versions", f"Python {machine['python']}"],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["cores busy with other processes, mean", number(load["cores_busy_with_others"])],
                ["runs", runs],
                ["of each", f"{settings['users']:,} users, 6 metrics, {settings['epochs']} epochs"],
                ["measurements", str(settings["repeats"])],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)
