"""DiffuRecSys's speed and memory as ratios to a plain implementation, measured side by side in one run.

    python benchmarks/speed_diffurecsys.py --data_path=FOLDER [--every_block] [--stack=last_only] [--device=cpu]

As speed_diffurec.py in everything (sections, rows, pairs, the check that both compute the same to 1e-5 before anything
is timed), at the sizes of DiffuRecSys's released code: D 256, L 100, batches of 512, weight decay 1e-4.

The released code computes four blocks and uses one. The yardstick leaves out the three without an effect, which makes
it about twice as fast as code that does not; `--every_block` computes them.
"""

from __future__ import annotations

import argparse
import sys

from comparison import Comparison
from reference_diffurecsys import DiffuRecSysSizes, ReferenceDiffuRecSys
from speed_diffurec import main


def sizes(options: argparse.Namespace, n_items: int) -> DiffuRecSysSizes:
    """The released code's sizes, or tiny ones."""
    reading = {"stack": options.stack, "every_block": options.every_block}
    if options.try_out:
        return DiffuRecSysSizes(
            n_items + 1, hidden_size=16, n_layers=2, n_heads=2, max_length=8, num_steps=6, **reading
        )
    return DiffuRecSysSizes(n_items + 1, **reading)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What this command takes besides what speed_diffurec.py takes."""
    parser.add_argument("--stack", choices=("last_only", "sequential"), default="last_only", help="(%(default)s)")
    parser.add_argument("--every_block", action="store_true", help="let the yardstick compute blocks without effect")


DIFFURECSYS = Comparison(
    "speed_diffurecsys",
    "DiffuRecSys",
    sizes,
    yardstick_class=ReferenceDiffuRecSys,
    weight_decay=1e-4,
    block_parts={
        "input_norm": "input_norm",
        "cross_attention.query": "cross_attention.query",
        "cross_attention.output": "cross_attention.output",
        "attention.output": "self_attention.output",
        "output_norm": "output_norm",
        "feed_forward.first": "feed_forward.expand",
        "feed_forward.second": "feed_forward.contract",
    },
    block_joined={
        "cross_attention.key_value": ("cross_attention.key", "cross_attention.value"),
        "self_attention.projection": ("attention.query", "attention.key", "attention.value"),
    },
    padding_token=False,
    add_arguments=add_arguments,
    keys=lambda options: {"stack": options.stack},
)


if __name__ == "__main__":
    sys.exit(main(DIFFURECSYS))
