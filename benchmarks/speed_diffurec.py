"""DiffuRec's speed and memory as ratios to a plain implementation, measured side by side in one run.

    python benchmarks/speed_diffurec.py --data_path=FOLDER [--device=cpu] [--repeats=5] [--output=FILE.json]

FOLDER holds amazon-beauty/amazon-beauty.inter. Both sides get the same weights at the published sizes and
`mask_mode: query`. Before anything else the two are run on the same rows with every random number fixed and dropout
off. When user vectors, loss, scores or item gradient differ by more than 1e-5 the command ends with an error: a ratio
between two things that compute something else means nothing.

Sections (--sections=memory,training,inference,evaluation):

memory      peak memory of training steps less what was held after imports and building the model, each side in a
            process of its own
training    rows per second of forward, loss, backward and the optimiser's step, on batches of random training prefixes
inference   users per second of the whole reverse chain and the scores of all items, random test users
evaluation  full ranking of all test users through this project's trainer, and the share of it outside the network

Pairs are interleaved (yardstick, ours, yardstick, ours, ...), and a ratio is the median over pairs. The yardstick
counts only when it is as fast as the released code was measured to be on two cores of an idle machine; `counts` in the
JSON says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from comparison import HERE, Comparison, arguments, overrides
from contestants import (
    TOLERANCE,
    Contestant,
    Ours,
    Yardstick,
    copy_weights,
    largest_differences,
    worst,
)
from leave_one_out import LeaveOneOut, read_leave_one_out
from measuring import (
    Load,
    Progress,
    Stopwatch,
    code_version,
    command_line,
    machine,
    now,
    rate,
    resident_peak_mib,
    say,
    summarise,
)
from reference_diffurec import ReferenceSizes

sys.path.insert(1, str(HERE.parent))  # measure this checkout, installed or not
FLOORS = {"training": 180.0, "inference": 22.0}
UNITS = {"training": "samples/s", "inference": "users/s"}
PARITY_ROWS = 64
WARM_UP_STEPS = 4


def diffurec_sizes(options: argparse.Namespace, n_items: int) -> ReferenceSizes:
    """The published sizes, or tiny ones."""
    if options.try_out:
        return ReferenceSizes(n_items + 1, hidden_size=16, n_layers=2, n_heads=2, max_length=8, num_steps=6)
    return ReferenceSizes(n_items + 1)


def make_yardstick(comparison: Comparison, options: argparse.Namespace, data: LeaveOneOut) -> Yardstick:
    """The yardstick, weights from the seed."""
    torch.manual_seed(options.seed)
    return Yardstick(
        comparison.sizes(options, data.n_items),
        torch.device(options.device),
        comparison.yardstick_class,
        comparison.weight_decay,
    )


def make_ours(comparison: Comparison, options: argparse.Namespace, data: LeaveOneOut) -> Ours:
    """Our model at the yardstick's sizes."""
    return Ours(
        comparison.sizes(options, data.n_items),
        torch.device(options.device),
        data_path=options.data_path,
        dataset=options.dataset,
        overrides={**comparison.keys(options), **overrides(options)},
        model=comparison.model,
        padding_token=comparison.padding_token,
    )


def measure_parity(yardstick: Yardstick, ours: Ours, data: LeaveOneOut, seed: int) -> dict[str, Any]:
    """Differences with every random number fixed."""
    rows = data.random_prefixes(
        min(PARITY_ROWS, len(data.prefixes)), np.random.default_rng(seed), yardstick.sizes.max_length
    )
    differences = largest_differences(yardstick, ours, rows, seed)
    return {"tolerance": TOLERANCE, "rows": len(rows), "worst": worst(differences), "differences": differences}


def measure_rates(
    what: str,
    yardstick: Contestant,
    ours: Contestant,
    data: LeaveOneOut,
    options: argparse.Namespace,
    max_length: int,
    floor: float | None,
) -> dict[str, Any]:
    """Interleaved pairs of `training` or `inference` rates."""
    device = torch.device(options.device)
    generator = np.random.default_rng(options.seed + len(what))

    def work(contestant: Contestant, factor: int) -> float:
        if what == "training":
            batches = [
                contestant.batch(data.random_prefixes(options.batch_size, generator, max_length))
                for _ in range(options.steps * factor)
            ]
            return rate(lambda: contestant.train_on(batches), device)
        users = data.random_test_users(min(options.users * factor, len(data.test_users)), generator, max_length)
        batch = contestant.batch(users)
        return rate(lambda: len(contestant.recommend_to(batch)), device)

    progress = Progress(what, options.repeats)
    pairs = []
    for _ in range(options.repeats):
        pair = {"yardstick": work(yardstick, 1), "ours": work(ours, options.ours_factor)}
        pairs.append({name: round(value, 3) for name, value in pair.items()})
        progress.step(
            f"yardstick {pair['yardstick']:.1f}, ours {pair['ours']:.1f} {UNITS[what]}, "
            f"ratio {pair['ours'] / pair['yardstick']:.2f}"
        )
    summary = summarise(pairs)
    reached = summary["yardstick"]["median"]
    return {
        "unit": UNITS[what],
        **summary,
        "pairs": pairs,
        "yardstick_floor": floor,
        "counts": (floor is None or reached >= floor) and not options.try_out,
    }


