"""The data path against RecBole's own: memory and time of preparing a million interactions, ten million, and batches.

    python benchmarks/data_path.py --data_path=FOLDER [--sections=loader,large,batches] [--output=FILE.json]

Sections:

loader   1,000,000 synthetic interactions of 20,000 users, histories of at most 50 and of at most 200. RecBole's
         SequentialDataset and loaders, and ours, from the moment the file has been read to loaders that are ready:
         time, what the tensors (or arrays) of the examples take, and peak memory above the level after reading. Each
         side in a process of its own, several times, in turns; the cache is off
large    10,000,000 synthetic interactions of 1,000,000 users, histories of at most 200: from the file to the first
         batch, peak memory of the whole process, and the same again from the cache
batches  what a batch of 512 costs beside a training step of DiffuRec at its published sizes; FOLDER holds
         amazon-beauty/amazon-beauty.inter

Peak memory is VmHWM, which is reset before what is measured begins (Linux).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Load, Progress, code_version, command_line, machine, now, resident_peak_mib, say, summarise

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent))  # measure this checkout, installed or not
SECTIONS = ("loader", "large", "batches")
LENGTHS = (50, 200)
FLOORS = {"memory_ratio": 20.0, "time_ratio": 10.0, "bytes_per_interaction": 16.0, "large_peak_mib": 8192.0}
BATCH_SHARE = 0.03


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="The data path against RecBole's own, side by side.")
    parser.add_argument("--data_path", help="folder that holds amazon-beauty/amazon-beauty.inter, for batches")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="what to measure (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of measurements of loader (%(default)s)")
    parser.add_argument("--work", help="folder for the synthetic files, removed at the end (a temporary one)")
    parser.add_argument("--output", default=str(HERE / "results" / "data_path.json"), help="JSON (%(default)s)")
    parser.add_argument(
        "--try_out", action="store_true", help="small files, to see that the command works; never counts"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sections = options.sections.split(",")
    wrong = [name for name in options.sections if name not in SECTIONS]
    if wrong:
        parser.error(f"--sections has {wrong[0]!r}; allowed: {', '.join(SECTIONS)}")
    if "batches" in options.sections and not options.data_path and not options.measure:
        parser.error("batches needs --data_path, the folder that holds amazon-beauty")
    return options


# Synthetic interactions ----------------------------------------------------------------------------------------------


def write_synthetic(folder: Path, name: str, interactions: int, users: int, items: int, seed: int = 7) -> None:
    """An atomic file in order of time: users of very different activity, popular items, each time one second later."""
    generator = np.random.default_rng(seed)
    weights = generator.lognormal(0.0, 1.0, users)
    owner = np.concatenate(
        [np.tile(np.arange(users), 5), generator.choice(users, interactions - 5 * users, p=weights / weights.sum())]
    )
    generator.shuffle(owner)
    item = (items * generator.random(interactions) ** 2).astype(np.int64)
    (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / name / f"{name}.inter").open("w", encoding="utf-8", newline="\n") as stream:
        stream.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for begin in range(0, interactions, 500_000):
            rows = range(begin, min(begin + 500_000, interactions))
            stream.writelines(f"u{owner[row]}\ti{item[row]}\t{row}\n" for row in rows)


def sizes(try_out: bool) -> dict[str, dict[str, int]]:
    """Interactions, users and items of the synthetic files."""
    if try_out:
        return {
            "loader": {"interactions": 20_000, "users": 500, "items": 300},
            "large": {"interactions": 50_000, "users": 2_000, "items": 500},
        }
    return {
        "loader": {"interactions": 1_000_000, "users": 20_000, "items": 12_000},
        "large": {"interactions": 10_000_000, "users": 1_000_000, "items": 200_000},
    }


# Inside a process of its own -----------------------------------------------------------------------------------------


def reset_peak() -> None:
    """Let the peak of this process's memory start anew from what it holds now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def settings(folder: str, name: str, length: int, **keys: Any) -> Any:
    """A configuration of SASRec on a synthetic dataset."""
    from recbole_diffusion.config import RunConfig

    values = {
        "data_path": folder,
        "MAX_ITEM_LIST_LENGTH": length,
        "train_batch_size": 512,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "show_progress": False,
        "use_gpu": False,
        "cache": False,
    }
    return RunConfig("SASRec", name, (), {**values, **keys})


