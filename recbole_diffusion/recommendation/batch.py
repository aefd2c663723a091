"""Recommendations for a file of users, however many: Ray Data with a pool of actors, part by part.

    histories -> parts of users (`history_files`) -> actors, each with the model -> parts of lists -> file (`parts`)

A cut run goes on when the same command is given again, and ends with the same bytes: a part's content depends on the
run, the histories and the settings alone. That is why the number of actors may change between two starts, and the
batch size may not: sums of floating-point numbers depend on it in their last bits. Noise is keyed by the user's id.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from tqdm import tqdm

from recbole_diffusion.errors import UserError
from recbole_diffusion.provenance import file_digest, package_versions
from recbole_diffusion.ray_session import import_ray, search_path
from recbole_diffusion.recommendation import ray_pool
from recbole_diffusion.recommendation.chains import Sampling
from recbole_diffusion.recommendation.checkpoints import checkpoint_file
from recbole_diffusion.recommendation.excluded_items import ExcludedItems
from recbole_diffusion.recommendation.histories import Unknown
from recbole_diffusion.recommendation.history_files import HistoryFields, HistoryFile
from recbole_diffusion.recommendation.history_text import separator_of
from recbole_diffusion.recommendation.output_file import check_output
from recbole_diffusion.recommendation.parts import (
    ADVICE,
    METADATA_KEY,
    PartFolder,
    facts_of,
    read_whole,
    written_whole,
)
from recbole_diffusion.recommendation.recommendations import RankedHistories
from recbole_diffusion.recommendation.recommender import Recommender
from recbole_diffusion.retrieval.index_files import IndexFolder

logger = logging.getLogger(__name__)

_VERSIONS = ("recbole_diffusion", "torch", "recbole")  # another one may change last bits
_FORMAT = 1
_LATER = ("n_samples", "diversity", "seed", "titles", "retrieval", "item_separator")
ATTEMPTS = 4  # to make a part, whose actors die


@dataclass(frozen=True)
class RecommendedFile:
    """What a file of recommendations came to.

    Attributes:
        output: the file.
        users: how many rows it has.
        without_history: rows without an item that the run knows; their items are null.
        unknown_items: items of histories that the run does not know.
        made_now: users that this call made lists for; the others were there.
        seconds: wall time of this call.
    """

    output: Path
    users: int
    without_history: int
    unknown_items: int
    made_now: int
    seconds: float


def recommend_file(
    checkpoint: str | Path,
    histories: str | Path,
    output: str | Path,
    *,
    top_k: int = 10,
    filter_seen: bool | None = None,
    exclude: Sequence[str | int] | None = None,
    n_samples: int = 1,
    diversity: float | None = None,
    seed: int | None = None,
    unknown: Unknown | None = None,
    titles: bool = False,
    retrieval: Literal["exact", "faiss"] = "exact",
    stale_index: Literal["rebuild", "refuse"] = "rebuild",
    added_items: str | Path | None = None,
    own_code: str | Sequence[str] = (),
    item_separator: str = ",",
    exclude_seen: bool | None = None,
    unknown_items: Unknown | None = None,
    batch_size: int | None = None,
    part_size: int = 4096,
    num_actors: int | None = None,
    cpus_per_actor: int = 1,
    num_gpus_per_actor: float = 0,
    ray_address: str | None = None,
    data_path: str | Path | None = None,
    config: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> RecommendedFile:
    """Recommend items to every user of a file.

    Args:
        checkpoint: a run's folder or a checkpoint file.
        histories: a Parquet, CSV or JSON-lines file, or a folder of them; `history_files` says how it looks.
        output: the Parquet file to write: the user, `items` and `scores`, in the order of the users.
        top_k: items a user.
        filter_seen: leave out the items of the history; None does as the run's evaluation.
        exclude: items that nobody is recommended.
        n_samples, diversity, seed: chains of a diffusion model, and how they are merged, as in `Recommender.recommend`.
        unknown: `skip` leaves out items of histories that the model does not know, `refuse` refuses them; None skips.
        titles: write a column `titles`, too.
        retrieval, stale_index, added_items, own_code: as in `Recommender.load`.
        item_separator: between the items of a history that is text.
        exclude_seen, unknown_items: older names of `filter_seen`, and of `unknown` with the words drop and error.
        batch_size: users ranked at a time; None takes the run's `eval_batch_size`, at most `part_size`.
        part_size: users of a part: what is lost, at most, for each actor when the work is cut.
        num_actors: how many actors; None takes as many as Ray has room for.
        cpus_per_actor: CPU threads of an actor.
        num_gpus_per_actor: GPUs of an actor, 0.5 for two actors on one.
        ray_address: of a cluster; None starts Ray on this machine. Files must then lie where all machines see them.
        data_path: folder of the datasets, for runs without a list of their items.
        config: keys that override those of the run.
        resume: refuse to begin where there is nothing to go on with.
        overwrite: begin anew where parts or an output are there.
        show_progress: progress bars.

    Raises:
        UserError: anything a person can correct, in one line.
    """
    began = time.perf_counter()
    import_ray("recommend", "ray.data")
    whole = {
        "part_size": part_size,
        "cpus_per_actor": cpus_per_actor,
        "batch_size": batch_size,
        "num_actors": num_actors,
    }
    for name, value in whole.items():
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; it must be 1 or more")
    if num_gpus_per_actor < 0:
        raise UserError(f"num_gpus_per_actor is {num_gpus_per_actor}; it must be 0 or more")
    if filter_seen is not None and exclude_seen is not None:
        raise UserError("exclude_seen is the older name of filter_seen; give one of them")
    filter_seen = exclude_seen if filter_seen is None else filter_seen
    if unknown_items is not None and unknown is not None:
        raise UserError("unknown_items is the older name of unknown; give one of them")
    named, unknown = ("unknown", unknown) if unknown_items is None else ("unknown_items", unknown_items)
    paths = [Path(os.path.abspath(path)) for path in (checkpoint, histories, output)]
    added = None if added_items is None else os.path.abspath(added_items)
    check_output(
        paths[2], {"checkpoint": paths[0], "histories": paths[1], "added_items": Path(added) if added else None}
    )
    recommender = Recommender.load(
        paths[0],
        device="cpu",
        data_path=data_path,
        config=config,
        retrieval=retrieval,
        stale_index=stale_index,
        added_items=added,
        own_code=own_code,
    )
    if recommender.config["eval_seed"] is None and seed is None:
        raise UserError("eval_seed is ~, so lists would not repeat; give a number with --eval_seed")
    sampling = Sampling.of(n_samples, diversity, seed)
    policy = recommender.check(
        top_k, "skip" if unknown is None else unknown, n_samples, names={"k": "top_k", "unknown": named}
    )
    ExcludedItems.of(exclude, 0, recommender.ids, policy)
    if titles and recommender.titles is None:
        raise UserError("titles are asked for, and the run's data have none; leave titles out, or set title_field")
    settings = Settings(
        checkpoint=str(checkpoint_file(paths[0])),
        top_k=top_k,
        exclude_seen=bool(recommender.config["filter_seen"]) if filter_seen is None else filter_seen,
        unknown_items="error" if policy == "refuse" else "drop",
        batch_size=min(batch_size or recommender.config["eval_batch_size"], part_size),
        threads=cpus_per_actor,
        device="cuda" if num_gpus_per_actor else "cpu",
        data_path=_absolute(recommender.config.to_plain().get("data_path")),
        config=json.dumps(dict(config or {}), sort_keys=True),
        search_path=search_path(),
        exclude=tuple(map(str, exclude or ())),
        n_samples=sampling.samples,
        diversity=sampling.diversity,
        seed=seed,
        titles=titles,
        retrieval=retrieval,
        added_items=added,
        own_code=(own_code,) if isinstance(own_code, str) else tuple(own_code),
        item_separator=item_separator,
    )
    fields = HistoryFields(*(recommender.config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME")))
    source = HistoryFile(paths[1], fields, separator_of(item_separator))
    schema = output_schema(source, recommender.tokens, titles)
    del recommender
    folder = PartFolder(paths[2])
    wanted = _wanted(settings, source, part_size, show_progress)
    state = folder.check(wanted, resume=resume, overwrite=overwrite)
    if state == "done":
        folder.remove()
        return _report(paths[2], 0, began)
    with ray_pool.ray_data_running(ray_address, settings.search_path) as ray:
        actors = ray_pool.actors_that_fit(ray, num_actors, cpus_per_actor, num_gpus_per_actor)
        if state == "begin":
            folder.begin(wanted)
        plan = folder.plan() or {}
        if plan["parts"] is None:
            with _bar("read histories", None if not source.lists else source.rows, show_progress) as bar:
                tables = source.users(
                    part_size, folder.path / "unsorted", lambda path, by: ray_pool.sorted_rows(ray, path, by)
                )
                folder.fill(tables, bar.update)
            plan = folder.plan() or {}
        missing = folder.missing(plan["parts"])
        made_now = 0
        with _bar("recommend", plan["users"], show_progress) as bar:
            bar.update(plan["users"] - sum(map(folder.users_of, missing)))
            for made in _made(ray, settings, folder, missing, actors, num_gpus_per_actor):
                made_now += made
                bar.update(made)
    with _bar("join", plan["users"], show_progress) as bar:
        folder.join(wanted, plan["parts"], schema, bar.update)
    return _report(paths[2], made_now, began)


@dataclass(frozen=True)
class Settings:
    """What an actor needs to know; plain values that travel."""

    checkpoint: str
    top_k: int
    exclude_seen: bool
    unknown_items: Unknown
    batch_size: int
    threads: int
    device: str
    data_path: str | None
    config: str
    search_path: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    n_samples: int = 1
    diversity: float = 0.0
    seed: int | None = None
    titles: bool = False
    retrieval: Literal["exact", "faiss"] = "exact"
    added_items: str | None = None
    own_code: tuple[str, ...] = ()
    item_separator: str = ","

    @property
    def sampling(self) -> Sampling:
        """Chains, and how they are merged."""
        return Sampling(self.n_samples, self.diversity, self.seed)


def output_schema(source: HistoryFile, tokens: np.ndarray, titles: bool = False) -> pyarrow.Schema:
    """Columns of the output: users as they are in the histories; items whole numbers where those of the histories are,
    and all of the run's (V,) can be, else text."""
    whole = pyarrow.types.is_integer(source.item_type) and all(map(_is_whole, tokens[1:].tolist()))
    item_type = pyarrow.int64() if whole else pyarrow.string()
    columns = [
        (source.fields.user, source.user_type),
        ("items", pyarrow.list_(item_type)),
        ("scores", pyarrow.list_(pyarrow.float32())),
    ]
    return pyarrow.schema([*columns, ("titles", pyarrow.list_(pyarrow.string()))] if titles else columns)


