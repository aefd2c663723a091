"""The table of benchmarks/service_load.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_service_load(raw: Mapping[str, Any], name: str) -> str:
    """Loads, the soak, how it was measured."""
    served, settings, machine, soak = raw["served"], raw["settings"], raw["machine"], raw["soak"]
    loads = [*raw["loads"], *([soak] if soak else [])]
    rows = [
        [
            f"{one['clients']}" + (", the soak" if one is soak else ""),
            f"{one['requests']:,}",
            number(one["per_second"], 0),
            number(one["p50_ms"], 1),
            number(one["p99_ms"], 1),
            number(one["max_ms"], 1),
            _errors(one["errors"]),
            number(one["batch"], 1),
            number(one["service_cores"]),
            number(one["generator_cores"]),
        ]
        for one in loads
    ]
    text = [f"# The service under load: {served['model']} on {served['dataset']}, {served['items']:,} items\n"]
    if settings["try_out"]:
        text.append("**Tried out: the numbers mean nothing.**\n")
    header = ["clients", "requests", "a second", "p50, ms", "p99, ms", "slowest, ms", "errors", "histories a batch"]
    text.append(table([*header, "cores, service", "cores, generator"], rows))
    text.append(
        "Each client asks again when it is answered. Latencies are the client's: from before it sends to the last byte "
        "of the answer, its own waiting for a processor included; where the generator keeps a core busy, it is the "
        "slower side.\n"
    )
    if soak:
        share = 100 * soak["growth_mib"] / soak["first_mib"]
        text.append(
            f"Memory of the service over {soak['requests']:,} requests: {number(soak['first_mib'], 1)} MiB after the "
            f"first tenth, {number(soak['last_mib'], 1)} MiB at the end ({soak['growth_mib']:+.1f} MiB, "
            f"{share:+.2f} %), {number(soak['max_mib'], 1)} MiB at most.\n"
        )
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
                ["machine", f"{machine['processor']}, {machine['cores']} cores, for both"],
                ["versions", _versions({"Python": machine["python"], "torch": machine["torch"], **raw["versions"]})],
                ["load generator", raw["generator"]],
                ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
                ["keys of the service", ", ".join(settings["serve"]) or "defaults"],
                ["run", "trained for this, on made data" if settings["trained_now"] else "the command's"],
                [
                    "a request",
                    f"one history of 1 to {settings['longest_history']} items, {settings['k']} items asked for",
                ],
            ],
            align="---",
        )
    )
    text.append(f"Raw file: [{name}.json]({name}.json).\n")
    return "\n".join(text)


def _errors(errors: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in errors.items()) or "0"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
