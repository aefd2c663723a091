"""Table of quality against the number of reverse steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table

NAMES = {"own": "the run's own", "ddim": "DDIM", "ddpm": "DDPM", "dpm_solver_pp": "DPM-Solver++ (2M)"}


def smallest_within(entry: Mapping[str, Any], sampler: str, tolerance: float) -> int | None:
    """The smallest measured number of a sampler whose NDCG@10 is within the tolerance of the run's own full chain."""
    full = entry["samplers"].get("own", entry["samplers"][sampler]).get(str(entry["num_steps"]))
    if full is None or "refused" in entry["samplers"][sampler]:
        return None
    floor = (1 - tolerance) * full["ndcg@10"]
    enough = [int(n) for n, found in entry["samplers"][sampler].items() if found["ndcg@10"] >= floor]
    return min(enough, default=None)


def render_few_steps(raw: Mapping[str, Any], name: str) -> str:
    """One table: a line for each run and sampler, a column for each number of steps; then every figure."""
    tolerance, runs = raw["settings"]["tolerance"], raw["runs"]
    share = f"{100 * tolerance:g} %"
    measured = {
        int(steps)
        for entry in runs.values()
        for found in entry["samplers"].values()
        for steps in found
        if steps != "refused"
    }
    columns = [steps for steps in sorted(measured) if steps & (steps - 1) == 0]
    rows, every, refused = [], [], []
    for run, entry in runs.items():
        for sampler, found in entry["samplers"].items():
            label = NAMES.get(sampler, sampler)
            if "refused" in found:
                refused.append(f"{run}, {label}: {found['refused']}.")
                continue
            full = found.get(str(entry["num_steps"]))
            cells = [
                number(100 * found[str(steps)]["ndcg@10"]) if str(steps) in found and steps < entry["num_steps"] else ""
                for steps in columns
            ]
            chosen = smallest_within(entry, sampler, tolerance)
            rows.append(
                [
                    run,
                    entry["dataset"],
                    label,
                    *cells,
                    f"{number(100 * full['ndcg@10'])} ({entry['num_steps']})" if full else "–",
                    "–" if chosen is None else str(chosen),
                ]
            )
            for steps in sorted(map(int, found)):
                values = found[str(steps)]
                every.append(
                    [run, label, str(steps), number(100 * values["ndcg@10"], 4), number(100 * values["hit@10"], 4)]
                )
    text = [
        f"# Quality against the number of reverse steps ({raw['settings']['split']} rows)\n",
        f"NDCG@10 in percent of one trained model by the number of steps; the last column is the smallest number that "
        f"was measured whose NDCG@10 is at most {share} below that of the run's own chain with all T steps.\n",
        table(["run", "dataset", "sampler", *map(str, columns), "all T", f"within {share}"], rows),
    ]
    if refused:
        text.append("\n".join(f"* {line}" for line in refused) + "\n")
    text += [
        "## Every figure\n",
        table(["run", "sampler", "steps", "NDCG@10, %", "HR@10, %"], every),
        "## How it was measured\n",
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                *(
                    [
                        run,
                        f"{entry['model']}, {entry['rows']:,} rows; own chain: "
                        + ", ".join(f"{key} {value}" for key, value in entry["own"].items()),
                    ]
                    for run, entry in runs.items()
                ),
            ],
            align="---",
        ),
        f"Raw file: [{name}.json]({name}.json).\n",
    ]
    return "\n".join(text)
