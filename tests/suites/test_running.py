"""A suite from nothing to its results: what is finished stays, what was cut goes on, what fails stands alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas
import pytest
import yaml

from recbole_diffusion import quick_start
from recbole_diffusion.command_line import main
from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from recbole_diffusion.ray_session import cores
from recbole_diffusion.suites.benchmark import SuiteResult, benchmark
from recbole_diffusion.suites.performing import Outcome, Processes, perform
from recbole_diffusion.suites.plan import PlannedRun, data_files
from recbole_diffusion.suites.plan_file import read_plan
from recbole_diffusion.suites.runner import RunQueue, locked
from recbole_diffusion.tuning.preparation import ReadData

TEXT = """\
about: a small one
datasets: [small]
seeds: [1]
settings: {epochs: 2, eval_step: 1, topk: [5, 10], valid_metric: NDCG@10, hidden_size: 8, n_layers: 1, n_heads: 1}
models:
  SASRecCE: {settings: {inner_size: 8}}
  Popularity: {seeds: 1, settings: {epochs: 1}}
evaluations:
  without seen items: {filter_seen: True}
reference: Popularity
"""
# one run
ALONE = """\
datasets: [small]
seeds: 1
settings: {epochs: 2, eval_step: 1, topk: [5, 10], valid_metric: NDCG@10}
models:
  SASRecCE: {settings: {inner_size: 8}}
