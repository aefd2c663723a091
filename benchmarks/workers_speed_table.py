"""The table of the benchmark of training on several workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_workers_speed(raw: Mapping[str, Any], name: str) -> str:
    """Table of benchmarks/workers_speed.py: rows per second of one worker and of several."""
    settings, machine = raw["settings"], raw["machine"]
    workers, load = settings["workers"], machine["load"]
    before = load["average_before"]
    text = [f"# Training on {workers} workers of one core each, beside one ({settings['dataset']})\n"]
    if settings["try_out"]:
        text.append("**Tiny models, one pair, to see that the command works: the numbers mean nothing.**\n")
    rows = []
    for model, figures in raw["models"].items():
        rates, gain = figures["rates"], figures["gain"]
        rows.append(
            [
                model,
                number(rates["one"]["median"], 0),
                number(rates["several"]["median"], 0),
                number(gain["median"]),
                f"{number(gain['min'])} to {number(gain['max'])}",
                "yes" if figures["met"] else "no",
            ]
        )
    aims = {figures["aim"] for figures in raw["models"].values()}
    header = ["", "1 worker, rows/s", f"{workers} workers, rows/s", "times as fast", "smallest to largest"]
    text.append(table([*header, f"aim of {number(max(aims), 1)} met"], rows))
    batch = settings["train_batch_size"]
    text.append("## How it was measured\n")
    text.append(
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                ["machine", f"{machine['processor']}, {machine['cores']} cores; one thread a worker"],
                ["versions", f"Python {machine['python']}, torch {machine['torch']}"],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["cores busy with other processes, mean", number(load["cores_busy_with_others"])],
                ["rows of a batch, all workers together", "the model's own" if batch is None else str(batch)],
                ["noise", settings["train_noise"]],
                ["epochs of a run, the first not counted", str(settings["epochs"])],
                ["pairs of runs", str(settings["repeats"])],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)
