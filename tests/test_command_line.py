"""The command line: parsing, texts, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import recbole_diffusion
from recbole_diffusion import command_line, prepare_command
from recbole_diffusion.command_line import main, parse, result_table
from recbole_diffusion.config_files import COMMAND_LINE
from recbole_diffusion.errors import UserError
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.registry import properties_directory

ROOT = Path(recbole_diffusion.__file__).resolve().parents[1]

RESULT = SimpleNamespace(
    model="DiffuRec",
    dataset="small",
    folder=Path("runs/DiffuRec-small-1"),
    valid_metric="NDCG@10",
    best_epoch=2,
    epochs=3,
    valid_result={"hit@10": 0.5, "ndcg@10": 0.25},
    test_result={"hit@10": 0.125, "ndcg@10": 0.0625},
    device="cpu",
    wall_seconds=12.34,
)


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Calls of `run` and `evaluate`, which do nothing."""
    from recbole_diffusion import quick_start

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def record(name: str) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            calls.append((name, arguments, keywords))
            return RESULT

        return call

    monkeypatch.setattr(quick_start, "run", record("run"))
    monkeypatch.setattr(quick_start, "evaluate", record("evaluate"))
    return calls


# ---- parsing ----


def test_run_is_the_word_by_default_and_keys_take_two_spellings() -> None:
    parsed = parse(["--model=SASRec", "--dataset", "ml-100k", "--epochs=3", "--learning_rate", "1e-3", "--seed", "-1"])
    assert parsed.word == "run"
    assert parsed.options == {"model": "SASRec", "dataset": "ml-100k"}
    assert parsed.config == {"epochs": 3, "learning_rate": 0.001, "seed": -1}
    assert parsed.config.origin == COMMAND_LINE
    assert parse(["evaluate", "--checkpoint=x"]).word == "evaluate"


def test_values_keep_equal_signs_and_names_stay_text() -> None:
    parsed = parse(["--model=123", "--output=a=b", "--encoding=x=y", "--topk=[5, 10]", "--seq_len={words: 9}"])
    assert parsed.options == {"model": "123", "output": "a=b"}
    assert parsed.config == {"encoding": "x=y", "topk": [5, 10], "seq_len": {"words": 9}}


def test_values_are_never_evaluated() -> None:
    parsed = parse(["--learning_rate=__import__('os').system('exit 1')", "--seed=1+1"])
    assert parsed.config == {"learning_rate": "__import__('os').system('exit 1')", "seed": "1+1"}


def test_the_programs_own_keys_may_have_hyphens() -> None:
    parsed = parse(["--data-path=x", "--list-models"])
    assert parsed.options == {"data_path": "x"}
    assert parsed.flags == {"list_models"}


