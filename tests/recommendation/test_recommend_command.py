"""`recommend`: the file is what the Recommender says, whoever is killed on the way; what is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from recbole_diffusion import recommend_command
from recbole_diffusion.command_line import main, parse
from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.batch import PartRecommender, recommend_file, user_keys
from recbole_diffusion.recommendation.parts import PartFolder
from recbole_diffusion.recommendation.recommender import Recommender
from tests.leftovers import processes_of, wait_until_gone

from . import slow_model
from .conftest import HISTORIES, Train

QUIET: dict[str, Any] = {"show_progress": False, "top_k": 5, "part_size": 8, "batch_size": 5}
HERE = Path(__file__).resolve().parent


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Wait until something is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def lists_made(output: Path) -> int:
    return len(list((PartFolder(output).path / "lists").glob("*.parquet")))


@pytest.fixture(scope="module")
def undisturbed(trained: Train, histories: Path, ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an undisturbed run by two actors."""
    output = tmp_path_factory.mktemp("out") / "out.parquet"
    made = recommend_file(trained("DiffuRec").folder, histories, output, num_actors=2, **QUIET)
    assert (made.users, made.made_now) == (HISTORIES, HISTORIES)
    assert [path.name for path in output.parent.iterdir()] == ["out.parquet"]
    return output


def test_the_file_has_what_the_recommender_says(trained: Train, histories: Path, undisturbed: Path) -> None:
    source = pyarrow.parquet.read_table(histories)
    table = pyarrow.parquet.read_table(undisturbed)
    assert table.schema.names == ["user_id", "items", "scores"]
    assert table["user_id"].equals(source["user_id"])
    recommender = Recommender.load(trained("DiffuRec").folder, device="cpu")
    found = recommender.recommend(
        source["item_id"].to_pylist(), 5, row_keys=user_keys(source["user_id"].combine_chunks())
    )
    assert table["items"].to_pylist() == found.items
    assert 0 < found.without_history < HISTORIES and None in found.items
    for scores, expected in zip(table["scores"].to_pylist(), found.scores, strict=True):
        assert (scores is None) == (expected is None)
        assert scores is None or np.allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_given_again_the_command_has_nothing_to_do(trained: Train, histories: Path, undisturbed: Path) -> None:
    before = undisturbed.read_bytes()
    made = recommend_file(trained("DiffuRec").folder, histories, undisturbed, num_actors=1, resume=True, **QUIET)
    assert (made.users, made.made_now) == (HISTORIES, 0) and made.without_history > 0 and made.unknown_items > 0
    assert undisturbed.read_bytes() == before
    with pytest.raises(UserError, match="exists and holds something else"):
        recommend_file(trained("DiffuRec").folder, histories, undisturbed, **{**QUIET, "top_k": 4})


def test_an_actor_that_is_killed_changes_nothing(
    trained: Train, histories: Path, ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    run = trained(f"{slow_model.__name__}:SlowSASRec", hidden_size=8, inner_size=16, n_heads=2, n_layers=1).folder
    own: dict[str, Any] = {"own_code": [slow_model.__name__]}
    plain = tmp_path / "plain.parquet"
    with pytest.raises(UserError, match=f"would run the module {slow_model.__name__}; if you trust"):
        recommend_file(run, histories, plain, num_actors=1, **QUIET)
    recommend_file(run, histories, plain, num_actors=1, **QUIET, **own)
    output = tmp_path / "out.parquet"
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: lists_made(output) >= 2 and any(pids.iterdir()))
        killed.append(int(next(pids.iterdir()).name))
        os.kill(killed[0], signal.SIGKILL)

    class Slow(PartRecommender):
        def __init__(self, **arguments: Any) -> None:
            os.environ["SLOW_MODEL_FOLDER"] = str(pids)
            super().__init__(**arguments)

    monkeypatch.setattr("recbole_diffusion.recommendation.batch.PartRecommender", Slow)
    hand = threading.Thread(target=kill)
    hand.start()
    recommend_file(run, histories, output, num_actors=1, **QUIET, **own)
    hand.join()
    assert killed and {int(path.name) for path in pids.iterdir()} > set(killed)
    assert output.read_bytes() == plain.read_bytes()