"""


def write(folder: Path, text: str = TEXT) -> Path:
    # Popularity has no sizes
    text = text.replace(", hidden_size: 8, n_layers: 1, n_heads: 1}", "}")
    text = text.replace("{inner_size: 8}", "{hidden_size: 8, n_layers: 1, n_heads: 1}")
    file = folder / "tiny.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def run(folder: Path, data: Path, text: str = TEXT, *, tables_only: bool = False) -> SuiteResult:
    return benchmark(
        write(folder, text),
        data_path=data,
        output=folder / "out",
        threads=1,
        show_progress=False,
        tables_only=tables_only,
    )


def results(result: SuiteResult) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in result.folder.rglob("result.json")}


def test_a_suite_is_made_once(tmp_path: Path, small_data: Path) -> None:
    first = run(tmp_path, small_data)
    assert not first.missing and [outcome.reason for outcome in first.outcomes] == [None] * 2
    made = results(first)
    assert len(made) == 4  # two runs, each evaluated once more
    for planned in first.runs:
        facts = json.loads((planned.run_folder / "result.json").read_text(encoding="utf-8"))  # type: ignore[operator]
        assert facts["seed"] == planned.seed and facts["dataset"] == "small" and facts["test_result"]
        seen = planned.evaluation_folder("without seen items")
        assert seen is not None
        assert json.loads((seen / "result.json").read_text(encoding="utf-8"))["protocol"]["filter_seen"] is True
        assert (planned.run_folder / "per_user" / "test.parquet").is_file()  # type: ignore[operator]
    assert len(first.tables) == 8  # Markdown, LaTeX, CSV and parquet of both evaluations
    page = first.report.read_bytes()
    again = run(tmp_path, small_data)
    assert not again.outcomes and results(again) == made
    assert again.report == first.folder / "report.html" and again.report.read_bytes() == page
    check_report(first, page.decode())
    more = run(tmp_path, small_data, TEXT.replace("seeds: [1]", "seeds: [1, 2]"))
    assert len(more.outcomes) == 1 and made.items() <= results(more).items()
    check_table(more)


def check_report(result: SuiteResult, page: str) -> None:
    """The page has the tables' figures, both evaluations, both runs' folders, and how to go on."""
    for name in ("small.csv", "without-seen-items-*/small.csv"):
        (path,) = (result.folder / "tables").glob(name)
        for line in pandas.read_csv(path).itertuples():
            assert f"{line._4:.2f}" in page  # HR@5
    assert "2 of 2 runs finished" in page and "Not every run" not in page and "without seen items" in page
    for planned in result.runs:
        folder = planned.run_folder
        assert folder is not None and f'href="{folder.relative_to(result.folder).as_posix()}/"' in page
    assert "recbole-diff benchmark tiny.yaml --data_path=" in page and str(result.folder.parent) not in page


def check_table(result: SuiteResult) -> None:
    """The figures of the table are those of the runs."""
    long = pandas.read_parquet(result.folder / "tables" / "small.parquet")
    rows = {(row.label, row.metric): row for row in long.itertuples()}
    facts = [json.loads((run.run_folder / "result.json").read_text(encoding="utf-8")) for run in result.runs]  # type: ignore[operator]
    own = [100 * fact["test_result"]["ndcg@10"] for fact in facts if fact["model"] == "SASRecCE"]
    row = rows["SASRecCE", "ndcg@10"]
    assert row.n == 2 and row.mean == pytest.approx(sum(own) / 2)
    assert row.std == pytest.approx(abs(own[0] - own[1]) / 2**0.5)
    assert 0 <= row.p_value <= 1


def test_the_best_candidate_on_validation_gets_the_other_seeds(tmp_path: Path, small_data: Path) -> None:
    text = ALONE.replace("seeds: 1", "seeds: [1, 2]").replace(
        "{settings: {inner_size: 8}}", "{settings: {inner_size: 8}, candidates: {learning_rate: [1e-9, 0.05]}}"
    )
    text += "evaluations: {without seen items: {filter_seen: True}}\n"
    result = run(tmp_path, small_data, text)
    assert not result.missing and [planned.keys["learning_rate"] for planned in result.runs] == [0.05, 0.05]
    tried = {}  # by learning rate: validation score, folder
    for path in result.folder.glob("runs/small/*/*/*/result.json"):
        config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
        if config["seed"] == 1:
            tried[config["learning_rate"]] = json.loads(path.read_text(encoding="utf-8"))["best_valid_score"], path
    assert tried[0.05][0] > tried[1e-9][0]
    # the winner is the first seed's run: three were trained, and what was not chosen is not ranked again
    assert result.runs[0].run_folder == tried[0.05][1].parent and len(results(result)) == 3 + 2
    assert not (tried[1e-9][1].parents[1] / "evaluations").exists()
    made = results(result)
    again = run(tmp_path, small_data, text)
    assert not again.outcomes and results(again) == made and again.runs == result.runs
    # tables of what is finished, while another process is at work
    (result.runs[1].run_folder / "result.json").unlink()  # type: ignore[operator]
    with locked(result.folder):
        shown = run(tmp_path, small_data, text, tables_only=True)
    assert not shown.outcomes and shown.missing == [shown.runs[1]]
    long = pandas.read_parquet(shown.folder / "tables" / "small.parquet")
    assert set(long["n"]) == {1}


def test_the_chosen_candidate_goes_on_to_the_full_time(tmp_path: Path, small_data: Path) -> None:
    text = ALONE.replace("epochs: 2, ", "epochs: 4, ") + "time_limit: 3600\n"
    text = text.replace(
        "{settings: {inner_size: 8}}", "{settings: {inner_size: 8}, candidates: {learning_rate: [1e-9, 0.05]}}"
    )
    result = run(tmp_path, small_data, text + "candidates_time_limit: 1e-9\n")
    (tmp_path / "plain").mkdir()
    plain = run(tmp_path / "plain", small_data, text)
    first = result.runs[0]
    assert not result.missing and first.keys["learning_rate"] == 0.05 and first.keys["time_limit"] == 3600
    folders = [folder.parent for folder in result.folder.glob("runs/small/*/*/*/result.json")]
    assert len(folders) == 3  # two candidates of one epoch, one run of all
    metrics = {folder: pandas.read_csv(folder / "metrics.csv") for folder in folders}
    assert sorted(len(table) for table in metrics.values()) == [1, 1, 4]
    # nothing but the limit parts it from the run that had the full time at once
    (short,) = (folder for folder in folders if folder.parent == first.goes_on_from)
    whole, at_once = first.run_folder, plain.runs[0].run_folder
    assert whole is not None and at_once is not None and plain.runs[0].goes_on_from is None
    losses = metrics[whole]["train_loss"]
    assert losses.tolist() == pandas.read_csv(at_once / "metrics.csv")["train_loss"].tolist()
    assert losses[0] == metrics[short]["train_loss"][0]
    assert (whole / "best" / "model.safetensors").read_bytes() != (short / "best" / "model.safetensors").read_bytes()
    facts = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in (whole, at_once)]
    assert facts[0]["test_result"] == facts[1]["test_result"]
    assert not list(result.folder.rglob("*.part"))
    assert RunConfig(config_files=[first.place / "asked.yaml"])["learning_rate"] == 0.05  # it is repeated as the others
    assert tuple(read_plan(result.folder)) == result.runs
    made = results(result)
    again = run(tmp_path, small_data, text + "candidates_time_limit: 1e-9\n")
    assert not again.outcomes and results(again) == made


def test_what_was_chosen_is_written_down_at_once(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed leaves no more than that behind, and analyses read it."""
    text = ALONE.replace("{settings: {inner_size: 8}}", "{candidates: {learning_rate: [1e-9, 0.05]}}")
    folder = tmp_path / "out" / "tiny"
    named: list[list[Path]] = []

    def watched(run: PlannedRun, *given: Any, **more: Any) -> Outcome:
        named.append([planned.place for planned in read_plan(folder)])
        return perform(run, *given, **more)

    monkeypatch.setattr("recbole_diffusion.suites.runner.perform", watched)
    result = run(tmp_path, small_data, text.replace("seeds: 1", "seeds: [1, 7]"))
    assert named[0] == [] and named[-1] == [planned.place for planned in result.runs]
    (result.folder / "suite.json").unlink()
    run(tmp_path, small_data, text.replace("seeds: 1", "seeds: [1, 7]"), tables_only=True)
    assert tuple(read_plan(result.folder)) == result.runs