def _is_whole(token: str) -> bool:
    """Whether a token is a whole number of 64 bits, written as such."""
    return token.lstrip("-").isdecimal() and str(int(token)) == token and -(2**63) <= int(token) < 2**63


def _absolute(path: str | None) -> str | None:
    return None if path is None else os.path.abspath(path)


@contextmanager
def _bar(description: str, total: int | None, show: bool, unit: str = " users") -> Iterator[Any]:
    """A progress bar with rate and remaining time; a line every half minute where there is no terminal."""
    interval = 0.2 if sys.stderr.isatty() else 30.0
    with tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        mininterval=interval,
        leave=False,
        disable=not show,
        file=sys.stderr,
    ) as bar:
        yield bar


def _report(output: Path, made_now: int, began: float) -> RecommendedFile:
    facts = facts_of(output) or {}
    users = pyarrow.parquet.read_metadata(output).num_rows
    counts = facts["counts"]
    return RecommendedFile(
        output, users, counts["without_history"], counts["unknown_items"], made_now, time.perf_counter() - began
    )


def _wanted(settings: Settings, source: HistoryFile, part_size: int, show_progress: bool) -> dict[str, Any]:
    """Everything that the output depends on, and nothing else."""
    weights = hashlib.sha256()
    with open(settings.checkpoint, "rb") as stream:
        while block := stream.read(1 << 22):
            weights.update(block)
    versions = package_versions()
    with _bar("check histories", source.size, show_progress, unit="B") as bar:
        digest = source.digest(bar.update)
    names = ("top_k", "exclude_seen", "unknown_items", "batch_size", "threads", "device", "config")
    # what was not always there is named where it is used, so that other files stay as they were
    more = {name: getattr(settings, name) for name in _LATER if getattr(settings, name) != getattr(Settings, name)}
    if settings.exclude:
        more["exclude"] = list(settings.exclude)
    if settings.retrieval == "faiss":
        index = IndexFolder.beside(Path(settings.checkpoint)).facts() or {}
        more["index"] = [index.get("file"), index.get("search")]
    if settings.added_items:
        more["added_items"] = file_digest(Path(settings.added_items))
    return {
        "format": _FORMAT,
        "checkpoint": weights.hexdigest(),
        "histories": digest,
        **{name: getattr(settings, name) for name in names},
        **more,
        "part_size": part_size,
        "versions": {name: versions[name] for name in _VERSIONS},
    }