@pytest.mark.slow
def test_a_driver_that_is_killed_goes_on_and_ends_with_the_same_bytes(
    trained: Train, histories: Path, ray_here: None, tmp_path: Path
) -> None:
    shutil.copy(HERE / "slow_model.py", tmp_path / "mine.py")
    pids = tmp_path / "pids"
    pids.mkdir()
    sys.path.insert(0, str(tmp_path))
    try:
        run = trained("mine:SlowSASRec", hidden_size=8, inner_size=16, n_heads=2, n_layers=1).folder
    finally:
        sys.path.remove(str(tmp_path))
    output = tmp_path / "out.parquet"
    keys = {**QUIET, "checkpoint": run, "histories": histories, "output": output, "own_code": "mine"}
    command = [sys.executable, "-m", "recbole_diffusion", "recommend"]
    command += [f"--{key}={value}" for key, value in keys.items()]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    slowly = {**environment, "SLOW_MODEL_FOLDER": str(pids)}
    first = subprocess.Popen(
        [*command, "--num_actors=1"],
        cwd=tmp_path,
        env=slowly,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: lists_made(output) >= 3 or first.poll() is not None)
    first.kill()
    assert "Traceback" not in first.communicate()[1]
    made = lists_made(output)
    assert 3 <= made < 12 and not output.exists()
    assert processes_of(first.pid), "its Ray ended before anybody looked"
    wait_until_gone(first.pid)
    again = subprocess.run(
        [*command, "--num_actors=2", "--resume"],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert f"{HISTORIES:,} users in {output}" in again.stdout
    plain = tmp_path / "plain.parquet"
    sys.path.insert(0, str(tmp_path))
    try:
        recommend_file(run, histories, plain, num_actors=2, own_code=["mine"], **QUIET)
    finally:
        sys.path.remove(str(tmp_path))
    assert output.read_bytes() == plain.read_bytes()


def test_interactions_in_any_order_give_the_same_lists(
    trained: Train, histories: Path, undisturbed: Path, tmp_path: Path
) -> None:
    rows = pyarrow.parquet.read_table(histories).to_pylist()
    lines = [(row["user_id"], item, time) for row in rows for time, item in enumerate(row["item_id"])]
    np.random.default_rng(0).shuffle(lines)
    user, item, moment = zip(*lines, strict=True)
    columns = {"user_id": user, "item_id": item, "timestamp": [int(value) for value in moment]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet", row_group_size=50)
    output = tmp_path / "out.parquet"
    recommend_file(trained("DiffuRec").folder, tmp_path / "in.parquet", output, num_actors=1, **QUIET)
    table = pyarrow.parquet.read_table(output)
    assert table["user_id"].to_pylist() == sorted(set(user))
    lists = {row["user_id"]: row["items"] for row in pyarrow.parquet.read_table(undisturbed).to_pylist()}
    assert table["items"].to_pylist() == [lists[name] for name in table["user_id"].to_pylist()]


def test_text_files_and_merged_chains_give_what_the_recommender_says(
    trained: Train, histories: Path, ray_here: None, tmp_path: Path
) -> None:
    rows = pyarrow.parquet.read_table(histories).to_pylist()
    lines = [f"{row['user_id']}\t{' '.join(row['item_id'])}" for row in rows]
    (tmp_path / "in.tsv").write_text("\n".join(["user_id\thistory", *lines]) + "\n")
    output = tmp_path / "out.parquet"
    options = {"filter_seen": True, "exclude": ["i3", "i4"], "n_samples": 3, "diversity": 1.0, "seed": 9}
    run = trained("DiffuRec").folder
    keys = {**QUIET, **options, "num_actors": 1, "item_separator": "blank"}
    made = recommend_file(run, tmp_path / "in.tsv", output, **keys)
    table = pyarrow.parquet.read_table(output)
    found = Recommender.load(run, device="cpu").recommend(
        [row["item_id"] for row in rows], 5, row_keys=user_keys(table["user_id"].combine_chunks()), **options
    )
    assert table["items"].to_pylist() == found.items and made.unknown_items == found.unknown_items > 0
    assert not {"i3", "i4"} & {item for line in found.items for item in line or ()}
    with pytest.raises(UserError, match="exists and holds something else"):
        recommend_file(run, tmp_path / "in.tsv", output, **{**keys, "seed": 10})
    with pytest.raises(UserError, match="titles are asked for, and the run's data have none"):
        recommend_file(run, tmp_path / "in.tsv", output, titles=True, **keys)


def test_actors_find_items_through_the_index(
    trained: Train, histories: Path, undisturbed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("faiss", reason="faiss is not installed (pip install 'recbole-diffusion[retrieval]')")
    shutil.copytree(trained("DiffuRec").folder, tmp_path / "run")
    output = tmp_path / "out.parquet"
    recommend_file(tmp_path / "run", histories, output, num_actors=1, retrieval="faiss", **QUIET)
    assert pyarrow.parquet.read_table(output)["items"].equals(pyarrow.parquet.read_table(undisturbed)["items"])
    made = json.loads(pyarrow.parquet.read_schema(output).metadata[b"recbole_diffusion"])["makes"]
    assert made["retrieval"] == "faiss" and len(made["index"][0]) == 64
    shutil.rmtree(tmp_path / "run" / "best" / "index")
    with pytest.raises(UserError, match="there is no index at"):
        recommend_file(tmp_path / "run", histories, output, retrieval="faiss", stale_index="refuse", **QUIET)


def test_a_mistake_found_by_an_actor_is_one_line_and_loses_nothing(
    trained: Train, histories: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    keys = {**QUIET, "unknown_items": "error", "num_actors": 1}
    with pytest.raises(UserError, match=r"the history in row \d+ has the item 'i4[01]', which the run does not know"):
        recommend_file(trained("DiffuRec").folder, histories, output, **keys)
    with pytest.raises(UserError, match='unknown_items is "error" there and "drop" here; change --output'):
        recommend_file(trained("DiffuRec").folder, histories, output, num_actors=1, **QUIET)
    made = recommend_file(trained("DiffuRec").folder, histories, output, num_actors=1, overwrite=True, **QUIET)
    assert made.users == HISTORIES and output.read_bytes() == undisturbed.read_bytes()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"top_k": 41}, "top_k is 41; it must be from 1 to 40"),
        ({"part_size": 0}, "part_size is 0; it must be 1 or more"),
        ({"unknown_items": "keep"}, "unknown_items is 'keep'"),
        ({"config": {"eval_seed": None}}, "eval_seed is ~, so lists would not repeat"),
        ({"config": {"topk_": 3}}, "unknown key 'topk_'"),
        ({"resume": True}, "there is nothing to resume"),
        ({"num_actors": 999}, "999 actors with 1 CPU and 0 GPU each do not fit"),
    ],
)
def test_mistakes_write_nothing(
    keys: dict[str, Any], message: str, trained: Train, histories: Path, ray_here: None, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recommend_file(trained("DiffuRec").folder, histories, tmp_path / "out.parquet", **{**QUIET, **keys})
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--histories=in", "--output=out"], "recommend needs --checkpoint=RUN_FOLDER"),
        (
            ["--checkpoint=c", "--histories=in", "--output=o", "--filter_seen", "--exclude_seen"],
            "older name of filter_seen",
        ),
        (
            ["--checkpoint=c", "--histories=in", "--output=o", "--unknown=refuse", "--unknown_items=drop"],
            "older name of",
        ),
        (
            ["--checkpoint=c", "--histories=in", "--output=o", "--unknown=skip", "--unknown_items=error"],
            "unknown_items is the older name of unknown; give one of them",
        ),
        (["--checkpoint=c", "--histories=in", "--output=o", "--top_k=x"], "--top_k is 'x'; it must be a whole number"),
        (["--checkpoint=c", "--histories=in", "--output=o", "--exclude_seen=2"], "--exclude_seen is '2'"),
        (["--checkpoint=c", "--histories=in", "--output=o"], "no checkpoint at"),
        (["--checkpoint", "--output=o"], "--checkpoint needs a value"),
    ],
)
def test_mistakes_at_the_command_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_switch_may_stand_alone() -> None:
    parsed = parse(["recommend", "--exclude_seen", "--top_k", "5", "--reverse_steps=4"])
    assert parsed.options == {"exclude_seen": "True", "top_k": "5"} and dict(parsed.config) == {"reverse_steps": 4}
    assert set(recommend_command.BARE) <= set(recommend_command.OPTIONS)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["recommend", "--checkpoint=c", "--histories=in", "--output=o"]) == 2
    assert "pip install 'recbole-diffusion[ray]'" in capsys.readouterr().err
