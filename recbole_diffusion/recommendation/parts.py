"""A large file of recommendations made in parts, so that what is done stays done when the work is cut.

Beside OUT.parquet, while it is made:

    OUT.parquet.parts/plan.json                      what is made: run, histories, settings, how many parts
    OUT.parquet.parts/histories/000000.parquet       users of one part and their items (user, items)
    OUT.parquet.parts/lists/000000.parquet           the same users with what is recommended to them
    OUT.parquet.parts/attempts/000000                as many bytes as actors began the part

A part is cut by the number of users alone, and its file is written beside and renamed, so it is there whole or not at
all, whoever is killed. At the end the parts are joined as a stream, and the folder goes away. A part holds the same
bytes whoever makes it, so a cut run that goes on ends with the file of one that was not cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from recbole_diffusion.errors import UserError
from recbole_diffusion.training.checkpoint import write_text_atomically

METADATA_KEY = b"recbole_diffusion"
ROW_GROUP = 65_536  # users of a row group, about


@contextlib.contextmanager
def written_whole(path: Path, advice: str) -> Iterator[Path]:
    """A name beside `path` to write to, which becomes `path` at the end, or goes away.

    Raises:
        UserError: it cannot be written; `advice` says what to do.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); {advice}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


ADVICE = "make room or change --output; started again, the command goes on"


