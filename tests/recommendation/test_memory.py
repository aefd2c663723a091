"""`recommend` holds as much for many users as for few: in its own process, in its actors, in Ray's object store."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from .conftest import Train

ROOT = Path(__file__).resolve().parents[2]
FEW, MANY = 3_000, 30_000
HEAVY = 2_000  # bytes of a user's id, and as many of an item that no run knows
ALLOWED = 32  # MiB


def write_users(path: Path, users: int) -> None:
    """Heavy users in one row group, random, so that no compression makes them light."""
    draw = random.Random(users)
    ids = [draw.randbytes(HEAVY // 2).hex() for _ in range(users)]
    items = [["i1", draw.randbytes(HEAVY // 2).hex(), f"i{draw.randrange(40)}"] for _ in range(users)]
    pyarrow.parquet.write_table(pyarrow.table({"user_id": ids, "item_id": items}), path, row_group_size=users)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads peaks of processes from /proc")
def test_memory_does_not_grow_with_the_users(trained: Train, tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    run = trained("SASRec").folder
    write_users(tmp_path / "few.parquet", FEW)
    write_users(tmp_path / "many.parquet", MANY)
    done = subprocess.run(
        [sys.executable, "-m", "tests.recommendation.peak_memory", str(run), str(tmp_path), "few", "many"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr
    few, many = json.loads(done.stdout.splitlines()[-1])
    grown = {name: many[name] - few[name] for name in few}
    assert HEAVY * (MANY - FEW) > ALLOWED * 2**20  # holding on to the ids alone would show
    assert all(growth < ALLOWED for growth in grown.values()), (few, many)
    assert pyarrow.parquet.read_metadata(tmp_path / "many.lists.parquet").num_rows == MANY
