"""What a suite's report is told: states of runs, searches, and the command that goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet
import pytest

from recbole_diffusion.benchmarking.results import read_run
from recbole_diffusion.benchmarking.tables import build_tables
from recbole_diffusion.errors import UserError
from recbole_diffusion.reporting.content import page_content
from recbole_diffusion.reporting.page import write_report
from recbole_diffusion.suites.candidates import Choice
from recbole_diffusion.suites.performing import Outcome
from recbole_diffusion.suites.plan import PlannedRun, note_failure, plan_run
from recbole_diffusion.suites.report import command_of, suite_report
from recbole_diffusion.suites.searching import PlannedSearch
from recbole_diffusion.suites.suite import read_suite
from recbole_diffusion.suites.tables import read_records, suite_tables, tables_folder, write_suite_tables

from ..benchmarking.folders import make_run

SWEEP = {
    "metric": "NDCG@10",
    "space": {"n_layers": {"choice": [1, 2]}, "eval_step": 5},
    "best": {"trial": "00001"},
    "trials": [
        {"trial": "00001", "state": "finished", "score": 0.125, "best_epoch": 4, "epochs": 6, "seconds": 12.5,
         "values": {"n_layers": 2}, "reason": ""},
        {"trial": "00000", "state": "failed", "score": None, "best_epoch": None, "epochs": 1, "seconds": 2.0,
         "values": {"n_layers": 1}, "reason": "the loss is NaN"},
    ],
}  # fmt: skip

TEXT = """\
about: states
datasets: [toy]
seeds: [1, 2, 3, 4]
models:
  DMI  twice: {model: DMI, preset: paper, search: {space: space.yaml, num_trials: 2}, published: DMI}
evaluations:
  seen: {filter_seen: True}