class PartFolder:
    """The folder of one output file's parts."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(output.name + ".parts")

    @property
    def plan_file(self) -> Path:
        """What is made."""
        return self.path / "plan.json"

    def histories(self, part: int) -> Path:
        """Histories of a part."""
        return self.path / "histories" / f"{part:06d}.parquet"

    def lists(self, part: int) -> Path:
        """Recommendations of a part."""
        return self.path / "lists" / f"{part:06d}.parquet"

    def plan(self) -> dict[str, Any] | None:
        """What the parts that are there are of; None where there are none.

        Raises:
            UserError: the folder is there and no plan is in it.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return None
        self._refuse_foreign()
        try:
            plan: dict[str, Any] = json.loads(self.plan_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.plan_file} is damaged ({error}); --overwrite begins anew") from error
        return plan

    def _refuse_foreign(self) -> None:
        """Refuse a folder of that name that is not one of ours."""
        if self.path.exists() and not self.plan_file.is_file() and (self.path.is_file() or any(self.path.iterdir())):
            raise UserError(
                f"{self.path} is in the way: it holds no plan of recommendations; remove it, or change --output"
            )

    def check(self, wanted: Mapping[str, Any], *, resume: bool, overwrite: bool) -> str:
        """What to do about `wanted`: begin, go on, or nothing because it is done ("begin", "go on", "done").

        Raises:
            UserError: output or parts of something else are there, or nothing is there to resume.
        """
        digest = plan_digest(wanted)
        if overwrite:
            self._refuse_foreign()
            return "begin"
        plan = self.plan()
        if self.output.exists():
            if (facts_of(self.output) or {}).get("digest") == digest:
                return "done"
            if plan is None:
                raise UserError(
                    f"{self.output} exists and holds something else; change --output, or --overwrite replaces it"
                )
        if plan is not None:
            stored = plan["makes"]
            changed = [key for key in {**stored, **wanted} if stored.get(key) != wanted.get(key)]
            if changed:
                key = changed[0]
                raise UserError(
                    f"{self.path} holds parts of another run or input: {key} is {_short(stored.get(key))} there and "
                    f"{_short(wanted.get(key))} here; change --output, or --overwrite begins anew"
                )
            return "go on"
        if resume:
            raise UserError(f"there is nothing to resume: no {self.path} is there; leave --resume out")
        return "begin"

    def begin(self, wanted: Mapping[str, Any]) -> None:
        """Start anew: remove parts that are there and write the plan.

        Raises:
            UserError: the folder cannot be written.
        """
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            self._write_plan({"makes": dict(wanted), "parts": None, "users": None})
        except OSError as error:
            raise UserError(f"cannot write {self.path} ({error.strerror or error}); {ADVICE}") from error

    def _write_plan(self, plan: Mapping[str, Any]) -> None:
        write_text_atomically(self.plan_file, json.dumps(plan, indent=2, ensure_ascii=False) + "\n")

    def fill(self, tables: Iterable[pyarrow.Table], progress: Callable[[int], Any]) -> None:
        """Write the histories of every part and, at the end, how many there are.

        Args:
            tables: users (`user`, `items`) of one part after the other.
            progress: called with the number of users of each.
        """
        plan = self.plan() or {}
        users = parts = 0
        for parts, table in enumerate(tables, 1):
            with written_whole(self.histories(parts - 1), ADVICE) as temporary:
                pyarrow.parquet.write_table(table, temporary, compression="zstd")
            users += len(table)
            progress(len(table))
        shutil.rmtree(self.path / "unsorted", ignore_errors=True)
        try:
            self._write_plan({**plan, "parts": parts, "users": users})
        except OSError as error:
            raise UserError(f"cannot write {self.plan_file} ({error.strerror or error}); {ADVICE}") from error

    def attempt(self, part: int) -> int:
        """Count that an actor begins a part; how often one has since the driver started."""
        path = self.path / "attempts" / f"{part:06d}"
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("ab") as stream:
                stream.write(b".")
            return path.stat().st_size
        except OSError as error:
            raise UserError(f"cannot write {path} ({error.strerror or error}); {ADVICE}") from error

    def forget_attempts(self) -> None:
        """Count attempts anew."""
        shutil.rmtree(self.path / "attempts", ignore_errors=True)

    def missing(self, parts: int) -> list[int]:
        """Numbers of the parts that are not made yet."""
        return [part for part in range(parts) if not self.lists(part).is_file()]

    def users_of(self, part: int) -> int:
        """How many users a part has."""
        rows: int = pyarrow.parquet.read_metadata(self.histories(part)).num_rows
        return rows

    def join(
        self, wanted: Mapping[str, Any], parts: int, schema: pyarrow.Schema, progress: Callable[[int], Any]
    ) -> None:
        """Join the parts to the output and remove the folder.

        Args:
            wanted: what is made.
            parts: how many parts there are.
            schema: columns of the output.
            progress: called with numbers of users.
        """
        counts = {"unknown_items": 0, "without_history": 0}
        for part in range(parts):
            for name, count in _counts_of(self.lists(part)).items():
                counts[name] += count
        facts = {"digest": plan_digest(wanted), "makes": dict(wanted), "counts": counts}
        schema = schema.with_metadata({METADATA_KEY: json.dumps(facts, sort_keys=True)})
        waiting: list[pyarrow.Table] = []
        with (
            written_whole(self.output, ADVICE) as temporary,
            pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
        ):
            for part in range(parts):
                table = read_whole(self.lists(part))
                waiting.append(table.rename_columns(schema.names).cast(schema))
                progress(len(table))
                if sum(map(len, waiting)) >= ROW_GROUP or part == parts - 1:
                    writer.write_table(pyarrow.concat_tables(waiting).combine_chunks(), row_group_size=2**30)
                    waiting = []
        self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def read_whole(path: Path) -> pyarrow.Table:
    """A part's file as one table.

    Raises:
        UserError: it is damaged.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as opened:
            return opened.read().combine_chunks()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}); remove it and start again") from error


def plan_digest(wanted: Mapping[str, Any]) -> str:
    """One text that stands for what is made."""
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def facts_of(output: Path) -> dict[str, Any] | None:
    """What a file of recommendations says of itself; None where it is no such file."""
    try:
        facts = json.loads((pyarrow.parquet.read_schema(output).metadata or {})[METADATA_KEY])
    except (OSError, KeyError, ValueError, pyarrow.ArrowException):
        return None
    return facts if isinstance(facts, dict) else None


def _counts_of(path: Path) -> dict[str, int]:
    """What a part counted.

    Raises:
        UserError: its file is damaged.
    """
    facts = facts_of(path)
    if facts is None:
        raise UserError(f"{path} is damaged; remove it and start again")
    return facts


def _short(value: Any) -> str:
    """A value in a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
