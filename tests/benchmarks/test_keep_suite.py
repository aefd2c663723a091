"""What is kept of a suite gives its tables again, and holds neither users nor items."""

from __future__ import annotations

from pathlib import Path

import keep_suite
import pyarrow.parquet
import pytest

from recbole_diffusion.suites.benchmark import benchmark

SUITE = """\
datasets: [small]
seeds: [1]
settings: {epochs: 1, topk: [5, 10], valid_metric: NDCG@10}
models:
  Popularity:
evaluations:
  without seen items: {filter_seen: True}
reference: Popularity
"""


def test_the_same_tables(tmp_path: Path, small_data: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(SUITE, encoding="utf-8")
    made = benchmark(file, data_path=small_data, output=tmp_path / "made", threads=1, show_progress=False)
    assert not made.missing
    assert keep_suite.main([str(made.folder), f"--output={tmp_path / 'kept'}"]) == 0
    kept = tmp_path / "kept" / "tiny"
    assert str(tmp_path) not in (kept / "suite.json").read_text(encoding="utf-8")
    before = {path.relative_to(kept): path.read_bytes() for path in kept.rglob("tables/**/*") if path.is_file()}
    again = benchmark(file, data_path=small_data, output=kept.parent, threads=1, show_progress=False, tables_only=True)
    assert not again.missing and len(before) == 9  # two tables in four formats, and which files they are
    for name, content in before.items():
        if name.suffix in (".md", ".csv", ".tex"):
            assert (kept / name).read_bytes() == content, name
    rows = [pyarrow.parquet.read_table(path) for path in kept.rglob("per_user/test.parquet")]
    assert len(rows) == 2
    for table in rows:
        assert {"row", "target_ranks", "hit@5", "ndcg@10"} <= {*table.column_names}
        assert not {*keep_suite.OF_THE_DATA} & {*table.column_names}
    assert not [*kept.rglob("*.safetensors"), *kept.rglob("items.parquet"), *kept.rglob("*.state")]
    # what repeats the suite, and a run alone, is what was given when the runs were made
    report = (kept / "report.html").read_text(encoding="utf-8")
    assert "recbole-diff benchmark tiny.yaml --data_path=" in report and "--output=made --threads=1" in report
    assert "recbole-diff run --config_files=runs/small/Popularity/seed-1-" in report and "--output=kept" not in report
    names = (*keep_suite.RUN_FILES, "asked.yaml")
    texts = [path.read_text(encoding="utf-8") for name in names for path in kept.rglob(name)]
    assert len(texts) == 6 and not any(str(tmp_path) in text for text in texts)
    # kept anew, what is gone is gone
    (kept / "runs" / "old").mkdir()
    keep_suite.main([str(made.folder), f"--output={kept.parent}"])
    assert not (kept / "runs" / "old").exists()


def test_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keep_suite.main([str(tmp_path), f"--output={tmp_path / 'kept'}"]) == 2
    assert f"error: {tmp_path} is no suite's folder: it has no suite.json" in capsys.readouterr().err
    assert not (tmp_path / "kept").exists()