def test_candidates_that_fail_are_not_waited_for(tmp_path: Path, small_data: Path) -> None:
    text = ALONE.replace("{settings: {inner_size: 8}}", "{candidates: {learning_rate: [1e30, 0.05]}}")
    result = run(tmp_path, small_data, text)
    assert not result.missing and len(result.runs) == 1
    with pytest.raises(UserError, match=r"1 of 3 runs failed, the first: .*, candidate learning_rate 1e\+30: .*NaN"):
        result.check()
    page = result.report.read_text(encoding="utf-8")
    assert "failed: " in page and "Nothing is chosen yet" not in page
    # it is tried again, and the others stay
    made = results(result)
    shown = run(tmp_path, small_data, text, tables_only=True)
    assert shown.runs == result.runs and not shown.missing
    again = run(tmp_path, small_data, text)
    assert len(again.outcomes) == 1 and results(again) == made and again.runs == result.runs


def test_a_run_that_fails_stands_alone(tmp_path: Path, small_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ALONE.replace("  SASRecCE:", "  Popularity: {settings: {epochs: 1}}\n  broken: {model: SASRecCE,").replace(
        " {settings: {inner_size: 8}}", " settings: {learning_rate: 1e30}}"
    )
    file = write(tmp_path, text)
    words = ["benchmark", str(file), f"--data_path={small_data}", f"--output={tmp_path / 'out'}", "--threads=1"]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: 1 of 2 runs failed, the first: broken on small, seed 1: ") and "NaN" in error
    assert len(list((tmp_path / "out" / "tiny" / "runs").glob("*/*/*/*/result.json"))) == 1
    assert "report.html says which" in error
    page = (tmp_path / "out" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "broken on small, seed 1" in page and "<strong>failed</strong>, " in page and "NaN" in page
    assert "1 of 2 runs finished" in page


def test_a_candidate_that_fails_is_one_of_all(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(queue: RunQueue, *_: object, **__: object) -> list[Outcome]:
        while queue:
            planned = queue.pop()
            queue.end(planned, Outcome(planned.name, 1.0, "no memory"))
        return queue.ended

    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", fail)
    text = ALONE.replace("{settings: {inner_size: 8}}", "{candidates: {dropout_prob: [0.1, 0.2]}}")
    result = run(tmp_path, small_data, text)
    assert not result.runs
    with pytest.raises(UserError, match=r"^2 of 3 runs failed, the first: .*, candidate dropout_prob 0.1: no memory"):
        result.check()


def test_a_search_that_fails_is_its_models_alone(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Processes, words: list[str], log: Path, **_: object) -> int:
        assert words[0] == "tune"
        log.write_text("error: no machine has room\n", encoding="utf-8")
        return 2

    def note(queue: RunQueue, *_: object, **__: object) -> list[Outcome]:
        asked.append(sorted(one.name for one in queue.waiting))
        return []

    asked: list[list[str]] = []
    monkeypatch.setattr(Processes, "call", refuse)
    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", note)
    (tmp_path / "space.yaml").write_text("dropout_prob: {choice: [0.1, 0.2]}\n", encoding="utf-8")
    file = write(tmp_path, ALONE + "  gSASRec: {search: {space: space.yaml, num_trials: 1}}\n")
    words = ["benchmark", str(file), f"--data_path={small_data}", f"--output={tmp_path / 'out'}"]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(
        "error: 1 of 1 searches failed, the first: search for gSASRec on small: no machine has room; the others are"
    )
    assert asked == [["SASRecCE on small, seed 1"]]
    page = (tmp_path / "out" / "tiny" / "report.html").read_text(encoding="utf-8")
    assert "its configuration is not chosen, the search failed: no machine has room" in page
    assert "The search <strong>failed</strong>: no machine has room." in page

    def choose(self: Processes, words: list[str], log: Path, **_: object) -> int:
        sweep = log.parent / "sweep"
        sweep.mkdir()
        facts = {"space": {}, "best": {"trial": "1"}, "trials": [{"trial": "1", "values": {"dropout_prob": 0.2}}]}
        facts["trials"][0].update(state="finished", score=0.5, best_epoch=1, epochs=1, seconds=1.0)  # type: ignore[index]
        (sweep / "tune_result.json").write_text(json.dumps(facts), encoding="utf-8")
        (sweep / "sweep.json").write_text("{}", encoding="utf-8")
        return 0

    monkeypatch.setattr(Processes, "call", choose)
    assert main(words) == 0  # tried again
    assert asked[1] == ["SASRecCE on small, seed 1", "gSASRec on small, seed 1"]
    assert "no machine has room" not in (tmp_path / "out" / "tiny" / "report.html").read_text(encoding="utf-8")


def test_threads_may_be_given_as_the_key_of_a_run(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    def note(queue: RunQueue, place: dict[str, object], **__: object) -> list[Outcome]:
        told.append(place["num_threads"])
        return []

    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", note)
    for keys, threads in (({"num_threads": 7}, None), ({"num_threads": 7}, 3), ({}, None)):
        file, share = write(tmp_path, ALONE), max(cores() // 9, 1)
        benchmark(file, keys, data_path=small_data, output=tmp_path, threads=threads, max_concurrent=9)
    assert told == [7, 3, share]


def test_what_was_chosen_before_an_interruption_is_in_the_plan(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(queue: RunQueue, *_: object, **__: object) -> list[Outcome]:
        for score in (0.2, 0.1):
            made = queue.pop()
            (made.place / "run").mkdir(parents=True)
            (made.place / "run" / "config.yaml").write_text("epochs: 2\n", encoding="utf-8")
            facts = {"best_valid_score": score, "valid_metric": "NDCG@10"}
            (made.place / "run" / "result.json").write_text(json.dumps(facts), encoding="utf-8")
            queue.end(made, Outcome(made.name, 1.0))
        raise KeyboardInterrupt

    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", interrupt)
    text = ALONE.replace("seeds: 1", "seeds: [1, 2]")
    with pytest.raises(KeyboardInterrupt):
        run(
            tmp_path,
            small_data,
            text.replace("{settings: {inner_size: 8}}", "{candidates: {dropout_prob: [0.1, 0.2]}}"),
        )
    assert [(one.seed, one.keys["dropout_prob"]) for one in read_plan(tmp_path / "out" / "tiny")] == [
        (1, 0.1),
        (2, 0.1),
    ]


def test_runs_on_data_that_were_downloaded_first_are_found_again(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(config: RunConfig, **_: object) -> ReadData:
        shutil.copytree(small_data, tmp_path / "data", dirs_exist_ok=True)
        return ReadData({}, validates=True)

    monkeypatch.setattr("recbole_diffusion.suites.run_data.read_data", download)
    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", lambda *_, **__: [])
    text = ALONE + "  gSASRec: {candidates: {dropout_prob: [0.1, 0.2]}}\n"
    first = run(tmp_path, tmp_path / "data", text)
    places: list[Path] = []

    def note(queue: RunQueue, *_: object, **__: object) -> list[Outcome]:
        places.extend(one.place for one in queue.waiting)
        return []

    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", note)
    data_files.cache_clear()
    assert run(tmp_path, tmp_path / "data", text).runs == first.runs
    assert first.runs and len(places) == 3


def start(file: Path, data: Path, output: Path) -> subprocess.Popen[bytes]:
    words = ["benchmark", str(file), f"--data_path={data}", f"--output={output}", "--threads=1"]
    return subprocess.Popen([sys.executable, "-m", "recbole_diffusion", *words], stderr=subprocess.PIPE)


def wait_for(pattern: str, folder: Path, seconds: float = 120.0) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = sorted(folder.rglob(pattern))
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in {folder} after {seconds} s")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a run ends with its parent on Linux")
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_what_was_cut_goes_on(tmp_path: Path, small_data: Path, how: signal.Signals) -> None:
    file = write(tmp_path, ALONE.replace("epochs: 2", "epochs: 80, stopping_step: 100"))
    process = start(file, small_data, tmp_path / "out")
    metrics = wait_for("metrics.csv", tmp_path / "out")  # written after the first epoch's checkpoint
    process.send_signal(how)
    said = process.communicate(timeout=60)[1].decode()
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert how == signal.SIGKILL or "the same command goes on" in said
    folder = metrics.parent
    assert not (folder / "result.json").exists()
    with locked(tmp_path / "out" / "tiny"):  # nothing is at work any more
        pass
    before = len((folder / "metrics.csv").read_text(encoding="utf-8").splitlines())
    shorter = file.read_text(encoding="utf-8")
    process = start(file, small_data, tmp_path / "out")
    process.communicate(timeout=300)
    assert process.returncode == 0 and shorter == file.read_text(encoding="utf-8")
    lines = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    assert (folder / "result.json").is_file() and len(lines) == 81 and before < 81
    assert "resumed from" in (folder / "run.log").read_text(encoding="utf-8")


def test_absent_data_are_said_before_a_run_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset 'small' is not on this machine"):
        run(tmp_path, tmp_path / "nowhere", ALONE)
    assert not (tmp_path / "out" / "tiny" / "runs").exists()


def test_one_benchmark_at_a_time_in_a_folder(tmp_path: Path, small_data: Path) -> None:
    if os.name != "posix":
        pytest.skip("no such lock here")
    file = write(tmp_path)
    with locked(tmp_path / "out" / "tiny"), pytest.raises(UserError, match="another benchmark is at work in"):
        benchmark(file, data_path=small_data, output=tmp_path / "out")


def test_a_time_limit_ends_training_after_its_epoch(tmp_path: Path, small_data: Path) -> None:
    keys = {"hidden_size": 8, "n_layers": 1, "n_heads": 1, "epochs": 3, "eval_step": 3, "time_limit": 0.001}
    cut = quick_start.run("SASRecCE", "small", keys, data_path=small_data, output=tmp_path, show_progress=False)
    assert cut.epochs == cut.best_epoch == 1 and cut.valid_result and cut.test_result
    # with more time it goes on, and ends of itself
    more = quick_start.run(config={"time_limit": 600}, data_path=small_data, resume=cut.folder, show_progress=False)
    assert more.epochs == 3


def test_a_time_limit_may_count_processor_time(tmp_path: Path, small_data: Path) -> None:
    keys = {"hidden_size": 8, "n_layers": 1, "n_heads": 1, "epochs": 3, "time_limit": 0.001}
    keys["time_limit_clock"] = "processor"
    cut = quick_start.run("SASRecCE", "small", keys, data_path=small_data, output=tmp_path, show_progress=False)
    assert cut.epochs == 1 and cut.processor_seconds > 0.001
    spent = cut.processor_seconds
    more = quick_start.run(config={"time_limit": 600}, data_path=small_data, resume=cut.folder, show_progress=False)
    assert more.epochs == 3 and more.processor_seconds > spent


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "benchmark needs the FILE of a suite"),
        (["no.yaml"], "no suite file no.yaml"),
        (["--benchmark=no.yaml", "--threads=0"], "no suite file no.yaml"),
    ],
)
def test_wrong_words(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_run_is_interrupted_although_its_parent_blocks_and_ignores_that() -> None:
    """As Ray's workers and shells in the background do."""
    code = (
        "import os, signal\n"
        "from recbole_diffusion.suites.child import heed_interrupts\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "heed_interrupts()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "interrupted"
