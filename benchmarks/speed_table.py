"""Table of a speed benchmark against a plain implementation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_speed(raw: Mapping[str, Any], name: str) -> str:
    """Table of a speed benchmark: ours, the yardstick, their ratio and its spread."""
    machine = raw["machine"]
    settings = raw["settings"]
    model = settings.get("model", "DiffuRec")
    text = [f"# Speed of {model} against a plain implementation ({settings['dataset']}, {machine['device']})\n"]
    if settings["try_out"]:
        text.append("**A tiny model, to see that the command works: the numbers mean nothing.**\n")
    rows = []
    for part, what in (("training", "training"), ("inference", "inference, whole reverse chain and scores")):
        if part in raw:
            section = raw[part]
            ratio = section["ratio"]
            rows.append(
                [
                    f"{what}, {section['unit']}",
                    number(section["ours"]["median"], 1),
                    number(section["yardstick"]["median"], 1),
                    f"{number(ratio['median'])} times",
                    f"{number(ratio['min'])} to {number(ratio['max'])}",
                ]
            )
    if "memory" in raw:
        memory = raw["memory"]
        grown = {
            side: (memory[side]["device"] if memory["of"] == "device" else memory[side])["growth_mib"]
            for side in ("ours", "yardstick")
        }
        rows.append(
            [
                f"peak memory of training steps ({memory['of']}), {memory['unit']}",
                number(grown["ours"], 0),
                number(grown["yardstick"], 0),
                f"{number(100 * memory['share'], 1)} %",
                "",
            ]
        )
    text.append(table(["", "ours", "plain", "ours to plain, median of pairs", "smallest to largest"], rows))
    if "training" in raw:
        seconds = raw["rows"]["training"] / raw["training"]["ours"]["median"]
        text.append(f"An epoch of {raw['rows']['training']:,} rows takes ours {number(seconds, 1)} s at that rate.\n")
    for part in ("training", "inference"):
        if part in raw:
            section = raw[part]
            verdict = "the ratio counts" if section["counts"] else "**the ratio does not count**"
            if settings["try_out"]:
                continue
            if section["yardstick_floor"] is None:
                continue
            text.append(
                f"The plain implementation reached {number(section['yardstick']['median'], 1)} {section['unit']} in "
                f"{part}; its floor is {number(section['yardstick_floor'], 0)}, so {verdict}.\n"
            )
    if "memory" in raw:
        by_step = raw["memory"]["ours"]["growth_mib_by_step"]
        steps = {side: raw["memory"][side]["steps"] for side in ("ours", "yardstick")}
        text.append(
            f"Memory was watched over {steps['ours']} steps of ours, and {steps['yardstick']} of the plain one, whose "
            "tensors never change size. Ours had grown by "
            + ", ".join(f"{number(grown, 0)} MiB after {step}" for step, grown in by_step.items())
            + " steps.\n"
        )
    parity = raw["parity"]
    text.append(
        f"With every random number fixed and dropout off the two differed by at most {parity['worst']:.1e} "
        f"on {parity['rows']} rows (user vectors, loss, scores, item gradient; allowed {parity['tolerance']:.0e}).\n"
    )
    if "evaluation" in raw:
        part = raw["evaluation"]
        text.append("## Full evaluation\n")
        text.append(
            table(
                ["", "value"],
                [
                    ["users, items, reverse steps", f"{part['users']:,}, {part['items']:,}, {part['reverse_steps']}"],
                    ["seconds", number(part["seconds"], 1)],
                    ["users/s", number(part["users_per_second"], 1)],
                    ["seconds in the network", number(part["network_seconds"], 1)],
                    ["seconds in scores of all items", number(part["score_seconds"], 1)],
                    ["seconds elsewhere (loader, top-k, metrics)", number(part["other_seconds"], 1)],
                    ["share outside the network", f"{number(100 * part['share_outside_network'], 2)} %"],
                ],
            )
        )
    text.append("## How it was measured\n")
    load = machine["load"]
    before = load["average_before"]
    busy = load["cores_busy_with_others"]
    text.append(
        table(
            ["", ""],
            [
                ["command", f"`{raw['command']}`"],
                ["code", str(raw["code_version"])],
                ["measured", raw["measured"]],
                ["machine", f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads"],
                ["device", machine["device"]],
                ["versions", f"Python {machine['python']}, torch {machine['torch']}"],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["cores busy with other processes, mean", number(busy)],
                ["pairs", str(settings["repeats"])],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)
