"""The table of the benchmark of the data path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown_tables import number, table


def render_data_path(raw: Mapping[str, Any], name: str) -> str:
    """Table of benchmarks/data_path.py: RecBole's loaders and ours, ten million interactions, batches."""
    machine, load = raw["machine"], raw["load"]
    text = ["# The data path against RecBole's own\n"]
    if raw["try_out"]:
        text.append("**Small files, to see that the command works: these numbers mean nothing.**\n")
    if "loader" in raw:
        text.append(_loader(raw["loader"]))
    if "large" in raw:
        text.append(_large(raw["large"]))
    if "batches" in raw:
        found = raw["batches"]
        text.append(
            f"Gathering a batch of {found['batch_size']} rows of Amazon Beauty takes "
            f"{1000 * found['batch_seconds']:.2f} ms, a training step of DiffuRec at its published sizes "
            f"{1000 * found['step_seconds']:.0f} ms: {100 * found['share']:.2f} % (over {found['steps']} steps).\n"
        )
    text.append(
        "| aim | met |\n|---|---|\n"
        + "".join(f"| {aim} | {'yes' if met else 'no'} |\n" for aim, met in raw["met"].items())
    )
    others = load["cores_busy_with_others"]
    text.append(
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, Python {machine['python']}, "
        f"torch {machine['torch']}; code {raw['code']}, {raw['time']}; cores busy with other processes meanwhile: "
        f"{'unknown' if others is None else others}. `{raw['command']}`. Raw figures: {name}.json.\n"
    )
    return "\n".join(text)


def _spread(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:,.1f} x ({ratio['min']:,.1f} to {ratio['max']:,.1f})"


def _loader(section: Mapping[str, Any]) -> str:
    rows = []
    names = (("seconds", "time, s"), ("examples_mib", "examples, MiB"), ("peak_mib", "peak above reading, MiB"))
    for length, found in section["lengths"].items():
        for key, label in names:
            sides = {
                side: sorted(pair[side][key] for pair in found["pairs"])[len(found["pairs"]) // 2]
                for side in ("recbole", "ours")
            }
            rows.append(
                [f"length {length}: {label}", number(sides["recbole"]), number(sides["ours"]), _spread(found[key])]
            )
        ours = max(pair["ours"]["bytes_per_interaction"] for pair in found["pairs"])
        theirs = max(pair["recbole"]["bytes_per_interaction"] for pair in found["pairs"])
        rows.append([f"length {length}: bytes an interaction", number(theirs), number(ours), ""])
    pairs = len(next(iter(section["lengths"].values()))["pairs"])
    return (
        f"From the file as read to loaders that are ready, {section['interactions']:,} interactions of "
        f"{section['users']:,} users; medians over {pairs} pairs, the ratio taken within a pair (its spread in "
        "brackets):\n\n" + table(["", "RecBole", "ours", "ratio"], rows)
    )


def _large(section: Mapping[str, Any]) -> str:
    names = (
        ("reading_seconds", "reading, s"),
        ("preparing_seconds", "preparing, s"),
        ("first_batch_seconds", "first batch, s"),
        ("seconds", "from the start to the first batch, s"),
        ("peak_mib", "peak of the process, MiB"),
        ("bytes_per_interaction", "bytes an interaction"),
    )
    rows = [[label, number(section["from_file"][key]), number(section["from_cache"][key])] for key, label in names]
    return (
        f"{section['interactions']:,} interactions of {section['users']:,} users, at most {section['items']:,} items, "
        f"a file of {section['file_mib']:,.0f} MiB, histories of at most {section['length']}:\n\n"
        + table(["", "from the file", "from the cache"], rows)
    )
