"""The table of the benchmark of large catalogues."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table

NAMES = {
    "chunked": "full softmax, `loss: chunked`",
    "row_wise": "sampled softmax, `item_optimizer: row_wise`",
    "dense": "sampled softmax, `item_optimizer: dense`",
}


def render_large_catalogue(raw: Mapping[str, Any], name: str) -> str:
    """Tables of benchmarks/large_catalogue.py: memory of whole steps, and the time of a step beside a dense one."""
    settings, machine, aims = raw["settings"], raw["machine"], raw["aims"]
    text = [f"# Training over {settings['items']:,} items ({machine['processor']})\n"]
    if settings["try_out"]:
        text.append("**Few items, to see that the command works: the numbers mean nothing.**\n")
    rows = []
    for model, sides in raw["memory"].items():
        for side, found in sides.items():
            needed = found["needed_mib"]
            rows.append(
                [
                    f"{model}, {NAMES[side]}",
                    number(found["peak_mib"], 0),
                    *(number(needed[part], 0) for part in ("parameters", "gradients", "optimiser")),
                    number(found["times_needed"], 3),
                    number(statistics.median(found["seconds"]), 2),
                    number(statistics.median(found["processor_seconds"]), 2),
                ]
            )
    header = [
        "", "peak of whole steps, MiB", "parameters", "gradients", "optimiser's state", "peak / sum of the three",
        "seconds a step", "processor seconds",
    ]  # fmt: skip
    text.append(table(header, rows))
    text.append(
        "Peak is the largest resident memory of a process while it builds the model and makes "
        f"{settings['steps']} whole steps (look-ups of histories, loss, backward pass, optimiser), less what it held "
        f"before. The aim for the full softmax is a peak below {aims['times_needed']} times the sum.\n"
    )
    text.append(f"## Full softmax over {settings['time_items']:,} items, with and without its logits in memory\n")
    rows = []
    for model, found in raw["time"].items():
        for unit, label in (("seconds", "seconds a step"), ("processor_seconds", "processor seconds")):
            ratio = found[unit]["times_as_long"]
            rows.append(
                [
                    f"{model}, {label}",
                    number(found[unit]["full"]["median"], 3),
                    number(found[unit]["chunked"]["median"], 3),
                    number(ratio["median"]),
                    f"{number(ratio['min'])} to {number(ratio['max'])}",
                ]
            )
    text.append(table(["", "`full`", "`chunked`", "times as long, median", "smallest to largest"], rows))
    worst = max((found["largest_difference"] for found in raw["time"].values()), default=0.0)
    text.append(
        f"Steps alternate, with equal weights, rows and noise; their losses differed by at most {worst:.0e} (allowed "
        f"{raw['tolerance']:.0e}). The aim is at most {aims['times_as_long']} times as long.\n"
    )
    lines = [
        [model, *("yes" if met[aim] else "no" if aim in met else "–" for aim in ("times_needed", "times_as_long"))]
        for model, met in raw["met"].items()
    ]
    text.append(table(["aim met", "memory", "time"], lines, align="---"))
    text.append("## How it was measured\n")
    load = machine["load"]
    before = load["average_before"]
    lengths = f"all of {settings['history']} items" if settings["full_histories"] else (
        f"geometric, 9 items on the mean, at most {settings['history']}"
    )  # fmt: skip
    text.append(
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                ["machine", f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"],
                ["versions", f"Python {machine['python']}, torch {machine['torch']}"],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["cores busy with other processes, mean", number(load["cores_busy_with_others"])],
                ["rows of a step", str(settings["batch_size"])],
                ["`hidden_size`", str(settings["dimension"])],
                ["histories", lengths],
                ["pairs of steps in the time part", str(settings["repeats"])],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)
