"""The table of the benchmark of retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table

CASES = {"trained": "like a trained run's", "gaussian": "N(0, I), the hard case"}
SIDES = {
    "product": "`torch.topk(items @ x, k)`",
    "exact": "ours, `retrieval: exact`",
    "faiss": "ours, `retrieval: faiss`",
}


def render_retrieval_speed(raw: Mapping[str, Any], name: str) -> str:
    """Table of benchmarks/retrieval_speed.py: milliseconds a query, recall, what building takes."""
    settings, machine = raw["settings"], raw["machine"]
    text = [f"# One query at a time among {settings['items']:,} items\n"]
    if settings["try_out"]:
        text.append("**Few items and no run, to see that the command works: the numbers mean nothing.**\n")
    for case, figures in raw["cases"].items():
        text.append(f"## Vectors {CASES[case]}\n")
        rows = [
            [
                SIDES[side],
                number(times["median_ms"]["median"], 3),
                number(times["p99_ms"]["median"], 3),
                number(figures["times_faster"]["median"]) if side == "faiss" else "",
                f"{number(figures['times_faster']['min'])} to {number(figures['times_faster']['max'])}"
                if side == "faiss"
                else "",
            ]
            for side, times in figures["sides"].items()
        ]
        text.append(table(["", "ms, median", "ms, 99th percentile", "times faster", "smallest to largest"], rows))
        parameters = {**figures["build"], **figures["search"]}
        met = raw["met"][case]
        aims = raw["aims"]
        text.append(
            table(
                ["", ""],
                [
                    [f"recall@{settings['k']}, queries that built nothing", number(figures["recall"], 4)],
                    ["the same when built", number(figures["recall_when_built"], 4)],
                    [f"at least {aims['times_faster']:.0f} times faster", "yes" if met["times_faster"] else "no"],
                    [f"recall at least {aims['recall']}", "yes" if met["recall"] else "no"],
                    [
                        "index",
                        f"{figures['kind']}: " + ", ".join(f"{key} {value}" for key, value in parameters.items()),
                    ],
                    ["building, seconds", f"{number(figures['build_seconds'], 1)}, in {figures['attempts']} attempts"],
                    ["measuring recall, seconds", number(figures["measuring_seconds"], 1)],
                    [
                        "index, MiB",
                        f"{number(figures['index_mib'], 1)} beside {number(figures['vectors_mib'], 1)} of vectors",
                    ],
                    [
                        "peak memory, MiB",
                        f"{number(figures['peak_mib'], 0)}, {number(figures['peak_mib_before'], 0)} before",
                    ],
                ],
                align="---",
            )
        )
    about = raw["cases"].get("trained", {})
    load = machine["load"]
    before = load["average_before"]
    text.append("## How it was measured\n")
    text.append(
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                ["machine", f"{machine['processor']}, {machine['cores']} cores, {settings['threads']} threads a side"],
                ["versions", f"Python {machine['python']}, torch {machine['torch']}, faiss {machine['faiss']}"],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["cores busy with other processes, mean", number(load["cores_busy_with_others"])],
                [
                    "run",
                    f"{about.get('model', '–')} on {about.get('dataset', '–')}, {about.get('dimension', '–')} numbers",
                ],
                ["queries", f"{settings['queries']}: {about.get('queries', '–')}"],
                ["measurements of each side", f"{settings['repeats']} of {settings['timed']} queries"],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)
