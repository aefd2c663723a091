"""Run folders as records, and the errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from recbole_diffusion.benchmarking import results
from recbole_diffusion.benchmarking.results import find_runs, has_rows, read_rows, read_run, settings, values_of
from recbole_diffusion.errors import UserError
from recbole_diffusion.tuning.sweep_folder import SWEEP_FILE

from .folders import DATA, PROTOCOL, make_run, write_users

HITS = {"hit@10": [1.0, 0.0, 1.0, 0.0]}


def test_a_finished_run(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", "DMI", 7, {"Hit@10": 0.5}, HITS))
    assert (run.model, run.label, run.published_as, run.dataset) == ("DMI", "DMI", "DMI", "toy")
    assert (run.protocol, run.filter_seen, run.seed, run.finished) == ("leave_one_out", False, 7, True)
    assert (run.test, run.valid) == ({"hit@10": 0.5}, {"hit@10": 0.5})
    assert (run.epochs, run.seconds, run.device) == (3, 12.4, "cpu")
    assert (run.data, run.protocol_facts) == (DATA, PROTOCOL)
    assert run.code_version == "0.1.0, 0123456789ab"
    assert has_rows(run)


def test_an_unfinished_run_is_read_from_its_configuration(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "DMI", 7, None, config="filter_seen: true\ntime_target: last\n")
    (folder / "metrics.csv").write_text("epoch,train_loss\n1,0.5\n2,0.4\n", encoding="utf-8")
    run = read_run(folder)
    assert (run.model, run.seed, run.finished, run.epochs) == ("DMI", 7, False, 2)
    assert (run.test, run.data, run.seconds, run.device) == ({}, None, None, None)
    assert run.protocol_facts == {
        "protocol": "leave_one_out",
        "eval_args": {"mode": {"test": "full"}, "split": {"LS": "valid_and_test"}},
        "filter_seen": True,
    }


def test_what_tables_call_a_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5})
    (folder / "about.json").write_text('{"label": "DMI, one\\n cut", "compare_with": "DMI (paper)"}', encoding="utf-8")
    run = read_run(folder)
    assert (run.label, run.published_as) == ("DMI, one cut", "DMI (paper)")
    assert read_run(folder, label="ours").label == "ours"


def test_results_of_older_versions(tmp_path: Path) -> None:
    word = make_run(tmp_path / "word", "DMI", 7, {"hit@10": 0.5}, protocol="user_split_multi", data=None)
    assert read_run(word).protocol == "user_split_multi"
    none = make_run(tmp_path / "none", "DMI", 7, {"hit@10": 0.5}, protocol=None)
    (none / "config.yaml").write_text("eval_args:\n  split: {LS: valid_and_test}\n", encoding="utf-8")
    assert read_run(none).protocol == "leave_one_out"
    (none / "config.yaml").write_text("eval_args: {split: {RS: [8, 1, 1]}}\n", encoding="utf-8")
    assert read_run(none).protocol == "eval_args"


def test_runs_at_any_depth_each_once(tmp_path: Path) -> None:
    for name in ("b", "a", "deeper/c"):
        make_run(tmp_path / name, "DMI", 7, {"hit@10": 0.5})
    make_run(tmp_path / "a" / "best", "DMI", 7, {"hit@10": 0.5})  # nothing inside a run is a run
    make_run(tmp_path / ".hidden", "DMI", 7, {"hit@10": 0.5})
    (tmp_path / "empty").mkdir()
    assert [run.folder.name for run in find_runs(tmp_path)] == ["a", "b", "c"]
    assert [run.folder.name for run in find_runs([tmp_path / "b", tmp_path])] == ["b", "a", "c"]


def test_of_a_sweep_the_best_run_counts(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    make_run(sweep / "best_run", "DMI", 7, {"hit@10": 0.5})
    make_run(sweep / "trial_1" / "checkpoint_000001", "DMI", 7, None)
    (sweep / "trial_1" / "result.json").write_text('{"a": 1}\n{"a": 2}\n', encoding="utf-8")
    (sweep / SWEEP_FILE).write_text("{}", encoding="utf-8")
    assert [run.folder.name for run in find_runs(tmp_path)] == ["best_run"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model": "DMI",\n "dataset"}', r"result.json:2: not valid JSON"),
        ("[1]", r"result.json: holds list instead of an object"),
        ('{"dataset": "toy"}', r"result.json: has no 'model'"),
        ('{"model": "DMI", "dataset": 5}', r"result.json: 'dataset' is 5; allowed: str"),
        ('{"model": "DMI", "dataset": "toy", "seed": "1"}', r"result.json: 'seed' is '1'; allowed: int"),
        (
            '{"model": "DMI", "dataset": "toy", "test_result": {"hit@10": NaN}}',
            r"result.json: 'hit@10' of 'test_result' is nan; allowed: a finite number",
        ),
    ],
)
def test_a_wrong_result_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    folder = make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5})
    (folder / "result.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_run(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*absent"):
        find_runs(tmp_path / "absent")
    with pytest.raises(UserError, match=r"holds no run folder: one has a config\.yaml"):
        find_runs(tmp_path)
    with pytest.raises(UserError, match=r"neither result.json nor config.yaml"):
        read_run(tmp_path)
    folder = make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5}, protocol=None)
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"result.json: has no 'protocol'"):
        read_run(folder)


def test_settings_are_lines_that_are_parsed_when_asked_for(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "DMI", 7, None, config='load_col:\n- a\n- b\nseparator: "\\t"\n')
    texts = settings(folder)
    assert list(texts)[:3] == ["data_path", "dataset", "eval_args"]
    values = values_of(texts, folder / "config.yaml", ("load_col", "seed", "separator", "absent"))
    assert values == {"load_col": ["a", "b"], "seed": 7, "separator": "\t"}
    with pytest.raises(UserError, match=r"config.yaml: 'x' is not valid YAML"):
        values_of({"x": "x: [1"}, folder / "config.yaml", ("x",))
    assert settings(tmp_path) == {}


def test_reading_runs_opens_no_configuration_and_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5}, HITS)

    def opened(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(results, "settings", opened)
    monkeypatch.setattr(results, "read_rows", opened)
    assert len(find_runs(tmp_path)) == 1


def test_rows_by_user(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5}, {**HITS, "ndcg@10": [0.5, 0, 0, 0]}))
    rows = read_rows(run, ["ndcg@10", "hit@10", "giniindex@10"])
    assert rows.columns.tolist() == ["ndcg@10", "hit@10"]
    assert rows.index.equals(pd.Index(["u0", "u1", "u2", "u3"], name="user"))
    assert rows["hit@10"].tolist() == HITS["hit@10"]


def test_rows_of_data_without_users_go_by_number(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5})
    write_users(folder, HITS, {"hit@10": 0.5}, [None] * 4)
    rows = read_rows(read_run(folder), ["hit@10"])
    assert (rows.index.tolist(), rows.index.name) == ([0, 1, 2, 3], "row")


def test_rows_must_be_those_of_the_result(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5}, HITS)
    facts = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    facts["test_result"]["hit@10"] = 0.75
    (folder / "result.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UserError, match=r"test.parquet: is of a test with hit@10 0.5, result.json says 0.75"):
        read_rows(read_run(folder), ["hit@10"])
    write_users(folder, HITS, None)
    with pytest.raises(UserError, match=r"test.parquet: has a mean hit@10 of 0.500000, result.json says 0.75"):
        read_rows(read_run(folder), ["hit@10"])


def test_files_that_are_no_rows(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "a", "DMI", 7, {"hit@10": 0.5}))
    with pytest.raises(UserError, match=r"no .*test.parquet; repeat the test with save_per_user: parquet"):
        read_rows(run, ["hit@10"])
    write_users(run.folder, {"hit@10": []}, {"hit@10": 0.5})
    with pytest.raises(UserError, match=r"test.parquet: holds no rows"):
        read_rows(run, ["hit@10"])
    run.per_user.write_text("no parquet", encoding="utf-8")
    with pytest.raises(UserError, match=r"test.parquet: not a file of save_per_user"):
        read_rows(run, ["hit@10"])
    pd.DataFrame({"hit@10": [1.0]}).to_parquet(run.per_user)
    with pytest.raises(UserError, match=r"names neither user nor row"):
        read_rows(run, ["hit@10"])


def test_rows_that_this_package_writes(small_data: Path, tmp_path: Path) -> None:
    """A real run, so that reading follows what runs write."""
    from recbole_diffusion import run

    done = run(
        model="Popularity",
        dataset="small",
        config={"data_path": str(small_data), "save_per_user": "parquet", "use_gpu": False},
        output=tmp_path,
    )
    (record,) = find_runs(tmp_path)
    assert (record.model, record.seed, record.test) == ("Popularity", done.seed, done.test_result)
    assert record.data is not None and record.data["users"] == 60
    rows = read_rows(record, list(record.test))
    assert rows.columns.tolist() == list(record.test)
    assert rows.mean().round(6).to_dict() == record.test
    assert rows.index.name == "user" and rows.index.is_unique
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (record.folder / "config.yaml").rename(unfinished / "config.yaml")
    again = read_run(unfinished)
    assert not again.finished
    both = {key: value for key, value in record.protocol_facts.items() if key in again.protocol_facts}
    assert again.protocol_facts == both
    assert {"protocol", "eval_args", "filter_seen", "label_repeats"} <= both.keys()
