"""What a suite's report is told: states of runs, searches, and the command that goes on."""

from __future__ import annotations

import json
from pathlib import Path

from recbole_diffusion.reporting.page import write_report
from recbole_diffusion.suites.candidates import Choice
from recbole_diffusion.suites.performing import Outcome
from recbole_diffusion.suites.plan import PlannedRun
from recbole_diffusion.suites.report import command_of, suite_report
from recbole_diffusion.suites.searching import PlannedSearch
from recbole_diffusion.suites.suite import read_suite
from recbole_diffusion.suites.tables import read_records, suite_tables, write_suite_tables

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
    tables = {"": suite_tables(suite, records), "seen": suite_tables(suite, read_records(suite, runs, "seen"))}
    files = write_suite_tables(tables, folder)
    assert [path.relative_to(folder).as_posix() for path in files if path.suffix == ".md"] == [
        "tables/toy.md",
        "tables/seen/toy.md",
    ]
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
        tables={"": suite_tables(suite, records)},
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
