"""What `recommend` may write to: nothing that is read is lost, and what cannot be written is said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.batch import recommend_file
from recbole_diffusion.recommendation.output_file import check_output


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("", r"--output is the folder .*; give a file in it, as .*lists.parquet"),
        ("lists.csv", r"--output is lists.csv, but Parquet is what is written; name it lists.parquet"),
        ("in/users.parquet", r"--output is a file in it as --histories .*in, which would be lost"),
        ("run/lists.parquet", r"--output is a file in it as --checkpoint .*run, which would be lost"),
        ("link.parquet", r"--output is the same file as --added_items .*more.parquet, which would be lost"),
    ],
)
def test_what_is_refused(tmp_path: Path, output: str, message: str) -> None:
    for name in ("in", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "more.parquet").write_bytes(b"kept")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "more.parquet")
    inputs = {"checkpoint": tmp_path / "run", "histories": tmp_path / "in", "added_items": tmp_path / "more.parquet"}
    with pytest.raises(UserError, match=message):
        check_output(tmp_path / output, inputs)
    for name in ("lists.parquet", "lists.pq", "LISTS.PARQUET", "lists"):
        check_output(tmp_path / name, {**inputs, "added_items": None})


def test_the_histories_outlive_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "users.parquet"
    file.write_bytes(b"the only copy")
    with pytest.raises(UserError, match=r"--output is the same file as --histories"):
        recommend_file(tmp_path / "run", file, file, overwrite=True, show_progress=False)
    assert file.read_bytes() == b"the only copy"
