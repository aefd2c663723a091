"""The tables of the benchmarks of training on several workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markdown_tables import number, table


def render_workers_speed(raw: Mapping[str, Any], name: str) -> str:
    """Table of benchmarks/workers_speed.py: rows per second of one worker and of several."""
    settings = raw["settings"]
    workers = settings["workers"]
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
    text += _how_measured(
        raw,
        name,
        [
            ["rows of a batch, all workers together", "the model's own" if batch is None else str(batch)],
            ["noise", settings["train_noise"]],
            ["epochs of a run, the first not counted", str(settings["epochs"])],
            ["pairs of runs", str(settings["repeats"])],
        ],
    )
    return "\n".join(text)


def render_workers_step_cost(raw: Mapping[str, Any], name: str) -> str:
    """Table of benchmarks/workers_step_cost.py: CPU time of a step of one worker and of each of several."""
    settings = raw["settings"]
    workers = settings["workers"]
    text = [f"# What a training step costs each of {workers} workers ({settings['dataset']})\n"]
    if settings["try_out"]:
        text.append("**Tiny models, few steps, to see that the command works: the numbers mean nothing.**\n")
    rows = []
    for case in raw["cases"]:
        cost, gain = case["milliseconds"], case["gain_at_most"]
        rows.append(
            [
                f"{case['model']}, {case['rows']}",
                number(cost["one"]["computing"]["median"], 1),
                number(cost["share"]["computing"]["median"], 1),
                number(cost["several"]["computing"]["median"], 1),
                number(cost["several"]["gloo"]["median"], 1),
                number(gain["median"]),
                f"{number(gain['min'])} to {number(gain['max'])}",
                number(case["gain_without_exchange"]["median"]),
            ]
        )
    header = ["model, rows of a batch", "1 worker", f"1 worker, 1/{workers} of the rows"]
    header += [f"each of {workers}: computing", f"each of {workers}: gloo's threads"]
    header += ["gain at most", "smallest to largest", "without any exchange"]
    text.append(table(header, rows))
    text.append(
        "Milliseconds of CPU time a step and process, median over repeats. CPU time counts no waiting, so one worker's "
        f"by that of each of {workers} is a bound of the gain in rows per second: workers keep step, and the slower is "
        "waited for. One worker with its share of the rows talks to nobody: no exchange of gradients gains more.\n"
    )
    text += _how_measured(
        raw,
        name,
        [
            ["steps of a measurement, after warming up", str(settings["steps"])],
            ["measurements of each case", str(settings["repeats"])],
        ],
    )
    return "\n".join(text)


def _how_measured(raw: Mapping[str, Any], name: str, settings: Sequence[Sequence[str]]) -> list[str]:
    """The section on command, code, machine and its load, with the benchmark's own settings, and the raw file."""
    machine = raw["machine"]
    load = machine["load"]
    before = load["average_before"]
    rows = [
        ["command", f"`{raw['command']}`"],
        ["code", str(raw["code_version"])],
        ["measured", raw["measured"]],
        ["machine", f"{machine['processor']}, {machine['cores']} cores; one thread a worker"],
        ["versions", f"Python {machine['python']}, torch {machine['torch']}"],
        ["load average before (1, 5, 15 minutes)", ", ".join(map(str, before)) if before else "–"],
        ["cores busy with other processes, mean", number(load["cores_busy_with_others"])],
        *settings,
    ]
    source = f"Raw file: [{name}.json]({name}.json).\n"
    return ["## How it was measured\n", table(["", ""], rows, align="---"), source]
