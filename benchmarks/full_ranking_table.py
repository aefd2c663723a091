"""The table of the benchmark of full ranking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table

NAMES = {
    "recbole": "RecBole's `Trainer.evaluate`",
    "scores": "ours, any model's `full_sort_predict`",
    "vectors": "ours, a model's vectors",
    "ranks": "ours, vectors, with the rank of every target and a line for every user kept",
}


def render_full_ranking(raw: Mapping[str, Any], name: str) -> str:
    """Table of benchmarks/full_ranking.py: seconds and peak memory of RecBole's evaluation and ours."""
    settings, machine = raw["settings"], raw["machine"]
    text = [f"# Full ranking of {settings['users']:,} users over {settings['items']:,} items ({machine['device']})\n"]
    if settings["try_out"]:
        text.append("**Few users and items, to see that the command works: the numbers mean nothing.**\n")
    rows = []
    for side, figures in raw["sides"].items():
        faster = figures.get("times_faster")
        spread = "" if faster is None or side == "recbole" else f"{number(faster['min'])} to {number(faster['max'])}"
        rows.append(
            [
                NAMES[side],
                number(figures["seconds"]["median"], 1),
                "" if faster is None else number(faster["median"]),
                spread,
                number(figures["peak_mib"], 0),
                number(figures["growth_mib"], 0),
            ]
        )
    header = ["", "seconds, median", "times faster", "smallest to largest", "peak, MiB", "of which evaluation, MiB"]
    text.append(table(header, rows))
    text.append(
        "Peak is that of the whole process, torch and the vectors included; the last column is what it grew by during "
        "the evaluation.\n"
    )
    text.append(
        f"The sides' metrics differed by at most {raw['largest_difference']:.0e} (allowed {raw['tolerance']:.0e}): "
        + ", ".join(f"{metric} {value:.6f}" for metric, value in raw["metrics"].items())
        + ".\n"
    )
    aims = raw["aims"]
    lines = []
    for side, met in raw["met"].items():
        answers = ["yes" if met[aim] else "no" for aim in ("times_faster", "peak_mib") if aim in met]
        lines.append([NAMES[side], *answers])
    header = [f"{aims['times_faster']:.0f} times faster"] if "recbole" in raw["sides"] else []
    text.append(table(["aim met", *header, f"peak below {number(aims['peak_mib'], 0)} MiB"], lines, align="---"))
    text.append("## How it was measured\n")
    load = machine["load"]
    before = load["average_before"]
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
                ["vectors", f"{settings['dimension']} numbers, float32"],
                ["rows of a batch, all sides", str(settings["batch_size"])],
                ["rank_memory, ours", f"{settings['rank_memory']} MiB"],
                ["measurements of each side", str(settings["repeats"])],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)
