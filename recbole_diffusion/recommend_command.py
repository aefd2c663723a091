"""The word ``recommend`` of the command line: its keys, and what it prints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recbole_diffusion.command_options import OWN_CODE, converted, messages, own_code, truth, whole_number
from recbole_diffusion.errors import UserError

if TYPE_CHECKING:
    from recbole_diffusion.recommendation.batch import RecommendedFile

OPTIONS: dict[str, str] = {
    "checkpoint": "RUN_FOLDER, whose best epoch is taken, or a checkpoint file",
    "history": '"a,b,c": the items of one user, oldest first, or a JSON list; given again for another user',
    "histories": "FILE (Parquet, CSV, JSON lines) or FOLDER: user_id with history, or user_id, item_id, timestamp",
    "output": "FILE.parquet to write: user_id, items, scores; with --histories",
    "top_k": "NUMBER of items a user (default: 10)",
    "filter_seen": "True leaves out items of the history, False does not (default: as the run's evaluation)",
    "exclude": '"x,y": items that nobody is recommended, or a JSON list',
    "unknown": "skip: leave out items that the model does not know (default); refuse: end with an error",
    "n_samples": "NUMBER of a diffusion model's chains that are merged (default: 1)",
    "diversity": "0 the mean of the chains (accurate) ... 1 what single chains rank first (default: 0.5, of several)",
    "seed": "NUMBER, of a diffusion model's noise (default: the run's eval_seed)",
    "retrieval": "exact: every item is scored (default); faiss: through the run's index (recbole-diff index)",
    "stale_index": "rebuild: an index that is absent or of other vectors (default); refuse: end with an error",
    "added_items": "FILE.parquet of items added after training: item_id, vector, title",
    "item_separator": "CHARACTER between the items of a history that is text: comma (default), blank, tab, ...",
    "titles": "True writes the items' titles, too; with --histories",
    "batch_size": "NUMBER of users ranked at a time (default: the run's eval_batch_size)",
    "part_size": "NUMBER of users of a part, the piece that is made whole or not at all (default: 4096)",
    "num_actors": "NUMBER of actors (default: as many as there is room for)",
    "cpus_per_actor": "NUMBER of CPU threads of an actor (default: 1)",
    "num_gpus_per_actor": "NUMBER of GPUs of an actor, 0.5 for two actors on one (default: 0)",
    "ray_address": "ADDRESS of a Ray cluster (default: Ray is started on this machine)",
    "own_code": OWN_CODE,
    "data_path": "FOLDER that holds the datasets' folders, for runs without a list of their items",
    "show_progress": "False: no progress bar",
    "exclude_seen": "the older name of filter_seen",
    "unknown_items": "the older name of unknown, with the words drop and error",
}
FLAGS: dict[str, str] = {
    "json": "print JSON instead of a table; with --history",
    "resume": "refuse to begin where there is nothing to go on with (parts that are there are gone on with anyhow)",
    "overwrite": "begin anew where parts or an output are there",
}
BARE = ("filter_seen", "exclude_seen", "titles")  # options that may stand without a value, for True
REPEATED = ("history",)  # options that may be given again; their texts come joined by NEXT
NEXT = "\0"
OF_FILES = (
    *("output", "titles", "part_size", "num_actors", "cpus_per_actor", "num_gpus_per_actor", "ray_address"),
    *("resume", "overwrite"),
)
USAGE = '--checkpoint=RUN_FOLDER {--history="a,b,c" | --histories=FILE --output=FILE}'
WRITES = "prints the items for a history, or writes FILE, one row a user in the order of the histories"
EXAMPLES = """\
examples:
  recbole-diff recommend --checkpoint=runs/DiffuRec-ml-100k-20250101-120000 --history="50,181,174" --top_k=20
  recbole-diff recommend --checkpoint=runs/mine --history="50,181" --n_samples=20 --diversity=0.3 --filter_seen --json
  recbole-diff recommend --checkpoint=runs/mine --histories=in.parquet --output=out.parquet --top_k=20
  recbole-diff recommend --checkpoint=runs/mine --histories=in.csv --output=out.parquet --num_actors=4 --reverse_steps=8