def _made(
    ray: Any, settings: Settings, folder: PartFolder, missing: list[int], actors: int, gpus: float
) -> Iterator[int]:
    """Make the missing parts; the number of users of each as it is done.

    Raises:
        UserError: an actor's, or actors that die.
    """
    if not missing:
        return
    folder.forget_attempts()
    arguments = {"settings": dataclasses.asdict(settings), "output": str(folder.output)}
    for row in ray_pool.map_parts(ray, PartRecommender, arguments, missing, actors, settings.threads, gpus):
        if row["error"]:
            raise UserError(row["error"])
        yield int(row["users"])


class PartRecommender:
    """An actor: the model, and the parts that it is given. A mistake of the user comes back as a text."""

    def __init__(self, settings: dict[str, Any], output: str) -> None:
        self.settings = Settings(**settings)
        self.folder = PartFolder(Path(output))
        self.part_size = int((self.folder.plan() or {})["makes"]["part_size"])
        self.recommender: Recommender | None = None
        sys.path += [path for path in self.settings.search_path if path not in sys.path]
        torch.set_num_threads(self.settings.threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Make parts {"part": numbers}; the number of users of each, and what went wrong, else an empty text."""
        users, errors = [], []
        for part in batch["part"].tolist():
            try:
                users.append(self._make(part))
                errors.append("")
            except UserError as error:
                users.append(0)
                errors.append(str(error))
        return {"part": batch["part"], "users": np.array(users), "error": np.array(errors, dtype=object)}

    def _make(self, part: int) -> int:
        """Make a part unless it is there; its number of users."""
        path = self.folder.lists(part)
        if path.is_file():
            return self.folder.users_of(part)
        settings = self.settings
        if self.folder.attempt(part) > ATTEMPTS:
            raise UserError(
                f"part {part} has killed its actor {ATTEMPTS} times, for want of memory, likely; lower num_actors, or "
                "batch_size with --overwrite"
            )
        if self.recommender is None:
            self.recommender = Recommender.load(
                settings.checkpoint,
                data_path=settings.data_path,
                device=settings.device,
                config=json.loads(settings.config),
                retrieval=settings.retrieval,
                stale_index="refuse",
                added_items=settings.added_items,
                own_code=settings.own_code,
            )
        table = read_whole(self.folder.histories(part))
        user, histories = (table[name].combine_chunks() for name in ("user", "items"))
        found = self.recommender.recommend_lists(
            histories,
            settings.top_k,
            filter_seen=settings.exclude_seen,
            exclude=settings.exclude,
            sampling=settings.sampling,
            row_keys=user_keys(user),
            unknown=settings.unknown_items,
            batch_size=settings.batch_size,
            first_row=part * self.part_size,
        )
        lists = as_lists(found, self.recommender.tokens, self.recommender.titles if settings.titles else None)
        counts = {"unknown_items": int(found.unknown.sum()), "without_history": int((~found.answered).sum())}
        made = pyarrow.table({"user": user, **lists}).replace_schema_metadata({METADATA_KEY: json.dumps(counts)})
        with written_whole(path, ADVICE) as temporary:
            pyarrow.parquet.write_table(made, temporary, compression="zstd")
        return len(table)


def user_keys(users: pyarrow.Array) -> np.ndarray:
    """A whole number for each user, (B,) int64: a hash of the id's text, so it does not depend on the user's place."""
    texts = (str(user).encode() for user in users.to_pylist())
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


def as_lists(found: RankedHistories, tokens: np.ndarray, titles: np.ndarray | None = None) -> dict[str, pyarrow.Array]:
    """Items (tokens), scores and titles as Arrow lists, null where a history has no item that the run knows."""
    kept = found.items > 0
    sizes = np.where(found.answered, found.sizes, 0)
    offsets = pyarrow.array(np.concatenate(([0], np.cumsum(sizes))).astype(np.int32))
    unanswered = pyarrow.array(~found.answered)
    items = pyarrow.array(tokens[found.items[kept]].tolist(), pyarrow.string())
    columns = {"items": items, "scores": pyarrow.array(found.scores[kept])}
    if titles is not None:
        columns["titles"] = pyarrow.array(titles[found.items[kept]].tolist(), pyarrow.string())
    return {name: pyarrow.ListArray.from_arrays(offsets, values, mask=unanswered) for name, values in columns.items()}