"""


def planned(folder: Path, seed: int) -> PlannedRun:
    """A run of the suite."""
    place = folder / "runs" / "toy" / "DMI" / f"seed-{seed}"
    return PlannedRun("DMI  twice", "toy", seed, "DMI", "paper", {}, place, {"seen": {"filter_seen": True}})


def test_states_and_searches(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("n_layers: {choice: [1, 2]}\n", encoding="utf-8")
    (tmp_path / "states.yaml").write_text(TEXT, encoding="utf-8")
    suite, folder = read_suite(tmp_path / "states.yaml"), tmp_path / "out"
    runs = [planned(folder, seed) for seed in (1, 2, 3, 4)]
    make_run(runs[0].place / "a", "DMI", 1, {"hit@10": 0.25})
    make_run(runs[0].evaluation_place("seen") / "a", "DMI", 1, {"hit@10": 0.5}, config="filter_seen: true\n")
    make_run(runs[1].place / "a", "DMI", 2, {"hit@10": 0.35})
    make_run(runs[2].place / "a", "DMI", 3, None)
    search = PlannedSearch(suite.models[0], "toy", {}, folder / "searches" / "toy" / "DMI-1")
    (search.place / "sweep").mkdir(parents=True)
    for name, facts in (("sweep.json", {}), ("tune_result.json", SWEEP)):
        (search.place / "sweep" / name).write_text(json.dumps(facts), encoding="utf-8")
    records = read_records(suite, runs)
    tables = {
        "": suite_tables(suite, runs, records),
        "seen": suite_tables(suite, runs, read_records(suite, runs, "seen"), "seen"),
    }
    files = write_suite_tables(suite, tables, folder)
    assert [path.relative_to(folder).as_posix() for path in files if path.suffix == ".md"] == [
        "tables/toy.md",
        "tables/seen/toy.md",
    ]
    trained, seen = ((tables_folder(folder, name) / "toy.md").read_text(encoding="utf-8") for name in ("", "seen"))
    assert trained.startswith("# toy, leave_one_out\n") and "evaluated with" not in trained
    assert seen.startswith("# toy, leave_one_out, seen\n")
    assert "The same checkpoints evaluated with filter_seen: True." in seen
    printed = (tables_folder(folder, "seen") / "toy.tex").read_text(encoding="utf-8")
    assert r"\label{tab:toy-seen}" in printed and "seen}" in printed.split(r"\caption")[1].splitlines()[0]
    kept = pyarrow.parquet.read_table(tables_folder(folder, "seen") / "toy.parquet")
    assert kept["evaluation"].unique().to_pylist() == ["seen"]
    report = suite_report(
        suite,
        folder,
        runs,
        records=records,
        tables=tables,
        outcomes=[Outcome(runs[1].name, 1.0, "no memory"), Outcome(runs[2].name, 1.0, "interrupted", interrupted=True)],
        searches=[search],
        command="recbole-diff benchmark states.yaml",
    )
    assert [(run.seed, run.state, run.reason) for run in report.runs] == [
        (1, "finished", ""),
        (2, "failed", "trained, but not evaluated seen: no memory"),
        (3, "unfinished", ""),
        (4, "not begun", ""),
    ]
    assert report.labels == ["DMI twice"] and report.evaluations[1].settings == {"filter_seen": True}
    page = write_report(report, folder).read_text(encoding="utf-8")
    # 25 and 35 % over the two that are trained, 50 % of the one that is evaluated
    assert "30.00 " in page and "± 7.07" in page and "50.00" in page
    # 12.4 s a run and an evaluation, 12.5 and 2 s of the trials
    assert "<li>25 s of runs</li>" in page and "<li>12 s of further evaluations</li>" in page
    assert "<li>14 s of searches and candidates beside them</li>" in page
    assert "1 of 4 runs finished" in page and "trained, but not evaluated seen: no memory" in page
    assert "1 of 2 configurations have a validation score, NDCG@10. Chosen: <code>eval_step: 5</code>, " in page
    assert "failed: the loss is NaN" in page
    assert page.count("<strong>chosen</strong>") == 1  # although the space fixes a key that no trial drew
    assert 'href="searches/toy/DMI-1/sweep/"' in page


def test_candidates(tmp_path: Path) -> None:
    text = (
        "datasets: [toy]\nseeds: [1, 2]\n"
        "models:\n  DMI: {candidates: {n_layers: [1, 2]}}\n  MIND: {candidates: {n_layers: [1, 2]}}\n"
    )
    (tmp_path / "few.yaml").write_text(text, encoding="utf-8")
    suite, folder = read_suite(tmp_path / "few.yaml"), tmp_path / "out"
    runs: dict[str, list[PlannedRun]] = {}
    for label in ("DMI", "MIND"):
        places = [folder / "runs" / "toy" / label / f"seed-1-{number}" for number in (1, 2)]
        runs[label] = [PlannedRun(label, "toy", 1, label, None, {}, place, {}) for place in places]
    facts = {"valid_metric": "NDCG@10", "best_epoch": 3}
    for run, score in zip(runs["DMI"], (0.25, 0.5), strict=True):
        make_run(run.place / "a", "DMI", 1, {"hit@10": score}, best_valid_score=score, **facts)
    choices = [Choice(label, "toy", tuple(of_it), ({"n_layers": 1}, {"n_layers": 2})) for label, of_it in runs.items()]
    records = read_records(suite, runs["DMI"][1:])
    report = suite_report(
        suite,
        folder,
        runs["DMI"][1:],
        records=records,
        tables={"": suite_tables(suite, runs["DMI"][1:], records)},
        outcomes=[Outcome("MIND on toy, seed 1", 1.0, "no memory")],
        choices=choices,
        command="",
    )
    assert [(run.label, run.seed, run.state) for run in report.runs] == [
        ("DMI", 1, "finished"),
        ("MIND", 1, "not begun"),
        ("DMI", 2, "not begun"),
        ("MIND", 2, "not begun"),
    ]
    assert report.runs[1].reason == "its configuration is not chosen, a candidate failed: no memory"
    dmi, mind = report.searches
    assert (dmi.metric, dmi.chosen, dmi.space) == ("NDCG@10", {"n_layers": 2}, {"n_layers": [1, 2]})
    assert [(trial.score, trial.state) for trial in dmi.trials] == [(0.25, "finished"), (0.5, "finished")]
    assert mind.chosen is None and [trial.state for trial in mind.trials] == ["not begun", "not begun"]
    page = write_report(report, folder).read_text(encoding="utf-8")
    # the chosen candidate is a run of the tables
    assert "12 s of runs" in page and "12 s of searches and candidates beside them" in page
    assert "Nothing is chosen yet: 0 of 2" in page and "<strong>chosen</strong> <a href=" in page


def test_the_command_says_what_was_given() -> None:
    asked = {"epochs": 5, "metrics": ["Hit"], "cache_dir": "/some/cache", "note": "a b"}
    text = command_of("suites/quick.yaml", asked, data_path="/data/sets", output="out", max_concurrent=2, threads=1)
    assert text == (
        "recbole-diff benchmark suites/quick.yaml --data_path=sets --output=out --max_concurrent=2 --threads=1 "
        "--epochs=5 '--metrics=[\"Hit\"]' --cache_dir=cache '--note=a b'"
    )
    plain = command_of("quick.yaml", {}, data_path=None, output="benchmark_runs", max_concurrent=None, threads=None)
    assert plain == "recbole-diff benchmark quick.yaml"


def test_time_is_counted_once(tmp_path: Path) -> None:
    """A run that goes on from a candidate has that one's time in its own; until it is finished the candidate has it."""
    text = "datasets: [toy]\nseeds: 1\nmodels:\n  DMI: {candidates: {n_layers: [1, 2]}}\n"
    (tmp_path / "few.yaml").write_text(text, encoding="utf-8")
    suite, folder = read_suite(tmp_path / "few.yaml"), tmp_path / "out"
    places = [folder / "runs" / "toy" / "DMI" / name for name in ("1", "2", "whole")]
    *tried, run = (PlannedRun("DMI", "toy", 1, "DMI", None, {}, place) for place in places)
    run = dataclasses.replace(run, goes_on_from=places[1])
    for one, score, seconds in zip(tried, (0.25, 0.5), (100.0, 200.0), strict=True):
        facts = {"best_valid_score": score, "valid_metric": "NDCG@10", "wall_seconds": seconds}
        make_run(one.place / "a", "DMI", 1, {"hit@10": 0.1}, **facts)
    choice = Choice("DMI", "toy", tuple(tried), ({"n_layers": 1}, {"n_layers": 2}))

    def times() -> list[tuple[str, str]]:
        records = read_records(suite, [run])
        tables = {"": suite_tables(suite, [run], records)}
        report = suite_report(
            suite, folder, [run], records=records, tables=tables, outcomes=[], choices=[choice], command=""
        )
        return page_content(report, folder)["times"]  # type: ignore[no-any-return]

    assert times() == [("searches and candidates beside them", "5 min 0 s")]
    make_run(run.place / "a", "DMI", 1, {"hit@10": 0.1}, wall_seconds=1000.0)
    assert times() == [("runs", "16 min 40 s"), ("searches and candidates beside them", "1 min 40 s")]


