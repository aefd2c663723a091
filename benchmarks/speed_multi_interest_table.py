"""The table of the benchmark of diffusion over interests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_speed_multi_interest(raw: Mapping[str, Any], name: str) -> str:
    """Tables of benchmarks/speed_multi_interest.py: costs of training steps, K chains at once, profile."""
    machine, sizes, load = raw["machine"], raw["sizes"], raw["load"]
    text = [f"# What diffusion costs a multi-interest model ({machine['device']})\n"]
    if raw["try_out"]:
        text.append("**Tiny sizes, to see that the command works: these numbers mean nothing.**\n")
    text.append(
        f"{sizes['items']:,} items, batches of {sizes['batch']}, histories up to {sizes['MAX_ITEM_LIST_LENGTH']}, "
        f"K = {sizes['n_interests']}, D = {sizes['hidden_size']}, {sizes['n_negatives']:,} negatives a batch.\n"
    )
    steps = [raw[section] for section in ("dmi", "dimerec") if section in raw]
    if steps:
        text.append(_steps(steps))
    if "chains" in raw:
        text.append(_chains(raw["chains"], sizes))
    if "profile" in raw:
        text.append(_profile(raw["profile"]))
    others = load["cores_busy_with_others"]
    text.append(
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, Python {machine['python']}, "
        f"torch {machine['torch']}; code {raw['code']}, {raw['time']}; cores busy with other processes meanwhile: "
        f"{'unknown' if others is None else others}. `{raw['command']}`. Raw figures: {name}.json.\n"
    )
    return "\n".join(text)


def _spread(values: Mapping[str, float], decimals: int = 2) -> str:
    low, high = number(values["min"], decimals), number(values["max"], decimals)
    return f"{number(values['median'], decimals)} ({low} to {high})"


def _steps(parts: list[Mapping[str, Any]]) -> str:
    rows = [
        [
            f"{part['ours']} beside {part['base']}",
            _spread(part["rates"]["base"], 0),
            _spread(part["rates"]["ours"], 0),
            _spread(part["cost"]),
            f"at most {part['limit']:g}: {'yes' if part['met'] else 'no'}",
        ]
        for part in parts
    ]
    return (
        "Training steps (losses, backward, optimiser), both on the same rows; the cost is the ratio of seconds within "
        "a pair, the median over pairs and its spread:\n\n"
        + table(["", "base, rows/s", "with diffusion, rows/s", "cost", "aim"], rows)
    )


def _chains(part: Mapping[str, Any], sizes: Mapping[str, Any]) -> str:
    rows = []
    for users, found in part["users"].items():
        rows.append(
            [
                users,
                _spread(found["rates"]["batched"], 0),
                _spread(found["gain"]["loop_as_printed"]),
                _spread(found["gain"]["loop"]),
                f"{found['difference']:.0e}",
            ]
        )
    header = [
        "users at a time",
        "one chain, users/s",
        "times Algorithm 2 as printed",
        "times a loop of ours",
        "differ by",
    ]
    return (
        f"DMI's inference, K = {sizes['n_interests']} interests and {sizes['num_steps']} steps, histories to refined "
        "interests: all interests in one chain, beside Algorithm 2 as printed (interest by interest, keys and values "
        "in every step) and beside the same loop over this package's own parts. The aim is "
        f"{part['least']:g} times a loop over interests.\n\n" + table(header, rows)
    )


def _profile(part: Mapping[str, Any]) -> str:
    rows = [
        [f"`{found['name']}`", f"{100 * found['share']:.1f} %", number(found["calls_a_step"], 1)]
        for found in part["operators"]
    ]
    return (
        f"Where a training step of DMI spends its {number(part['milliseconds_a_step'])} ms (under the profiler, "
        f"{part['steps']} steps; operators without what they call):\n\n"
        + table(["operator", "share", "calls a step"], rows)
    )