def warm_up(contestant: Contestant, data: LeaveOneOut, options: argparse.Namespace, max_length: int) -> None:
    """A few steps and one small chain, so that memory is mapped and code is loaded before anything is timed."""
    generator = np.random.default_rng(options.seed)
    if "training" in options.sections:
        rows = [data.random_prefixes(options.batch_size, generator, max_length) for _ in range(WARM_UP_STEPS)]
        contestant.train_on([contestant.batch(batch) for batch in rows])
    if "inference" in options.sections:
        users = data.random_test_users(min(64, len(data.test_users)), generator, max_length)
        contestant.recommend_to(contestant.batch(users))


def memory_of(comparison: Comparison, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own: peak memory of training steps of one side.

    Ours is watched for as many steps as an epoch has: its tensors differ in size from batch to batch, and what the
    allocator cannot use again adds up. The yardstick's sizes never change.
    """
    data = read_leave_one_out(options.data_path, options.dataset)
    yardstick = options.memory_of == "yardstick"
    contestant: Contestant = (make_yardstick if yardstick else make_ours)(comparison, options, data)
    steps = options.memory_steps if yardstick else options.memory_steps_ours
    generator = np.random.default_rng(options.seed)
    length = comparison.sizes(options, data.n_items).max_length
    on_gpu = options.device.startswith("cuda")
    device_baseline = 0.0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        device_baseline = torch.cuda.memory_allocated() / 2**20
    baseline = resident_peak_mib()
    growth: dict[str, float] = {}
    for step in range(1, steps + 1):
        rows = data.random_prefixes(options.batch_size, generator, length)
        contestant.train_on([contestant.batch(rows)])
        if step == steps or step & (step - 1) == 0:
            growth[str(step)] = round(resident_peak_mib() - baseline, 1)
    result: dict[str, Any] = {
        "steps": steps,
        "baseline_mib": round(baseline, 1),
        "peak_mib": round(resident_peak_mib(), 1),
        "growth_mib": growth[str(steps)],
        "growth_mib_by_step": growth,
    }
    if on_gpu:
        device_peak = torch.cuda.max_memory_allocated() / 2**20
        result["device"] = {
            "baseline_mib": round(device_baseline, 1),
            "peak_mib": round(device_peak, 1),
            "growth_mib": round(device_peak - device_baseline, 1),
        }
    return result


def measure_memory(comparison: Comparison, options: argparse.Namespace) -> dict[str, Any]:
    """Peak training memory of both sides, each in a process of its own."""
    sides: dict[str, Any] = {}
    for side in ("yardstick", "ours"):
        command = [sys.executable, str(comparison.script), *sys.argv[1:], f"--memory_of={side}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"memory of {side}: {done.stderr.strip().splitlines()[-1]}")
        sides[side] = json.loads(done.stdout.strip().splitlines()[-1])
        say(f"memory of {side}: {sides[side]['growth_mib']:.0f} MiB above {sides[side]['baseline_mib']:.0f} MiB")
    where = "device" if "device" in sides["ours"] else None
    grown = {side: (value[where] if where else value)["growth_mib"] for side, value in sides.items()}
    return {"unit": "MiB", **sides, "share": round(grown["ours"] / grown["yardstick"], 4), "of": where or "process"}


def measure_evaluation(ours: Ours) -> dict[str, Any]:
    """Full ranking of all test users through the trainer; its seconds in the network, in scoring, and elsewhere.

    The network is `user_vectors`, that is the reverse chain with its noise; scoring is the product with all items.
    """
    from recbole_diffusion.data.loading import prepare_loaders
    from recbole_diffusion.data.reading import checked_dataset
    from recbole_diffusion.training import evaluation as loop

    trainer, config = ours.trainer, ours.config
    dataset = checked_dataset(config.entry.dataset_class)(config)
    train_data, _, test_data = prepare_loaders(config, dataset)
    trainer.eval_collector.data_collect(train_data)
    clock = Stopwatch(ours.device)
    ours.model.user_vectors = clock.timed("network", ours.model.user_vectors)
    evaluate = clock.timed("total", trainer.evaluate)
    with mock.patch.object(loop, "relevance", clock.timed("scores", loop.relevance)):
        metrics = evaluate(test_data, load_best_model=False, show_progress=True)
    users = len(test_data._dataset)
    total, network, scores = (clock.seconds[name] for name in ("total", "network", "scores"))
    return {
        "users": users,
        "items": int(dataset.item_num) - 1,
        "reverse_steps": config["reverse_steps"] or config["num_steps"],
        "eval_batch_size": config["eval_batch_size"],
        "seconds": round(total, 3),
        "users_per_second": round(users / total, 2),
        "network_seconds": round(network, 3),
        "score_seconds": round(scores, 3),
        "other_seconds": round(total - network - scores, 3),
        "share_outside_network": round(1 - network / total, 5),
        "metrics": sorted(metrics),
    }


def measure(comparison: Comparison, options: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for, as the JSON's content.

    Raises:
        ArithmeticError: the two sides do not compute the same.
    """
    device = torch.device(options.device)
    load = Load()
    result: dict[str, Any] = {
        "benchmark": comparison.name,
        "command": command_line(),
        "measured": now(),
        "code_version": code_version(HERE),
        "machine": machine(device),
        "settings": {
            "model": comparison.model,
            **comparison.keys(options),
            **{name: getattr(options, name) for name in ("every_block",) if hasattr(options, name)},
            **{
                name: getattr(options, name)
                for name in (
                    "dataset",
                    "device",
                    "repeats",
                    "steps",
                    "users",
                    "ours_factor",
                    "batch_size",
                    "seed",
                    "set",
                    "try_out",
                )
            },
        },
    }
    data = read_leave_one_out(options.data_path, options.dataset)
    result["rows"] = {"training": len(data.prefixes), "test": len(data.test_users), "items": data.n_items}
    if "memory" in options.sections:
        memory = measure_memory(comparison, options)
    yardstick, ours = make_yardstick(comparison, options, data), make_ours(comparison, options, data)
    copy_weights(yardstick.model, ours.model, comparison.block_parts, comparison.block_joined)
    max_length = yardstick.sizes.max_length

    result["parity"] = measure_parity(yardstick, ours, data, options.seed)
    worst_difference = result["parity"]["worst"]
    if not worst_difference <= TOLERANCE:
        raise ArithmeticError(
            f"the two differ by {worst_difference:.2e} with every random number fixed, more than {TOLERANCE:.0e} "
            f"({json.dumps(result['parity']['differences'])}); no ratio is reported"
        )
    say(f"with every random number fixed the two agree to {worst_difference:.1e}")
    if "memory" in options.sections:
        result["memory"] = memory
    rates = [name for name in ("training", "inference") if name in options.sections]
    if rates:
        for side in (yardstick, ours):
            warm_up(side, data, options, max_length)
    for name in rates:
        result[name] = measure_rates(name, yardstick, ours, data, options, max_length, comparison.floors.get(name))
    if "evaluation" in options.sections:
        result["evaluation"] = measure_evaluation(ours)
    result["machine"]["load"] = load.report()
    return result


DIFFUREC = Comparison("speed_diffurec", "DiffuRec", diffurec_sizes, floors=FLOORS)


def main(comparison: Comparison = DIFFUREC) -> int:
    """Measure and write the JSON; 0, or 1 when no ratio can be given."""
    options = arguments(comparison)
    try:
        if options.memory_of:
            print(json.dumps(memory_of(comparison, options)))
            return 0
        result = measure(comparison, options)
    except (ArithmeticError, FileNotFoundError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name in ("training", "inference"):
        if name in result:
            part = result[name]
            floor = "it is a try-out" if result["settings"]["try_out"] else f"the floor is {part['yardstick_floor']}"
            verdict = "" if part["counts"] else f"; does not count, {floor}"
            ratio = part["ratio"]
            say(
                f"{name}: {part['ours']['median']:.1f} against {part['yardstick']['median']:.1f} {part['unit']}, "
                f"ratio {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}){verdict}"
            )
    if "memory" in result:
        say(f"peak training memory: {result['memory']['share']:.3f} of the yardstick's")
    say(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