def measure_loader(side: str, folder: str, length: int, interactions: int) -> dict[str, float]:
    """Preparation of one side: seconds, MiB of examples, peak MiB above the level after reading."""
    config = settings(folder, "loader", length, time_precision="float32")  # ranks, exact in float32: one order for both
    began = time.perf_counter()
    if side == "recbole":
        from recbole.data.dataset import SequentialDataset
        from recbole.data.utils import data_preparation

        dataset: Any = SequentialDataset(config)
        prepare = data_preparation
    else:
        from recbole_diffusion.data.loading import prepare_loaders
        from recbole_diffusion.data.reading import checked_dataset

        dataset = checked_dataset(config.entry.dataset_class)(config)
        prepare = prepare_loaders
    reading = time.perf_counter() - began
    reset_peak()
    level = resident_peak_mib()
    began = time.perf_counter()
    loaders = prepare(config, dataset)
    seconds = time.perf_counter() - began
    peak = resident_peak_mib() - level
    parts = [loader._dataset for loader in loaders]
    if side == "recbole":
        held = sum(column.nbytes for part in parts for column in part.inter_feat.interaction.values())
    else:
        held = parts[0].histories.nbytes
        held += sum(part.inter_feat.rows.target.nbytes for part in [*parts, dataset])
    return {
        "reading_seconds": reading,
        "seconds": seconds,
        "examples_mib": held / 2**20,
        "peak_mib": max(peak, 1 / 256),  # a page, so that there is a ratio
        "bytes_per_interaction": held / interactions,
        "rows": float(sum(map(len, parts))),
    }


def measure_large(folder: str, length: int) -> dict[str, float]:
    """From the file to the first batch: seconds of each part and peak MiB of the process."""
    from recbole_diffusion.data.loading import prepare_loaders
    from recbole_diffusion.data.reading import checked_dataset

    config = settings(folder, "large", length, cache=True, cache_dir=str(Path(folder) / "cache"))
    began = time.perf_counter()
    dataset = checked_dataset(config.entry.dataset_class)(config)
    read = time.perf_counter()
    loaders = prepare_loaders(config, dataset)
    prepared = time.perf_counter()
    batch = next(iter(loaders[0]))
    shape = batch["item_id_list"].shape
    done = time.perf_counter()
    held = dataset.histories.nbytes + sum(loader._dataset.inter_feat.rows.target.nbytes for loader in loaders)
    return {
        "reading_seconds": read - began,
        "preparing_seconds": prepared - read,
        "first_batch_seconds": done - prepared,
        "seconds": done - began,
        "peak_mib": resident_peak_mib(),
        "bytes_per_interaction": held / len(dataset.histories),
        "interactions": float(len(dataset.histories)),
        "batch_rows": float(shape[0]),
        "batch_width": float(shape[1]),
    }


def in_own_process(options: argparse.Namespace, folder: Path, measure: str, length: int) -> dict[str, float]:
    """Run this script on one measurement and return what it prints."""
    command = [sys.executable, __file__, f"--measure={measure}", f"--length={length}", f"--work={folder}"]
    command += ["--try_out"] * options.try_out
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, capture_output=True, check=False, text=True, env=environment)
    if result.returncode:
        raise SystemExit(f"error: {measure} ended with {result.returncode}: {result.stderr.strip().splitlines()[-1:]}")
    found: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


# Sections ------------------------------------------------------------------------------------------------------------


