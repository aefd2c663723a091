"""What may stand in one table: refused in one line, allowed by name, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.benchmarking.comparability import comparable, listed
from recbole_diffusion.benchmarking.results import find_runs, read_run
from recbole_diffusion.benchmarking.tables import ResultTable, build_tables
from recbole_diffusion.errors import UserError

from .folders import DATA, FILES, PROTOCOL, make_run

HIT = {"hit@10": 0.5}
OTHER_FILE = {**DATA, "files": {**FILES, "toy.inter": "d" * 64}}


def table(folder: Path, *allow: str) -> ResultTable:
    (only,) = build_tables(find_runs(folder), allow=allow)
    return only


def two(folder: Path, **facts: Any) -> Path:
    """Runs of A and B, the second one's result with these facts."""
    make_run(folder / "a", "A", 1, HIT)
    make_run(folder / "b", "B", 1, HIT, **facts)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        table(folder)
    text = str(error.value)
    assert "\n" not in text
    return text.replace(str(folder) + "/", "")


def test_other_interactions_are_refused(tmp_path: Path) -> None:
    assert refusal(two(tmp_path, data=OTHER_FILE)) == (
        "a/result.json and b/result.json have other data: toy.inter aaaaaaaaaaaa and dddddddddddd; leave one out, or "
        "allow 'data'"
    )
    assert "Other data, not to be compared: A seed 1 and B seed 1: toy.inter aaaaaaaaaaaa and dddddddddddd." in (
        table(tmp_path, "data").notes
    )


def test_other_filtering_is_refused(tmp_path: Path) -> None:
    assert "have other data: users 4 and 3 after filtering;" in refusal(two(tmp_path, data={**DATA, "users": 3}))


def test_other_ids_are_refused(tmp_path: Path) -> None:
    assert "have other data: ids cccccccccccc and e after filtering;" in refusal(
        two(tmp_path, data={**DATA, "ids": "e"})
    )


def test_a_file_of_interactions_too_many_is_refused(tmp_path: Path) -> None:
    more = {**DATA, "files": {**FILES, "toy.test.inter": "f" * 64}}
    assert "have other data: toy.test.inter absent and ffffffffffff;" in refusal(two(tmp_path, data=more))


def test_files_beside_the_interactions_do_not_count(tmp_path: Path) -> None:
    two(tmp_path, data={**DATA, "files": {"toy.inter": FILES["toy.inter"], "toy.item": "d"}})
    assert len(table(tmp_path).notes) == 1


def test_data_that_were_not_recorded_are_named(tmp_path: Path) -> None:
    two(tmp_path, data=None)
    assert "Data not recorded, hence not checked: B." in table(tmp_path).notes


def test_facts_that_only_one_recorded_are_not_compared(tmp_path: Path) -> None:
    older = {key: value for key, value in PROTOCOL.items() if key != "label_repeats"}
    two(tmp_path, data={"files": FILES, "users": 4}, protocol=older)
    assert len(table(tmp_path).notes) == 1


@pytest.mark.parametrize("fact", [{"label_repeats": True}, {"split_seed": 2}])
def test_other_rows_of_one_protocol_are_refused(tmp_path: Path, fact: dict[str, Any]) -> None:
    make_run(tmp_path / "a", "A", 1, HIT, protocol={**PROTOCOL, "split_seed": 1})
    make_run(tmp_path / "b", "B", 1, HIT, protocol={**PROTOCOL, "split_seed": 1, **fact})
    (key,) = fact
    assert f"a/result.json and b/result.json have other protocol: {key} " in refusal(tmp_path)
    notes = " ".join(table(tmp_path, "protocol").notes)
    assert f"Other protocol, not to be compared: A seed 1 and B seed 1: {key} " in notes


@pytest.mark.parametrize("key", ["topk", "eval_seed", "MAX_ITEM_LIST_LENGTH", "one_cut_per_user", "repeatable"])
def test_what_a_model_reads_of_a_row_is_its_own(tmp_path: Path, key: str) -> None:
    two(tmp_path, protocol={**PROTOCOL, key: 3})
    assert len(table(tmp_path).notes) == 1


@pytest.mark.parametrize("mode", [{"valid": "full", "test": "uni100"}, "pop100"])
def test_other_sampled_candidates_are_another_protocol(tmp_path: Path, mode: Any) -> None:
    sampled = {**PROTOCOL, "eval_args": {"mode": mode}, "eval_seed": 2023}
    make_run(tmp_path / "a", "A", 1, HIT, protocol=sampled)
    make_run(tmp_path / "b", "B", 1, HIT, protocol={**sampled, "eval_seed": 1})
    assert "have other protocol: eval_seed 2023 and 1;" in refusal(tmp_path)
    assert "Other protocol, not to be compared: A seed 1 and B seed 1: eval_seed 2023 and 1." in (
        table(tmp_path, "protocol").notes
    )