def test_the_same_value_twice_is_one_value() -> None:
    assert parse(["--epochs=3", "--epochs=3"]).config == {"epochs": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs=3", "--epochs=4"], "--epochs is given twice, as '3' and as '4'"),
        (["--model=A", "--model", "B"], "--model is given twice"),
        (["--use_gpu"], r"--use_gpu needs a value: --use_gpu=\.\.\."),
        (["--use_gpu", "--epochs=3"], "--use_gpu needs a value"),
        (["--epochs=3", "stray"], "cannot read 'stray'"),
        (["-e", "3"], "cannot read '-e'"),
        (["--"], "cannot read '--'"),
        (["--=3"], "cannot read '--=3'"),
        (["prepare", "--inputs=x"], r"unknown key 'inputs' of prepare; did you mean 'input'\?"),
        (["prepare", "--epochs=3"], "unknown key 'epochs' of prepare; see --help"),
        (["prepare", "--overwrite=maybe"], "--overwrite is a switch: .* got 'maybe'"),
        (["--help=me"], "--help takes no value"),
        (["evalute"], r"unknown word 'evalute'; did you mean 'evaluate'\?"),
        (["xyz"], "unknown word 'xyz'; words: run, evaluate, prepare, tune"),
    ],
)
def test_what_cannot_be_parsed(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(arguments)


# ---- words ----


def test_run_gets_what_was_given(called: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b c.yaml"
    for path in (first, second):
        path.write_text("epochs: 1\n", encoding="utf-8")
    files = f"--config_files={first.as_posix()} '{second.as_posix()}'"
    assert (
        main(
            ["--model=SASRec", "--dataset=small", files, "--preset=paper", "--data_path=d", "--output=o", "--epochs=2"]
        )
        == 0
    )
    ((word, arguments, keywords),) = called
    assert word == "run"
    assert arguments == ("SASRec", "small", {"epochs": 2})
    assert arguments[2].origin == COMMAND_LINE
    assert keywords == {
        "config_files": [first.as_posix(), second.as_posix()],
        "preset": "paper",
        "data_path": "d",
        "output": "o",
        "resume": None,
    }
    assert "0.062500" in capsys.readouterr().out


def test_resume_needs_no_model(called: list[Any]) -> None:
    assert main(["--resume=runs/x"]) == 0
    assert called[0][1] == (None, None, {})
    assert called[0][2]["resume"] == "runs/x"


def test_evaluate_gets_its_checkpoint(called: list[Any]) -> None:
    assert main(["evaluate", "--checkpoint=runs/x", "--reverse_steps=4"]) == 0
    assert called == [("evaluate", ("runs/x", {"reverse_steps": 4}), {"data_path": None, "output": "runs"})]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate"], "evaluate needs --checkpoint"),
        (["evaluate", "--checkpoint=x", "--model=SASRec"], "--model does not go with 'evaluate', only with run"),
        (["--checkpoint=x"], "--checkpoint does not go with 'run', only with evaluate"),
        (["--model=", "--dataset=small"], "--model is empty"),
        (["--model=SASRec", "--dataset=small", "--config_files=nowhere.yaml"], "no configuration file nowhere.yaml"),
        (["--model=SASRec", "--dataset=small", "--config_files='a"], "cannot read --config_files"),
        (["tune", "--model=SASRec"], "tune needs --tune=FILE, such as --tune=hyper/DiffuRec.yaml"),
        (["--tune=absent.yaml"], "no search space file absent.yaml"),
        (["benchmark"], "benchmark needs the FILE of a suite, such as benchmarks/suites/quick.yaml"),
        (["recommend"], "recommend needs --checkpoint"),
        (["export"], "export needs --checkpoint=RUN_FOLDER"),
        (["serve"], "serve needs --checkpoint=RUN_FOLDER"),
        (["prepare"], "prepare needs --input=FILE"),
        (["prepare", "--input=x.csv"], "prepare needs --dataset=NAME"),
        (["prepare", "--input=x.csv", "--dataset=x", "--user="], "--user is empty; it takes COLUMN of users"),
        (["prepare", "--input=nowhere.csv", "--dataset=x"], "no file nowhere.csv"),
        (["prepare", "--input=x.csv", "--dataset=x", "--skip_lines=two"], "--skip_lines is 'two'; it must be a number"),
        (
            ["prepare", "--input=x.csv", "--dataset=x", "--show_progress=1"],
            "--show_progress is '1'; it must be True or",
        ),
        (["prepare", "--input=x.csv", "--dataset=x", "--keep=a,,b"], "--keep=a,,b: a name is empty"),
        (["prepare", "--input=x.csv", "--dataset=x", "--items_key=a"], "--items_key goes with --items=FILE"),
        (["prepare", "--input=x.csv", "--dataset=x", "--users_encoding=a"], "--users_encoding goes with --users=FILE"),
        (
            ["prepare", "--input=x.csv", "--dataset=x", "--items=x", "--items_skip_lines=two"],
            "--items_skip_lines is 'two'; it must be a number",
        ),
        (["--model=diffurec", "--help"], "did you mean 'DiffuRec'"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_exit_code_2(
    called: list[Any], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert called == []


def test_a_wrong_key_stops_before_a_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--model=SASRec", "--dataset=small", "--lerning_rate=1"]) == 2
    message = "error: unknown key 'lerning_rate' (command line); did you mean 'learning_rate'?\n"
    assert capsys.readouterr().err == message
    assert main(["--dataset=small"]) == 2
    assert "no model is given; set --model=..." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_diffusion import quick_start

    monkeypatch.setattr(quick_start, "run", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["--model=SASRec", "--dataset=small"])


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from recbole_diffusion import quick_start

    def interrupted(*arguments: Any, **keywords: Any) -> None:
        stop = KeyboardInterrupt()
        stop.run_folder = Path("runs/x")  # type: ignore[attr-defined]
        raise stop

    monkeypatch.setattr(quick_start, "run", interrupted)
    for called_as, command in (
        ("/usr/bin/recbole-diff", "recbole-diff"),
        ("run_recbole_diff.py", "python run_recbole_diff.py"),
        ("/x/recbole_diffusion/__main__.py", "python -m recbole_diffusion"),
    ):
        monkeypatch.setattr(sys, "argv", [called_as])
        assert main(["--model=SASRec", "--dataset=small"]) == 130
        assert capsys.readouterr().err == f"interrupted; go on with: {command} --resume=runs/x\n"


def test_recbole_absent_is_a_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command_line.compat.importlib.util, "find_spec", lambda name: None)
    assert main(["--model=SASRec", "--dataset=small"]) == 2
    assert "pip install --no-deps recbole==1.2.1" in capsys.readouterr().err


# ---- prepare ----


def test_prepare_says_what_it_did_and_what_to_run_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/recbole-diff"])
    Path("log.csv").write_text("who,what,when\nu1,i1,5\nu2,i1,6\nu1,,7\n", encoding="utf-8")
    keys = ["--dataset=mine", "--data-path=my data", "--user=who", "--item=what", "--time=when", "--bad_rows=drop"]
    assert main(["prepare", "--input=log.csv", *keys]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "2 interactions of 2 users with 1 items",
        "fields: user_id from who, item_id from what, timestamp from when",
        "times: 5 to 6",
        "left out: 1 (no what)",
        f"written: {Path('my data/mine/mine.inter')}",
        "filters: none; the papers keep users and items with 5 interactions or more: "
        "--user_inter_num_interval='[5,inf)' --item_inter_num_interval='[5,inf)'",
        "next: recbole-diff --model=DiffuRec --dataset=mine '--data_path=my data'",
    ]
    assert captured.err == "log.csv: left out: 1 row (no what), first log.csv:4: column 'what' is empty\n"
    assert main(["prepare", "--input=log.csv", *keys]) == 2
    assert "mine.inter is there already" in capsys.readouterr().err
    assert main(["prepare", "--input=log.csv", *keys, "--overwrite"]) == 0
    assert main(["prepare", "--input=log.csv", *keys, "--overwrite=False"]) == 2


def test_every_key_of_prepare_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_diffusion.data import prepare as preparing

    calls: list[dict[str, Any]] = []
    made = preparing.Prepared(tmp_path / "ml-1m", (), 1, 1, 1, {}, {}, "5 to 6", (), "recbole-diff --dataset=ml-1m")

    def record(input: str, dataset: str, **keywords: Any) -> Any:
        calls.append({"input": input, "dataset": dataset, **keywords})
        return made

    monkeypatch.setattr(preparing, "prepare", record)
    lists = {"keep", "columns", "items_keep", "items_columns", "users_keep", "users_columns"}
    skipped = dict.fromkeys(("skip_lines", "items_skip_lines", "users_skip_lines"), "2")
    own = {**skipped, "show_progress": "False", **dict.fromkeys(lists, 'a,"b,c":float')}
    keys = {key: own.get(key, f"{key} value") for key in prepare_command.OPTIONS}
    flags = [f"--{flag}" for flag in prepare_command.FLAGS]
    assert main(["prepare", *flags, *(f"--{key}={value}" for key, value in keys.items())]) == 0
    (call,) = calls
    names = ["a", "b,c:float"]
    for role in ("items", "users"):
        written = [f"{role}_{key} value" for key in ("separator", "quote", "encoding")]
        table = preparing.FeatureTable(f"{role} value", f"{role}_key value", names, names, *written, 2)
        assert call.pop(role) == table
    assert call.pop("keep") == call.pop("columns") == names
    assert (call.pop("skip_lines"), call.pop("show_progress")) == (2, False)
    assert call.pop("trim") is call.pop("overwrite") is True
    assert call == {key: f"{key} value" for key in call}
    assert (
        set(call)
        == set(keys) - {"skip_lines", "show_progress"} - {k for k in keys if k[:5] in ("items", "users")} - lists
    )


def test_prepare_names_the_filters_of_a_known_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.dat").write_text("1::2::5::978300760\n", encoding="utf-8")
    arguments = [f"--input={tmp_path / 'r.dat'}", "--dataset=ml-1m", f"--data_path={tmp_path / 'out'}"]
    assert main(["prepare", *arguments, "--columns=user,item,rating,time"]) == 0
    assert f"filters: those of {properties_directory() / 'dataset' / 'ml-1m.yaml'}\n" in capsys.readouterr().out


# ---- texts ----


def test_the_result_table() -> None:
    assert result_table(RESULT).splitlines() == [
        "",
        "         validation      test",
        "hit@10     0.500000  0.125000",
        "ndcg@10    0.250000  0.062500",
        "",
        "DiffuRec on small, best epoch 2 of 3 by NDCG@10, 12.3 s on cpu",
        "folder: " + str(Path("runs/DiffuRec-small-1")),
    ]


def test_help_has_every_word_every_key_of_the_program_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for expected in [*command_line.WORDS, *command_line.OPTIONS, *command_line.FLAGS, "examples:"]:
        assert expected in text
    assert main(["-h"]) == 0
    assert capsys.readouterr().out == text
    assert max(map(len, text.splitlines())) <= 120 + len(str(properties_directory()))


def test_help_of_one_word_has_its_keys_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: recbole-diff evaluate ")
    assert "--checkpoint" in text
    assert "--resume " not in text


def test_help_of_prepare_has_its_keys_and_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--help"]) == 0
    text = capsys.readouterr().out
    for key in [*prepare_command.OPTIONS, *prepare_command.FLAGS]:
        assert f"\n  --{key} " in text
    assert "--model" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_help_without_anything_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("usage: ")


@pytest.mark.parametrize(
    ("model", "line"),
    [("DiffuRec", "num_steps: 32 "), ("SASRec", "n_heads: 2 "), ("Random", "# none"), ("Pop", "# none")],
)
def test_help_with_a_model_has_its_keys_and_those_of_every_run(
    capsys: pytest.CaptureFixture[str], model: str, line: str
) -> None:
    assert main(["run", f"--model={model}", "--help"]) == 0
    text = capsys.readouterr().out
    assert f"\n{line}" in text
    assert "\ntopk: [5, 10, 20] " in text


def test_help_with_a_class_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = """
from dataclasses import dataclass
from recbole.model.sequential_recommender.sasrec import SASRec

@dataclass(frozen=True)
class Keys:
    width: int = 8

class OwnForHelp(SASRec):
    Options = Keys
"""
    (tmp_path / "own_for_help.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["--model=own_for_help:OwnForHelp", "--help"]) == 0
    text = capsys.readouterr().out
    assert "\nwidth: 8  # (" in text
    assert "\nn_heads: 2 " in text


def test_the_list_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list_models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "recbole_diffusion:"
    ours = lines[1 : 1 + len(OUR_MODELS)]
    assert [line.split()[0] for line in ours] == sorted(OUR_MODELS)
    for line in ours:
        row = OUR_MODELS[line.split()[0]]
        assert [part.strip() for part in line.split("  ") if part] == [row.name, row.paper, row.protocol, row.about]
        assert len(line) <= 150
    assert "  SASRec" in lines
    assert "package.module:Class" in lines[-1]


def test_the_version_by_all_three_entries() -> None:
    script = ROOT / "run_recbole_diff.py"
    entries = [["-m", "recbole_diffusion"], ["-c", "from recbole_diffusion.command_line import main; exit(main())"]]
    if script.is_file():  # a checkout, not an installed package
        entries.append([str(script)])
    for entry in entries:
        command = [sys.executable, *entry, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"recbole-diffusion {recbole_diffusion.__version__}\n"


def test_a_whole_run_leaves_its_folder_and_nothing_else(small_data: Path, tmp_path: Path) -> None:
    arguments = ["--model=Pop", "--dataset=small", f"--data_path={small_data}", "--epochs=1", "--use_gpu=False"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "recbole_diffusion", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    table = done.stdout.splitlines()
    assert table[1].split() == ["validation", "test"]
    assert table[2].split()[0] == "hit@5"
    assert all(0 <= float(number) <= 1 for number in table[2].split()[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert table[-1] == f"folder: {Path('runs') / folder.name}"


# ---- mistyped keys of a word ----


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["run", "--model=SASRecCE", "--dataset=small", "--ouput=x"], "output"),
        (["run", "--model=SASRecCE", "--dataset=small", "--epochz=3"], "epochs"),
        (["benchmark", "suite.yaml", "--max_concurent=2"], "max_concurrent"),
        (["tune", "--model=SASRecCE", "--dataset=small", "--tune=space.yaml", "--num_trails=2"], "num_trials"),
        (["analyse", "schedules", "--model=SASRecCE", "--dataset=small", "--max_concurent=2"], "max_concurrent"),
        (["analyse", "convergence", "--runs=x", "--ouput=2"], "output"),
        (["recommend", "--checkpoint=x", "--histories=x", "--output=x", "--top_kk=2"], "top_k"),
    ],
)
def test_the_hint_for_a_mistyped_key_may_be_one_of_the_words_own(
    words: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from recbole_diffusion.config import RunConfig

    def configure(*_: Any, config: Any, **__: Any) -> None:
        RunConfig("SASRecCE", "small", (), config)

    monkeypatch.setattr("recbole_diffusion.recommendation.batch.recommend_file", configure)  # a checkpoint takes long
    monkeypatch.chdir(tmp_path)
    (tmp_path / "suite.yaml").write_text("datasets: [small]\nmodels:\n  SASRecCE:\n", encoding="utf-8")
    (tmp_path / "space.yaml").write_text("learning_rate: {uniform: [0.1, 0.2]}\n", encoding="utf-8")
    assert main(words) == 2
    key = words[-1].partition("=")[0].removeprefix("--")
    said = capsys.readouterr().err.strip()
    assert said.startswith(f"error: unknown key '{key}' ") and said.endswith(f"; did you mean '{hint}'?")
