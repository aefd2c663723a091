"""The folder of parts: what is begun, gone on with, refused; parts joined to one file; nothing written half."""

from __future__ import annotations

import dataclasses
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation import parts as parts_module
from recbole_diffusion.recommendation.batch import ATTEMPTS, PartRecommender, Settings
from recbole_diffusion.recommendation.parts import METADATA_KEY, PartFolder, facts_of, written_whole

from .conftest import Train

WANTED = {"checkpoint": "abc", "top_k": 20}
SCHEMA = pyarrow.schema([("user_id", pyarrow.string()), ("items", pyarrow.list_(pyarrow.int64()))])


def nothing(count: int) -> None:
    """No progress."""


def begun(tmp_path: Path, sizes: tuple[int, ...] = (2, 2, 1)) -> PartFolder:
    """A folder with the histories of some parts."""
    folder = PartFolder(tmp_path / "out.parquet")
    folder.begin(WANTED)
    tables = [pyarrow.table({"user": [f"u{part}-{row}" for row in range(size)]}) for part, size in enumerate(sizes)]
    folder.fill(tables, nothing)
    return folder


def make(folder: PartFolder, part: int) -> None:
    """Stand in for an actor: item 7 for everybody."""
    users = pyarrow.parquet.read_table(folder.histories(part)).column("user").to_pylist()
    table = pyarrow.table({"user": users, "items": pyarrow.array([["7"]] * len(users))})
    counts = {"unknown_items": 1, "without_history": 0}
    folder.lists(part).parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(counts)}), folder.lists(part))


def check(folder: PartFolder, wanted: dict[str, Any] | None = None, **flags: bool) -> str:
    return folder.check(wanted or WANTED, **{"resume": False, "overwrite": False, **flags})


@pytest.mark.parametrize("row_group", [1, 3, 1000])
def test_parts_are_joined_and_their_folder_goes(
    row_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "ROW_GROUP", row_group)
    folder = begun(tmp_path)
    assert folder.plan() == {"makes": WANTED, "parts": 3, "users": 5}
    for part in (2, 0, 1):
        assert part in folder.missing(3)
        make(folder, part)
    assert folder.missing(3) == [] and [folder.users_of(part) for part in range(3)] == [2, 2, 1]
    folder.join(WANTED, 3, SCHEMA, nothing)
    table = pyarrow.parquet.read_table(folder.output)
    assert table["user_id"].to_pylist() == ["u0-0", "u0-1", "u1-0", "u1-1", "u2-0"]
    assert table["items"].to_pylist() == [[7]] * 5
    assert (facts_of(folder.output) or {})["counts"] == {"unknown_items": 3, "without_history": 0}
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    assert check(folder) == check(folder, resume=True) == "done"


def test_no_part_at_all(tmp_path: Path) -> None:
    folder = begun(tmp_path, ())
    folder.join(WANTED, 0, SCHEMA, nothing)
    assert pyarrow.parquet.read_table(folder.output).num_rows == 0


def test_what_is_there_is_gone_on_with(tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "out.parquet")
    assert check(folder) == "begin"
    with pytest.raises(UserError, match="there is nothing to resume"):
        check(folder, resume=True)
    folder = begun(tmp_path)
    make(folder, 1)
    assert check(folder) == check(folder, resume=True) == "go on"
    assert check(folder, overwrite=True) == "begin"
    folder.begin(WANTED)
    assert not folder.lists(1).exists() and (folder.plan() or {})["parts"] is None


