"""What a speed benchmark compares, and its command line.

A comparison names a model of ours, the plain implementation that is its yardstick, and the sizes of both;
speed_diffurec.py runs it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from contestants import BLOCK_JOINED, BLOCK_PARTS
from reference_diffurec import ReferenceDiffuRec, ReferenceSizes

HERE = Path(__file__).resolve().parent
SECTIONS = ("memory", "training", "inference", "evaluation")


@dataclass(frozen=True)
class Comparison:
    """What is compared: a model of ours and its yardstick."""

    name: str
    """The benchmark, which is also the name of its script and of its result."""
    model: str
    """Name of our model."""
    sizes: Callable[[argparse.Namespace, int], ReferenceSizes]
    """The sizes of both, from the command line and the number of items."""
    yardstick_class: Callable[[Any], ReferenceDiffuRec] = ReferenceDiffuRec
    weight_decay: float = 0.0
    """Of the yardstick; ours has its model's default."""
    block_parts: Mapping[str, str] = field(default_factory=lambda: BLOCK_PARTS)
    block_joined: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: BLOCK_JOINED)
    padding_token: bool = True
    floors: Mapping[str, float] = field(default_factory=dict)
    """Rows per second that the yardstick must reach for a ratio to count, where something is known to measure it by."""
    add_arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    """Adds what only this comparison's command takes."""
    keys: Callable[[argparse.Namespace], dict[str, Any]] = lambda options: {}
    """Keys of our model that follow from the command line."""

    @property
    def script(self) -> Path:
        """The command's file."""
        return HERE / f"{self.name}.py"


def arguments(comparison: Comparison) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=f"{comparison.model}'s speed and memory as ratios to a plain implementation, measured side by side."
    )
    comparison.add_arguments(parser)
    parser.add_argument("--data_path", required=True, help="folder that holds <dataset>/<dataset>.inter")
    parser.add_argument("--dataset", default="amazon-beauty", help="dataset to draw rows from (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of measurements (%(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="yardstick's training steps per pair (%(default)s)")
    parser.add_argument("--users", type=int, default=512, help="yardstick's users per pair (%(default)s)")
    parser.add_argument(
        "--ours_factor", type=int, default=6, help="how many times more steps and users ours does (%(default)s)"
    )
    parser.add_argument("--batch_size", type=int, default=512, help="rows of a training batch (%(default)s)")
    parser.add_argument("--memory_steps", type=int, default=16, help="yardstick's steps for the peak (%(default)s)")
    parser.add_argument(
        "--memory_steps_ours", type=int, default=257, help="our steps for the peak, an epoch of Beauty (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=2023, help="seed of rows and weights (%(default)s)")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="what to measure (%(default)s)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a key of our model, may be repeated"
    )
    parser.add_argument(
        "--output", default=str(HERE / "results" / f"{comparison.name}.json"), help="JSON (%(default)s)"
    )
    parser.add_argument(
        "--try_out", action="store_true", help="tiny model and few rows, to see that the command works; never counts"
    )
    parser.add_argument("--memory_of", choices=("yardstick", "ours"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.sections = [name for name in options.sections.split(",") if name]
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"--sections: {', '.join(unknown)} is not one of {', '.join(SECTIONS)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("--device=cuda: torch sees no CUDA device here")
    for name in ("repeats", "steps", "users", "ours_factor", "batch_size", "memory_steps", "memory_steps_ours"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: got {getattr(options, name)}, needs 1 or more")
    if options.try_out:
        options.repeats, options.steps, options.users, options.ours_factor = 2, 1, 8, 2
        options.batch_size, options.memory_steps, options.memory_steps_ours = 16, 2, 4
    return options


def overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Keys of our model from --set; a value is read as JSON, and is text where it is none."""
    keys = {}
    for text in options.set:
        key, _, value = text.partition("=")
        try:
            keys[key] = json.loads(value)
        except json.JSONDecodeError:
            keys[key] = value
    return keys
