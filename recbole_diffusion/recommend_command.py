"""The word ``recommend`` of the command line: its keys, and what it prints."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from recbole_diffusion.config_files import parse_value
from recbole_diffusion.errors import UserError

if TYPE_CHECKING:
    from recbole_diffusion.recommendation.batch import RecommendedFile

OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "histories": "FILE.parquet, or a FOLDER of them: user_id with a list item_id, or user_id, item_id, timestamp",
    "output": "FILE.parquet to write: user_id, items, scores",
    "top_k": "NUMBER of items a user (default: 10)",
    "exclude_seen": "True leaves out items of the history, False does not (default: as the run's evaluation)",
    "unknown_items": "drop: leave out items of histories that the run does not know (default); error: refuse them",
    "batch_size": "NUMBER of users ranked at a time (default: the run's eval_batch_size)",
    "part_size": "NUMBER of users of a part, the piece that is made whole or not at all (default: 4096)",
    "num_actors": "NUMBER of actors (default: as many as there is room for)",
    "cpus_per_actor": "NUMBER of CPU threads of an actor (default: 1)",
    "num_gpus_per_actor": "NUMBER of GPUs of an actor, 0.5 for two actors on one (default: 0)",
    "ray_address": "ADDRESS of a Ray cluster (default: Ray is started on this machine)",
    "data_path": "FOLDER that holds the datasets' folders, for runs without a list of their items",
    "show_progress": "False: no progress bar",
}
FLAGS: dict[str, str] = {
    "resume": "refuse to begin where there is nothing to go on with (parts that are there are gone on with anyhow)",
    "overwrite": "begin anew where parts or an output are there",
}
BARE = ("exclude_seen",)  # options that may stand without a value, for True
USAGE = "--checkpoint=RUN_FOLDER --histories=FILE --output=FILE"
WRITES = "writes FILE, one row a user in the order of the histories"
EXAMPLES = """\
examples:
  recbole-diff recommend --checkpoint=runs/DiffuRec-ml-100k-20250101-120000 --histories=in.parquet --output=out.parquet --top_k=20
  recbole-diff recommend --checkpoint=runs/mine --histories=in.parquet --output=out.parquet --num_actors=4 --reverse_steps=8
Every other --key=value overrides a key of the run, as for evaluate. Killed and started again, the command goes on.
"""  # noqa: E501 - a command is one line

logger = logging.getLogger(__name__)

Value = TypeVar("Value")


def run(options: Mapping[str, str], flags: set[str], config: Mapping[str, Any]) -> str:
    """Recommend, and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: those of :data:`FLAGS` that are given.
        config: keys that override those of the run.

    Raises:
        UserError: a key is missing or wrong, or what `recommend_file` refuses.
    """
    for key in ("checkpoint", "histories", "output"):
        if key not in options:
            raise UserError(f"recommend needs --{key}={OPTIONS[key].split()[0].rstrip(',')}")
    numbers: dict[str, Any] = {
        key: _converted(options, key, _whole, "a whole number, 1 or more")
        for key in ("top_k", "batch_size", "part_size", "num_actors", "cpus_per_actor")
    }
    numbers["num_gpus_per_actor"] = _converted(options, "num_gpus_per_actor", _share, "a number, 0 or more")
    switches = {key: _converted(options, key, _truth, "True or False") for key in ("exclude_seen", "show_progress")}
    texts: dict[str, Any] = {
        key: options[key] for key in ("unknown_items", "ray_address", "data_path") if key in options
    }
    given: dict[str, Any] = {key: value for key, value in {**numbers, **switches}.items() if value is not None}
    with _messages():
        from recbole_diffusion.recommendation.batch import recommend_file

        try:
            made = recommend_file(
                options["checkpoint"],
                options["histories"],
                options["output"],
                config=config,
                resume="resume" in flags,
                overwrite="overwrite" in flags,
                **{**texts, **given},
            )
        except KeyboardInterrupt:
            logger.info("the parts that are made stay; the same command goes on with them")
            raise
    return _report(made)


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e6:
        raise ValueError(text)
    return number


def _truth(text: str) -> bool:
    value = parse_value(text)
    if not isinstance(value, bool):
        raise ValueError(text)
    return value


def _converted(options: Mapping[str, str], key: str, convert: Callable[[str], Value], allowed: str) -> Value | None:
    try:
        return convert(options[key]) if key in options else None
    except ValueError:
        raise UserError(f"--{key} is {options[key]!r}; it must be {allowed}") from None


@contextmanager
def _messages() -> Iterator[None]:
    """What is said on the way goes to standard error."""
    source = logging.getLogger("recbole_diffusion")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = source.level
    source.addHandler(handler)
    source.setLevel(logging.INFO)
    try:
        yield
    finally:
        source.removeHandler(handler)
        source.setLevel(level)


def _report(made: RecommendedFile) -> str:
    lines = [f"{made.users:,} users in {made.output}"]
    if made.made_now:
        lines.append(
            f"{made.made_now:,} of them recommended now, {made.made_now / made.seconds:,.0f} a second, "
            f"{made.seconds:.1f} s in all"
        )
    else:
        lines.append("all of them were recommended to before; nothing was left to do")
    if made.without_history:
        lines.append(f"{made.without_history:,} users without an item that the run knows: their items are null")
    if made.unknown_items:
        lines.append(f"{made.unknown_items:,} items of histories that the run does not know were left out")
    return "\n".join(lines)
