"""Mistakes that show only when data are read or a model is built: one line, exit code 2, and no folder left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion import quick_start
from recbole_diffusion.command_line import main
from recbole_diffusion.config import RunConfig
from recbole_diffusion.errors import UserError
from tests.smallest_run import SMALLEST

HEADER = "user_id:token\titem_id:token\ttimestamp:float\trating:float\tcity:token"
COLUMNS = "load_col={inter: [user_id, item_id, timestamp, rating, city]}"


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data path with one dataset, `rated`: 12 users, 8 items, ratings and cities."""
    folder = tmp_path_factory.mktemp("rated")
    (folder / "rated").mkdir()
    rows = [
        f"u{user}\ti{(user + step) % 8}\t{1000 + step}\t{1 + (user + step) % 5}\tc{user % 3}"
        for user in range(12)
        for step in range(6)
    ]
    (folder / "rated" / "rated.inter").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    items = [f"i{item}\t{item / 2}" for item in range(8)]
    (folder / "rated" / "rated.item").write_text("\n".join(["item_id:token\tprice:float", *items]) + "\n")
    return folder


def refusal(arguments: list[str], rated: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command line ends with, after a check that nothing else is left of the run."""
    common = ["--dataset=rated", f"--data_path={rated}", f"--output={output}", "--epochs=1", "--show_progress=False"]
    model = [] if any(argument.startswith("--model=") for argument in arguments) else ["--model=Pop"]
    if not any(argument.startswith("--metrics=") for argument in arguments):
        common += ["--topk=[5]", "--valid_metric=NDCG@5"]
    assert main([*model, *common, *arguments]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert captured.err.endswith(f"{lines[-1]}\n")
    assert captured.out == ""
    assert not output.exists()
    return lines[-1].removeprefix("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["val_interval={nothing: '[1,2]'}"], "val_interval names the column 'nothing' (command line), which is not"),
        (["val_interval={rating: '[1,2]'}"], "set load_col: {inter: [user_id, item_id, timestamp, rating]}"),
        ([COLUMNS, "val_interval={ratin: '[1,2]'}"], "(did you mean 'rating'?); change val_interval or load_col"),
        ([COLUMNS, "val_interval={rating: [1, 2]}"], "val_interval of 'rating', a column of type float, must be an"),
        ([COLUMNS, "val_interval={city: '[1,2]'}"], "val_interval of 'city', a column of type token, must be a list"),
        (["threshold={nothing: 3}"], "threshold names the column 'nothing'"),
        ([COLUMNS, "threshold={city: 3}"], "of type token; it takes columns of type float"),
        (["normalize_field=[nothing]"], "normalize_field names the column 'nothing'"),
        (["normalize_field=[timestamp]", "normalize_all=True"], "normalize_field: ['timestamp'] (command line)"),
        (["numerical_features=[nothing]"], "numerical_features names the column 'nothing'"),
        (["alias_of_item_id=[nothing]"], "alias_of_item_id names the column 'nothing'"),
        (["preload_weight={item_id: nothing}"], "preload_weight names the column 'nothing'"),
        (
            [
                "load_col={inter: [user_id, item_id, timestamp, city], item: [item_id, price]}",
                "preload_weight={city: price}",
            ],
            "columns of different files",
        ),
        (["additional_feat_suffix=[nothing]"], "rated.nothing: no such file, which additional_feat_suffix names"),
        (["additional_feat_suffix=[item]"], "additional_feat_suffix names 'item' (command line), which is read anyway"),
        (["load_col={item: [item_id]}"], "load_col must be a mapping of files to lists of columns"),
        (["seq_len={nothing: 3}"], "seq_len names the column 'nothing' (command line), which is not among the loaded"),
        ([COLUMNS, "seq_len={city: 3}"], "of type token; it takes columns of type token_seq or float_seq"),
        (["unused_col={inter: [nothing]}"], "unused_col names the column 'nothing' (command line)"),
        (["unused_col={kg: [timestamp]}"], "unused_col names columns of 'kg' (command line), and read are inter"),
        (["seq_len={timestamp: many}"], "seq_len must be a mapping of columns to integers of at least 1"),
        (["unused_col={inter: [item_id]}"], "unused_col must be a mapping without 'item_id' in 'inter'"),
        (["USER_ID_FIELD=item_id"], "ITEM_ID_FIELD must be another column than USER_ID_FIELD"),
        (["--model=BPR", "eval_args={split: {RS: [0.8, 0.2]}, order: RO}"], "three shares of training, validation and"),
        (["--model=BPR", "learner=sparse_adam"], "learner is sparse_adam, which trains embeddings with sparse"),
        (["eval_args={mode: labeled}", "metrics=[AUC]", "valid_metric=AUC"], "the interactions have no column 'label'"),
    ],
    ids=lambda value: value[-1].partition("=")[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line_and_leaves_no_folder(
    arguments: list[str], message: str, rated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [argument if argument.startswith("--") else f"--{argument}" for argument in arguments]
    assert message in refusal(words, rated, tmp_path / "runs", capsys)


def settings(rated: Path, **keys: Any) -> dict[str, Any]:
    return {"data_path": str(rated), "use_gpu": False, "show_progress": False, "epochs": 1, "worker": 0, **keys}


def test_a_bug_keeps_its_traceback_and_leaves_no_folder(
    rated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole_diffusion.data import reading

    def broken(*_: Any) -> None:
        raise KeyError("a bug of this package")

    monkeypatch.setattr(reading, "check_named_columns", broken)
    with pytest.raises(KeyError, match="a bug of this package"):
        quick_start.run("Pop", "rated", settings(rated, cache=False), output=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_labels_by_threshold_and_filters_of_both_kinds_are_no_mistake(rated: Path, tmp_path: Path) -> None:
    columns = {"inter": ["user_id", "item_id", "timestamp", "rating", "city"]}
    keys: dict[str, Any] = {"load_col": columns, "threshold": {"rating": 3}, "topk": [5]}
    keys.update(metrics=["AUC"], valid_metric="AUC")
    keys["val_interval"] = {"city": ["c0", "c1"], "timestamp": "[1000,1001];(1001,inf)"}
    result = quick_start.run(
        "Pop", "rated", settings(rated, **keys, eval_args={"mode": "labeled"}), output=tmp_path / "runs"
    )
    assert set(result.test_result) == {"auc"}


def test_the_mode_of_one_split_leaves_the_test_of_a_run_and_of_its_evaluation(rated: Path, tmp_path: Path) -> None:
    keys = settings(rated, topk=[1], valid_metric="NDCG@1")
    plain = quick_start.run("Pop", "rated", keys, output=tmp_path / "runs")
    one = {**keys, "eval_args": {"mode": {"valid": "uni1"}}}
    sampled = quick_start.run("Pop", "rated", one, output=tmp_path / "runs")
    again = quick_start.evaluate(
        plain.folder, {"eval_args": {"mode": {"valid": "uni1"}}, "show_progress": False}, output=tmp_path / "runs"
    )
    assert sampled.test_result == again.test_result == plain.test_result
    assert sampled.valid_result != plain.valid_result and again.valid_result != plain.valid_result


@pytest.mark.parametrize("text", ["model: gpt\nlayers: 3\n", "layers: 3\n", "model: {name: x}\ndataset: y\n", ""])
def test_the_folder_of_another_program_is_not_resumed(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml is not the configuration of a run of this program: it has no"):
        quick_start.run(resume=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("model", "keys", "message"),
    [
        ("SASRec", {"transform": "mask_itemseq"}, "transform must be given with mask_ratio, a number above 0"),
        ("SASRec", {"transform": "crop_itemseq"}, "transform must be given with eta, a number above 0"),
        ("SASRec", {"transform": "reorder_itemseq"}, "transform must be given with beta, a number of at least 0"),
        ("SASRec", {"transform": "crop_itemseq", "eta": 2}, "eta must be a number above 0 and at most 1, got 2"),
        ("SASRec", {"transform": "mask_itemseq", "mask_ratio": 0.01}, "mask_ratio must be large enough"),
        (
            "BERT4Rec",
            {"MAX_ITEM_LIST_LENGTH": 4},
            "MAX_ITEM_LIST_LENGTH must be large enough that mask_ratio * MAX_ITEM_LIST_LENGTH, here 0.8, is 1, got 4",
        ),
        ("SASRec", {"transform": "user_defined"}, "transform must be one of mask_itemseq, inverse_itemseq"),
        ("BPR", {"transform": "inverse_itemseq"}, "transform must be ~ for a model that is not sequential"),
        ("BPR", {"train_neg_sample_args": {"dynamic": True}}, "'candidate_num' is an integer of at least 1 where"),
        ("BPR", {"train_neg_sample_args": {"alpha": "x"}}, "'alpha' is a number, got"),
        ("BPR", {"train_neg_sample_args": {"sample_num": 0}}, "'sample_num' is an integer of at least 1, got"),
        ("BPR", {"clip_grad_norm": {"max_norm": 1, "norm_type": "foo"}}, "'norm_type' is a number above 0 or .inf"),
        ("BPR", {"clip_grad_norm": {"norm_type": 2}}, "clip_grad_norm must be a mapping such as {max_norm: 1.0}"),
        ("BPR", {"tail_ratio": "abc"}, "tail_ratio must be a number above 0 or ~, got 'abc'"),
        ("BPR", {"eval_args": {"split": {"RS": [0, 1, 1]}}}, "three shares of training, validation and test"),
        ("BPR", {"val_interval": {"timestamp": ">1300000000"}}, "'timestamp' is an interval of numbers such as"),
        ("BPR", {"val_interval": {"timestamp": 3}}, "got {'timestamp': 3} (configuration dict)"),
        ("BPR", {"val_interval": {"timestamp": "[3,inf"}}, "val_interval must be a mapping whose 'timestamp' is"),
        ("BPR", {"val_interval": {"timestamp": "[0,1];[5,4]"}}, "val_interval must be a mapping whose 'timestamp' is"),
        ("BPR", {"threshold": {"rating": "x"}}, "threshold must be a mapping of one column to a number"),
        ("BPR", {"threshold": {"rating": 3, "price": 2}}, "threshold must be a mapping of one column to a number"),
        ("BPR", {"load_col": {"inter": "user_id"}}, "load_col must be a mapping of files to lists of columns"),
    ],
)  # fmt: skip
def test_what_can_be_said_of_a_value_is_said_before_anything_is_read(
    model: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig(model, "small", (), keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"train_neg_sample_args": {"distribution": "popularity", "alpha": 0.5}},
        {"train_neg_sample_args": {"dynamic": True, "candidate_num": 2}},
        {"clip_grad_norm": {"max_norm": 1, "norm_type": float("inf")}},
        {"val_interval": {"timestamp": "[0,1]; (3,inf)", "city": ["a"]}},
        {"load_col": {"inter": "*"}},
    ],
    ids=json.dumps,
)
def test_values_that_are_no_mistake(keys: dict[str, Any]) -> None:
    RunConfig("BPR", "small", (), keys)


def test_what_recbole_warns_of_is_said_again_from_the_cache(
    rated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    smallest = {**SMALLEST, "topk": [5], "valid_metric": "NDCG@5"}
    keys = settings(rated, normalize_field=["item_id"], cache_dir=str(tmp_path / "cache"), **smallest)
    for _ in range(2):
        caplog.clear()
        quick_start.run("SASRec", "rated", keys, output=tmp_path / "runs")
        assert "item_id is not a FLOAT/FLOAT_SEQ feat" in caplog.text
    assert "prepared data from the cache" in caplog.text