def test_candidates_that_every_run_draws_for_itself_are_said(tmp_path: Path) -> None:
    sampled = {**PROTOCOL, "eval_args": {"mode": {"valid": "full", "test": "uni100"}}, "eval_seed": None}
    for label in ("A", "B"):
        make_run(tmp_path / label, label, 1, HIT, protocol=sampled)
    assert "Candidates drawn by each run for itself (eval_seed: ~): A, B." in table(tmp_path).notes


def test_other_protocols_are_other_tables(tmp_path: Path) -> None:
    two(tmp_path, protocol={**PROTOCOL, "protocol": "global_time"})
    assert [one.name for one in build_tables(find_runs(tmp_path))] == ["toy", "toy_global_time"]


def test_filter_seen_is_said(tmp_path: Path) -> None:
    two(tmp_path, protocol={**PROTOCOL, "filter_seen": True})
    assert (
        "Whether items of the history are left out of the ranking (filter_seen) differs: False for A; True for B."
        in table(tmp_path).notes
    )


def test_numbers_of_seeds_and_unfinished_runs_are_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a1", "A", 1, HIT)
    make_run(tmp_path / "a2", "A", 2, HIT)
    make_run(tmp_path / "b1", "B", 1, HIT)
    make_run(tmp_path / "b2", "B", 2, None)
    make_run(tmp_path / "b1-cut", "B", 1, None)  # begun again and finished
    notes = table(tmp_path).notes
    assert "Numbers of seeds differ: 2 for A; 1 for B." in notes
    assert "Unfinished, not in the figures: B seed 2." in notes


def test_versions_of_the_code_are_said(tmp_path: Path) -> None:
    two(tmp_path, code={"version": "0.2.0", "modified": True})
    assert (
        "Runs are of several versions of the code: 0.1.0, 0123456789ab; 0.2.0, uncommitted changes."
        in table(tmp_path).notes
    )


def test_uncommitted_changes_are_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, HIT, code={"version": "0.2.0", "modified": True})
    assert "The code had uncommitted changes." in table(tmp_path).notes


def test_a_seed_twice_is_refused_always(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, HIT)
    make_run(tmp_path / "b", "A", 1, HIT)
    message = "a and b are both A with seed 1; leave one out, or give one another label"
    assert message in refusal(tmp_path)
    with pytest.raises(UserError, match="both A with seed 1"):
        table(tmp_path, "data", "protocol", "settings")
    runs = [read_run(tmp_path / "a"), read_run(tmp_path / "b", label="A again")]
    assert len(build_tables(runs)[0].rows) == 2


def test_seeds_of_other_settings_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, HIT, config="learning_rate: 0.1\nnum_threads: 1\n")
    make_run(tmp_path / "b", "A", 2, HIT, config="learning_rate: 0.01\nnum_threads: 2\n")
    assert "a and b are both A but differ in learning_rate: 0.1 and 0.01; give one another label" in refusal(tmp_path)
    assert "Runs of A differ in learning_rate." in table(tmp_path, "settings").notes


def test_settings_are_values_not_spellings_and_may_be_of_other_versions(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, HIT, config="learning_rate: 1e-3\nnew_key: 1\n")
    make_run(tmp_path / "b", "A", 2, HIT, config="learning_rate: 0.001\n")
    assert len(table(tmp_path).notes) == 1


def test_seeds_of_other_models_or_filtering_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, HIT, label="ours")
    make_run(tmp_path / "b", "B", 2, HIT, label="ours")
    assert "both ours but differ in model: A and B" in refusal(tmp_path)
    make_run(tmp_path / "c" / "a", "A", 1, HIT)
    make_run(tmp_path / "c" / "b", "A", 2, HIT, protocol={**PROTOCOL, "filter_seen": True})
    assert "both A but differ in filter_seen: False and True" in refusal(tmp_path / "c")


def test_an_unknown_allowance_names_the_known_ones(tmp_path: Path) -> None:
    two(tmp_path)
    with pytest.raises(UserError, match="allow: 'everything' is unknown; allowed: data, protocol, settings"):
        table(tmp_path, "everything")


def test_comparable_runs(tmp_path: Path) -> None:
    two(tmp_path, data=OTHER_FILE)
    first, second = find_runs(tmp_path)
    assert comparable(first, first)
    assert not comparable(first, second)


def test_labels_with_commas_are_told_apart() -> None:
    assert listed(["A", "DMI, one cut", "A"]) == "A, 'DMI, one cut'"