def test_a_run_that_failed_before_it_had_a_folder_is_unfinished_in_the_table(tmp_path: Path) -> None:
    text = "datasets: [toy]\nseeds: [1, 2]\nreference: SASRec  CE\nmodels:\n  SASRec  CE: {model: SASRecCE}\n  DMI:\n"
    (tmp_path / "few.yaml").write_text(text, encoding="utf-8")
    suite, folder = read_suite(tmp_path / "few.yaml"), tmp_path / "out"
    runs = [plan_run(suite, *row, output=folder, given={}) for row in suite.rows()]
    for run, label in ((runs[0], "SASRecCE"), (runs[1], "DMI")):
        hits = [0.0, 1.0, 0.0, 1.0]
        make_run(run.place / "a", label, 1, {"hit@10": 0.5}, {"hit@10": hits})
    note_failure(runs[3].place, "no memory")  # DMI with seed 2; SASRec CE with seed 2 is not begun
    (table,) = suite_tables(suite, runs, read_records(suite, runs))
    assert "Unfinished, not in the figures: DMI seed 2." in table.notes
    assert [(row.label, len(row.runs), len(row.unfinished)) for row in table.rows] == [
        ("SASRec CE", 1, 0),
        ("DMI", 1, 1),
    ]
    # the reference is found by its label as tables have it
    assert table.comparison is not None and table.comparison.references == ("SASRec CE",)


def test_tables_of_what_a_suite_has_no_more_are_taken_away(tmp_path: Path) -> None:
    def written(datasets: str, evaluation: str, *finished: str) -> set[str]:
        (tmp_path / "few.yaml").write_text(
            f"datasets: [{datasets}]\nmodels:\n  DMI:\nevaluations: {{{evaluation}: {{filter_seen: True}}}}\n",
            encoding="utf-8",
        )
        suite = read_suite(tmp_path / "few.yaml")
        records = [
            dataclasses.replace(read_run(folder / "run", "DMI"), dataset=name.partition("/")[0], protocol=protocol)
            for name in finished
            for protocol in [name.partition("/")[2] or "leave_one_out"]
        ]
        tables = build_tables(records) if records else []
        made = write_suite_tables(suite, {"": tables, evaluation: tables}, folder)
        assert all(path.is_file() for path in made) and len(made) == 8 * len(records)
        return {path.relative_to(folder / "tables").as_posix() for path in (folder / "tables").rglob("*.md")}

    folder = tmp_path / "out"
    make_run(folder / "run", "DMI", 1, {"hit@10": 0.25})
    assert written("toy, other", "seen", "toy", "other") == {"toy.md", "other.md", "seen/toy.md", "seen/other.md"}
    (folder / "tables" / "mine.md").write_text("mine", encoding="utf-8")
    # nothing is finished (with other keys, say): what is known stays
    assert written("toy, other", "seen") == {"toy.md", "other.md", "seen/toy.md", "seen/other.md", "mine.md"}
    assert written("toy", "new", "toy") == {"toy.md", "new/toy.md", "mine.md"}
    assert not (folder / "tables" / "seen").exists()
    assert written("toy", "new", "toy/global_time") == {"toy_global_time.md", "new/toy_global_time.md", "mine.md"}
    (folder / "tables" / "files.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"files\.json is not what a suite writes"):
        written("toy", "new", "toy")