def loader_section(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """RecBole's loaders and ours, in turns."""
    size = sizes(options.try_out)["loader"]
    write_synthetic(folder, "loader", **size)
    progress = Progress("loader", len(LENGTHS) * options.repeats * 2)
    section: dict[str, Any] = {**size, "lengths": {}}
    for length in LENGTHS:
        pairs: list[dict[str, dict[str, float]]] = []
        for _ in range(options.repeats):
            pair = {}
            for side in ("recbole", "ours"):
                pair[side] = in_own_process(options, folder, f"loader:{side}", length)
                progress.step(
                    f"length {length}, {side}: {pair[side]['seconds']:.2f} s, {pair[side]['peak_mib']:.0f} MiB"
                )
            if pair["recbole"]["rows"] != pair["ours"]["rows"]:
                raise SystemExit("error: the two sides have not the same number of examples")
            pairs.append(pair)
        section["lengths"][str(length)] = {
            "pairs": pairs,
            **{
                name: summarise([{"yardstick": pair["ours"][name], "ours": pair["recbole"][name]} for pair in pairs])[
                    "ratio"
                ]
                for name in ("seconds", "examples_mib", "peak_mib")
            },
        }
    shutil.rmtree(folder / "loader")
    return section


def large_section(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Ten million interactions from the file, then from the cache."""
    size = sizes(options.try_out)["large"]
    say("large: writing the synthetic file")
    write_synthetic(folder, "large", **size)
    section: dict[str, Any] = {
        **size,
        "length": 200,
        "file_mib": (folder / "large" / "large.inter").stat().st_size / 2**20,
    }
    for name in ("from_file", "from_cache"):
        section[name] = in_own_process(options, folder, "large", 200)
        say(f"large, {name}: {section[name]['seconds']:.1f} s, peak {section[name]['peak_mib']:.0f} MiB")
    shutil.rmtree(folder / "large")
    return section


def batches_section(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a batch and of a training step on it, DiffuRec at its published sizes on Amazon Beauty."""
    from recbole_diffusion.config import RunConfig
    from recbole_diffusion.data.loading import prepare_loaders
    from recbole_diffusion.data.reading import checked_dataset

    keys = {"data_path": options.data_path, "use_gpu": False, "cache": False, "show_progress": False}
    if options.try_out:
        keys.update(hidden_size=16, n_layers=1, num_steps=8)
    config = RunConfig("DiffuRec", "amazon-beauty", (), keys)
    torch.manual_seed(0)
    train = prepare_loaders(config, checked_dataset(config.entry.dataset_class)(config))[0]
    model = config.entry.model_class(config, train._dataset).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    steps = 6 if options.try_out else 60
    loading = training = 0.0
    batches = iter(train)
    for step in range(steps):
        began = time.perf_counter()
        batch = next(batches)
        for column in ("item_id_list", "item_length", "item_id"):
            batch[column]
        loaded = time.perf_counter()
        optimizer.zero_grad()
        model.calculate_loss(batch).backward()
        optimizer.step()
        done = time.perf_counter()
        if step >= steps // 6:  # the first ones warm up
            loading += loaded - began
            training += done - loaded
    counted = steps - steps // 6
    return {
        "batch_size": config["train_batch_size"],
        "steps": counted,
        "batch_seconds": loading / counted,
        "step_seconds": training / counted,
        "share": loading / training,
    }


def verdicts(result: dict[str, Any]) -> dict[str, bool]:
    """Which of the aims of this benchmark are met; only what was measured."""
    met = {}
    for length, found in result.get("loader", {}).get("lengths", {}).items():
        ours = [pair["ours"] for pair in found["pairs"]]
        met[f"loader {length}: examples 20 times smaller"] = found["examples_mib"]["median"] >= FLOORS["memory_ratio"]
        met[f"loader {length}: peak 20 times smaller"] = found["peak_mib"]["median"] >= FLOORS["memory_ratio"]
        met[f"loader {length}: 10 times faster"] = found["seconds"]["median"] >= FLOORS["time_ratio"]
        most = max(side["bytes_per_interaction"] for side in ours)
        met[f"loader {length}: 16 bytes an interaction"] = most <= FLOORS["bytes_per_interaction"]
    if "large" in result:
        met["large: within 8 GiB"] = result["large"]["from_file"]["peak_mib"] <= FLOORS["large_peak_mib"]
    if "batches" in result:
        met["batches: below 3 % of a step"] = result["batches"]["share"] < BATCH_SHARE
    return met


def main() -> int:
    """Measure and write the JSON."""
    options = arguments()
    warnings.filterwarnings("ignore")
    if options.measure:
        name, _, side = options.measure.partition(":")
        if name == "loader":
            interactions = sizes(options.try_out)["loader"]["interactions"]
            found = measure_loader(side, options.work, options.length, interactions)
        else:
            found = measure_large(options.work, options.length)
        print(json.dumps(found))
        return 0
    load = Load()
    result: dict[str, Any] = {
        "benchmark": "data_path",
        "command": command_line(),
        "time": now(),
        "code": code_version(HERE),
        "machine": machine(torch.device("cpu")),
        "try_out": options.try_out,
    }
    folder = Path(tempfile.mkdtemp(prefix="data_path_", dir=options.work))
    try:
        if "loader" in options.sections:
            result["loader"] = loader_section(options, folder)
        if "large" in options.sections:
            result["large"] = large_section(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if "batches" in options.sections:
        result["batches"] = batches_section(options)
    result["met"] = verdicts(result)
    result["load"] = load.report()
    Path(options.output).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    say(f"wrote {Path(options.output).name}; python benchmarks/render.py makes the table of it")
    for name, good in result["met"].items():
        say(f"{'met    ' if good else 'MISSED '} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