def test_parts_and_outputs_of_something_else_are_refused(tmp_path: Path) -> None:
    folder = begun(tmp_path)
    with pytest.raises(
        UserError, match=r"parts of another run or input: top_k is 20 there and 10 here; change"
    ) as caught:
        check(folder, {**WANTED, "top_k": 10})
    assert "\n" not in str(caught.value)
    folder.remove()
    folder.output.write_text("mine")
    with pytest.raises(UserError, match="exists and holds something else"):
        check(folder)
    assert check(folder, overwrite=True) == "begin"
    folder.output.unlink()
    folder.path.mkdir()
    assert check(folder) == "begin"  # as a process killed at once leaves it
    (folder.path / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is in the way"):
            check(folder, overwrite=overwrite)
    assert (folder.path / "thesis.txt").read_text() == "mine"


def test_a_damaged_part_is_said(tmp_path: Path) -> None:
    folder = begun(tmp_path, (1,))
    make(folder, 0)
    folder.lists(0).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"lists/000000\.parquet is damaged; remove it and start again"):
        folder.join(WANTED, 1, SCHEMA, nothing)
    assert not folder.output.exists()
    folder.plan_file.write_text("{")
    with pytest.raises(UserError, match=r"damaged .*--overwrite begins anew"):
        check(folder)
    assert check(folder, overwrite=True) == "begin"


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), written_whole(path, "advice") as temporary:
        temporary.write_text("half")
        raise KeyError
    with (
        pytest.raises(UserError, match=r"cannot write .*file \(No space left on device\); advice"),
        written_whole(path, "advice") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["file"]
    with written_whole(path, "advice") as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"


def actor_for(folder: PartFolder, checkpoint: Path) -> PartRecommender:
    """An actor as Ray makes it."""
    settings = Settings(
        checkpoint=str(checkpoint),
        top_k=3,
        exclude_seen=False,
        unknown_items="drop",
        batch_size=4,
        threads=1,
        device="cpu",
        data_path=None,
        config="{}",
        search_path=(),
    )
    return PartRecommender(dataclasses.asdict(settings), str(folder.output))


def ask(actor: PartRecommender, *parts: int) -> tuple[list[int], list[str]]:
    answer = actor({"part": np.array(parts)})
    return answer["users"].tolist(), answer["error"].tolist()


def histories_of_two(folder: PartFolder) -> None:
    folder.begin({**WANTED, "part_size": 1})
    tables = [pyarrow.table({"user": [name], "items": pyarrow.array([["i1", "i2"]])}) for name in ("a", "b")]
    folder.fill(tables, nothing)


def test_an_actor_makes_parts_and_leaves_made_ones(trained: Train, tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "out.parquet")
    histories_of_two(folder)
    actor = actor_for(folder, trained("SASRec").folder / "best" / "model.safetensors")
    assert ask(actor, 0, 1) == ([1, 1], ["", ""])
    stamp = folder.lists(0).stat().st_mtime_ns
    assert ask(actor, 0) == ([1], [""]) and folder.lists(0).stat().st_mtime_ns == stamp
    made = pyarrow.parquet.read_table(folder.lists(0)).to_pylist()
    assert [len(row["items"]) for row in made] == [3]


def test_an_actor_that_cannot_write_says_so_in_one_line(trained: Train, tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "out.parquet")
    histories_of_two(folder)
    actor = actor_for(folder, trained("SASRec").folder / "best" / "model.safetensors")
    (folder.path / "lists").write_text("in the way")
    users, (error,) = ask(actor, 0)
    assert users == [0] and error.startswith("cannot write ") and "started again, the command goes on" in error


def test_a_full_disk_stops_at_one_line_and_the_part_is_made_later(trained: Train, tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "out.parquet")
    histories_of_two(folder)
    actor = actor_for(folder, trained("SASRec").folder / "best" / "model.safetensors")
    assert ask(actor, 0) == ([1], [""])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # no file beyond 200 bytes: the kernel refuses the rest
    try:
        users, (error,) = ask(actor, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert users == [0] and "File too large" in error and "\n" not in error
    assert folder.missing(2) == [1] and not list(folder.path.rglob("*.tmp"))
    assert ask(actor, 1) == ([1], [""])


def test_a_part_that_kills_its_actors_ends_the_work(trained: Train, tmp_path: Path) -> None:
    folder = PartFolder(tmp_path / "out.parquet")
    histories_of_two(folder)
    for _ in range(ATTEMPTS):
        folder.attempt(0)
    actor = actor_for(folder, trained("SASRec").folder / "best" / "model.safetensors")
    users, errors = ask(actor, 0, 1)
    assert users == [0, 1] and "part 0 has killed its actor 4 times" in errors[0] and not errors[1]
    folder.forget_attempts()
    assert ask(actor, 0) == ([1], [""])