Every other --key=value overrides a key of the run, as for evaluate. Killed and started again, the command goes on.
"""

logger = logging.getLogger(__name__)


def run(options: Mapping[str, str], flags: set[str], config: Mapping[str, Any]) -> str:
    """Recommend, and return the text to print.

    Args:
        options: keys of :data:`OPTIONS` with their values.
        flags: those of :data:`FLAGS` that are given.
        config: keys that override those of the run.

    Raises:
        UserError: a key is missing or wrong, or what `recommend_file` refuses.
    """
    if "checkpoint" not in options:
        raise UserError("recommend needs --checkpoint=RUN_FOLDER")
    if "history" in options and "histories" in options:
        raise UserError("--history is of one user and --histories a file of users; give one of them")
    if "history" not in options and "histories" not in options:
        raise UserError('recommend needs --history="a,b,c", or --histories=FILE with --output=FILE')
    return _of_words(options, flags, config) if "history" in options else _of_file(options, flags, config)


def _of_words(options: Mapping[str, str], flags: set[str], config: Mapping[str, Any]) -> str:
    """Lists for the histories of the command line."""
    for key in OF_FILES:
        if key in options or key in flags:
            raise UserError(f"--{key} goes with --histories=FILE, not with --history")
    if "filter_seen" in options and "exclude_seen" in options:
        raise UserError("exclude_seen is the older name of filter_seen; give one of them")
    if "unknown" in options and "unknown_items" in options:
        raise UserError("unknown_items is the older name of unknown; give one of them")
    unknown = "unknown_items" if "unknown_items" in options else "unknown"
    arguments: dict[str, Any] = {
        "k": converted(options, "top_k", whole_number, "a whole number, 1 or more") or 10,
        "filter_seen": converted(options, "filter_seen", truth, "True or False"),
        "unknown": options.get(unknown, "skip"),
        **_sampling(options),
        "batch_size": converted(options, "batch_size", whole_number, "a whole number, 1 or more"),
    }
    if arguments["filter_seen"] is None:
        arguments["filter_seen"] = converted(options, "exclude_seen", truth, "True or False")
    with messages():
        from recbole_diffusion.recommendation import shown_lists
        from recbole_diffusion.recommendation.history_text import read_history, separator_of
        from recbole_diffusion.recommendation.recommender import Recommender

        separator = separator_of(options.get("item_separator", ","))
        texts = options["history"].split(NEXT)
        names = [
            "--history" if len(texts) == 1 else f"--history number {number}" for number in range(1, len(texts) + 1)
        ]
        histories = [read_history(text, name, separator) for text, name in zip(texts, names, strict=True)]
        exclude = read_history(options["exclude"], "--exclude", separator) if "exclude" in options else None
        for name, history in zip(names, histories, strict=True):
            if not history:
                raise UserError(f"{name} has no item; it takes {OPTIONS['history']}")
        recommender = Recommender.load(options["checkpoint"], config=config, **_loading(options))
        recommender.check(
            arguments["k"], arguments["unknown"], arguments["n_samples"], names={"k": "top_k", "unknown": unknown}
        )
        found = recommender.recommend(histories, exclude=exclude, **arguments)
        for row, skipped in found.unknown.items():
            listed = ", ".join(map(repr, skipped[:10])) + (", ..." if len(skipped) > 10 else "")
            if found.items[row] is None:
                raise UserError(f"{names[row]} has no item that the model knows ({listed}); nothing can be recommended")
            logger.info("%s: %d items that the model does not know are skipped: %s", names[row], len(skipped), listed)
    return shown_lists.as_json(found) if "json" in flags else shown_lists.as_table(found)


def _sampling(options: Mapping[str, str]) -> dict[str, Any]:
    """Chains of a diffusion model, and how they are merged."""
    return {
        "n_samples": converted(options, "n_samples", whole_number, "a whole number, 1 or more") or 1,
        "diversity": converted(options, "diversity", float, "a number from 0 to 1"),
        "seed": converted(options, "seed", int, "a whole number"),
    }


def _loading(options: Mapping[str, str]) -> dict[str, Any]:
    """How a run is loaded."""
    texts = ("retrieval", "stale_index", "added_items", "data_path")
    return {**{key: options[key] for key in texts if key in options}, **own_code(options)}


def _of_file(options: Mapping[str, str], flags: set[str], config: Mapping[str, Any]) -> str:
    """A file of lists for a file of histories."""
    if "output" not in options:
        raise UserError("recommend needs --output=FILE.parquet beside --histories")
    if "json" in flags:
        raise UserError("--json goes with --history, not with --histories=FILE, whose lists are written to --output")
    numbers: dict[str, Any] = {
        key: converted(options, key, whole_number, "a whole number, 1 or more")
        for key in ("top_k", "batch_size", "part_size", "num_actors", "cpus_per_actor")
    }
    numbers["num_gpus_per_actor"] = converted(options, "num_gpus_per_actor", _share, "a number, 0 or more")
    switches = {
        key: converted(options, key, truth, "True or False")
        for key in ("filter_seen", "exclude_seen", "titles", "show_progress")
    }
    texts: dict[str, Any] = {
        key: options[key] for key in ("unknown", "unknown_items", "ray_address", "item_separator") if key in options
    }
    given: dict[str, Any] = {key: value for key, value in {**numbers, **switches}.items() if value is not None}
    with messages():
        from recbole_diffusion.recommendation.batch import recommend_file
        from recbole_diffusion.recommendation.history_text import read_history, separator_of

        separator = separator_of(options.get("item_separator", ","))
        exclude = read_history(options["exclude"], "--exclude", separator) if "exclude" in options else None
        try:
            made = recommend_file(
                options["checkpoint"],
                options["histories"],
                options["output"],
                config=config,
                resume="resume" in flags,
                overwrite="overwrite" in flags,
                exclude=exclude,
                **{**texts, **given, **_sampling(options), **_loading(options)},
            )
        except KeyboardInterrupt:
            logger.info("the parts that are made stay; the same command goes on with them")
            raise
    return _report(made)


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number < 1e6:
        raise ValueError(text)
    return number


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
