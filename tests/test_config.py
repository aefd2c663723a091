"""Run configurations: order of the layers, refused keys and values, a model's options, and what is never touched."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Optional, Union

import numpy as np
import pytest
import torch
import yaml

from recbole_diffusion import config as config_module
from recbole_diffusion.config import COMMAND_LINE, Overrides, RunConfig, model_options
from recbole_diffusion.config_files import parse_value, read_yaml
from recbole_diffusion.config_keys import (
    COMPUTED_KEYS,
    DECISION_TREE_KEYS,
    KEYS_WITHOUT_EFFECT,
    TRANSFORM_KEYS,
    keys_read_by,
)
from recbole_diffusion.config_values import CHECKS
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import OUR_MODEL_NAMES, our_models, properties_directory, recbole_directory


def sasrec(**overrides: Any) -> RunConfig:
    return RunConfig("SASRec", "small", (), overrides)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def to_file(text: str, name: str = "keys.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


# ---- files ----


def test_scientific_numbers_are_numbers_and_what_looks_like_a_time_is_text(write: Callable[..., Path]) -> None:
    path = write(
        "a: 1e-3\nb: 1E5\nc: .5\nd: 2.\ne: -1.5e+2\nf: 1_000\ng: 010\nh: 0x1f\ni: 12:30\nj: 2024-01-02\n"
        "k: .inf\nl: [1e-2, x]\nm: ~\nn: yes\no: 1e\np: 0\n"
    )
    values = read_yaml(path).values
    inf = values.pop("k")
    assert inf == math.inf
    assert values == {
        "a": 0.001, "b": 1e5, "c": 0.5, "d": 2.0, "e": -150.0, "f": 1000, "g": "010", "h": "0x1f", "i": "12:30",
        "j": "2024-01-02", "l": [0.01, "x"], "m": None, "n": True, "o": "1e", "p": 0,
    }  # fmt: skip
    assert isinstance(values["b"], float)


@pytest.mark.parametrize("path", sorted((recbole_directory() / "properties").rglob("*.yaml")), ids=lambda p: p.stem)
def test_recboles_files_read_as_recbole_reads_them(path: Path) -> None:
    from recbole.config import Config

    loader = Config._build_yaml_loader(None)
    expected = yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}  # noqa: S506 (RecBole's own files)
    assert read_yaml(path).values == expected


def test_every_key_knows_its_line(write: Callable[..., Path]) -> None:
    path = write("# a comment\nepochs: 3\n\nclip_grad_norm:\n  max_norm: 1.0\ntopk: 5\n")
    assert read_yaml(path).origins == {"epochs": f"{path}:2", "clip_grad_norm": f"{path}:4", "topk": f"{path}:6"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", r"keys\.yaml:3: not valid YAML"),
        ("a: 1\n\tb: 2\n", r"keys\.yaml:2: not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", r"keys\.yaml:3: .*key 'a' is given twice, also in line 1"),
        ("a:\n  x: 1\n  x: 2\n", r"keys\.yaml:3: .*key 'x' is given twice"),
        ("- a\n- b\n", r"keys\.yaml:1: .*this is a list"),
        ("\njust words\n", r"keys\.yaml:2: .*this is text"),
        ("1: 2\n", r"keys\.yaml:1: a key is a name, not '1'"),
        ("a: !!python/object/apply:os.getcwd []\n", r"keys\.yaml:1: not valid YAML: could not determine a constructor"),
        ("a: 1\nb: \x07\n", r"keys\.yaml:2: a character that YAML does not allow"),
        ("a: 1\n---\nb: 2\n", r"keys\.yaml:2: not valid YAML"),
    ],
)
def test_a_broken_file_names_its_line(write: Callable[..., Path], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_yaml(write(text))


def test_an_absent_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no configuration file .*nowhere\.yaml"):
        read_yaml(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(UserError, match=r"binary\.yaml: .*UTF-8; byte 3"):
        read_yaml(tmp_path / "binary.yaml")
    with pytest.raises(UserError, match="cannot read the configuration file"):
        read_yaml(tmp_path)


def test_an_empty_file_and_a_byte_order_mark_are_no_mistake(write: Callable[..., Path]) -> None:
    assert read_yaml(write("# nothing\n")).values == {}
    assert read_yaml(write("\ufeffepochs: 2\n")).values == {"epochs": 2}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("[5, 10]", [5, 10]),
        ("True", True),
        ("None", None),
        ("~", None),
        ("", None),
        ("{'split': {'LS': 'valid_and_test'}, 'order': 'TO'}", {"split": {"LS": "valid_and_test"}, "order": "TO"}),
        ("[5,inf)", "[5,inf)"),
        ("[5", "[5"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        (" ", " "),
        ("\t", "\t"),
        ("NDCG@10", "NDCG@10"),
        ("@x", "@x"),
    ],
)
def test_command_line_values_are_safe_yaml(text: str, value: Any) -> None:
    assert parse_value(text) == value


# ---- layers ----


def test_the_order_of_the_layers(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = tmp_path / "properties"
    (ours / "model").mkdir(parents=True)
    (ours / "dataset").mkdir()
    overall = (properties_directory() / "overall.yaml").read_text(encoding="utf-8")
    (ours / "overall.yaml").write_text(overall + "loss_decimal_place: 1\nhidden_size: 1\nseed: 1\n", encoding="utf-8")
    (ours / "dataset" / "small.yaml").write_text("seed: 2\nstopping_step: 2\neval_step: 2\nweight_decay: 0.2\n")
    monkeypatch.setattr(config_module, "properties_directory", lambda: ours)
    first = write("stopping_step: 3\neval_step: 3\nweight_decay: 0.3\n", "first.yaml")
    second = write("eval_step: 4\nweight_decay: 0.4\n", "second.yaml")
    config = RunConfig("SASRec", "small", [first, second], {"weight_decay": 0.5})
    assert config["learner"] == "adam"  # RecBole's overall.yaml
    assert config["loss_decimal_place"] == 1  # our overall.yaml over RecBole's 4
    assert config["hidden_size"] == 64  # the model's file over our overall.yaml
    assert config["seed"] == 2  # the dataset's file over our overall.yaml
    assert config["stopping_step"] == 3  # a configuration file over the dataset's
    assert config["eval_step"] == 4  # a later file over an earlier one
    assert config["weight_decay"] == 0.5  # an override over all files
    assert config.origin("eval_step") == f"{second}:1"
    assert config.origin("weight_decay") == "configuration dict"
    assert config.is_given("eval_step")
    assert not config.is_given("seed")


def test_the_protocol_is_the_same_for_all_models() -> None:
    for model in ("DiffuRec", "SASRec", "BERT4Rec", "Pop", "MultiVAE", "DiffRec", "LDiffRec", "LightGCN"):
        config = RunConfig(model, "small")
        assert config["eval_args"] == {
            "split": {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": "user",
            "mode": {"valid": "full", "test": "full"},
        }
        assert config["repeatable"] is True
        assert (config["metrics"], config["topk"], config["valid_metric"]) == (["Hit", "NDCG"], [5, 10, 20], "NDCG@10")
        assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}


def test_models_that_predict_labels_keep_recboles_protocol() -> None:
    config = RunConfig("AutoInt", "small")
    assert (config["metrics"], config["valid_metric"]) == (["AUC", "LogLoss"], "AUC")
    assert config["eval_args"]["mode"] == {"valid": "labeled", "test": "labeled"}


def test_a_part_of_eval_args_keeps_the_other_parts() -> None:
    config = sasrec(eval_args={"mode": "uni100"})
    assert config["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert config["eval_args"]["order"] == "TO"
    assert config["valid_neg_sample_args"] == {"distribution": "uniform", "sample_num": 100}


@pytest.mark.parametrize(
    ("mode", "both"),
    [
        ({"valid": "uni10"}, {"valid": "uni10", "test": "full"}),
        ({"test": "pop100"}, {"valid": "full", "test": "pop100"}),
        ("uni10", {"valid": "uni10", "test": "uni10"}),
    ],
)
def test_the_mode_of_one_split_leaves_the_other_splits(mode: Any, both: dict[str, str]) -> None:
    assert sasrec(eval_args={"mode": mode})["eval_args"]["mode"] == both
    labels = RunConfig("AutoInt", "small", (), {"eval_args": {"mode": {"valid": "uni10"}}})
    assert labels["eval_args"]["mode"] == {"valid": "uni10", "test": "labeled"}  # RecBole's file has one word for both


def test_columns_follow_renamed_fields_and_files_split_beforehand() -> None:
    renamed = sasrec(USER_ID_FIELD="session", TIME_FIELD="t")
    assert renamed["load_col"] == {"inter": ["session", "item_id", "t"]}
    assert sasrec(benchmark_filename=["train", "valid", "test"])["load_col"] is None
    given = sasrec(USER_ID_FIELD="session", load_col={"inter": ["session", "item_id"]})
    assert given["load_col"] == {"inter": ["session", "item_id"]}


def test_cross_entropy_samples_no_negatives_unless_asked_to() -> None:
    assert sasrec()["train_neg_sample_args"]["distribution"] == "none"
    assert sasrec(train_neg_sample_args=None)["train_neg_sample_args"]["distribution"] == "none"
    assert sasrec(loss_type="BPR")["train_neg_sample_args"]["distribution"] == "uniform"
    assert RunConfig("LightGCN", "small")["train_neg_sample_args"]["distribution"] == "uniform"
    assert RunConfig("DiffuRec", "small")["train_neg_sample_args"]["distribution"] == "none"
    with pytest.raises(UserError, match="train_neg_sample_args must be ~ when loss_type is CE"):
        sasrec(train_neg_sample_args={"distribution": "uniform"})


def test_model_and_dataset_may_stand_in_a_file(write: Callable[..., Path]) -> None:
    path = write("model: SASRec\ndataset: small\nepochs: 4\n")
    config = RunConfig(config_files=[path])
    assert (config["model"], config["dataset"], config["epochs"]) == ("SASRec", "small", 4)
    assert RunConfig("GRU4Rec", config_files=[path])["model"] == "GRU4Rec"
    with pytest.raises(UserError, match="no dataset is given; set --dataset"):
        RunConfig("SASRec")


def test_ml_100k_is_recboles_own_copy_unless_a_folder_is_given() -> None:
    embedded = Path(RunConfig("SASRec", "ml-100k")["data_path"])
    assert (embedded / "ml-100k.inter").is_file()
    assert Path(RunConfig("SASRec", "ml-100k", (), {"data_path": "mine"})["data_path"]) == Path("mine/ml-100k")
    assert Path(RunConfig("SASRec", "small", (), {"data_path": Path("mine")})["data_path"]) == Path("mine/small")


# ---- what is never touched ----


def test_arguments_environment_and_recboles_lists_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.utils import dataset_arguments

    before = list(dataset_arguments)
    monkeypatch.setattr(sys, "argv", ["pytest", "--epochs=9", "--learning_rate=__import__('os')"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    environment = dict(os.environ)
    overrides = {"eval_args": {"mode": "full"}, "topk": [3], "valid_metric": "NDCG@3"}
    given = json.loads(json.dumps(overrides))
    config = RunConfig("SASRec", "ml-100k", (), overrides)
    assert config["epochs"] == 300
    assert dict(os.environ) == environment
    assert overrides == given
    assert dataset_arguments == before
    assert "tag:yaml.org,2002:int" in {
        tag for rules in yaml.SafeLoader.yaml_implicit_resolvers.values() for tag, _ in rules
    }


def test_text_is_not_evaluated() -> None:
    with pytest.raises(UserError, match="epochs must be an integer"):
        sasrec(epochs="1 + 1")


# ---- devices ----


def test_the_device_is_the_cpu_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert sasrec(gpu_id=7)["device"] == torch.device("cpu")


@pytest.mark.parametrize(
    ("keys", "device"),
    [
        ({}, "cuda:0"),
        ({"gpu_id": 1}, "cuda:1"),
        ({"gpu_id": "1,0"}, "cuda:1"),
        ({"gpu_id": [1]}, "cuda:1"),
        ({"use_gpu": False}, "cpu"),
        ({"gpu_id": None}, "cpu"),
    ],
)
def test_the_device_among_two_gpus(monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert sasrec(**keys)["device"] == torch.device(device)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="gpu_id must be below 2"):
        sasrec(gpu_id=2)


# ---- unknown keys ----


def test_an_unknown_key_is_refused_wherever_it_stands(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("epochs: 3\nlerning_rate: 0.1\n")
    hint = r"; did you mean 'learning_rate'\?"
    with pytest.raises(UserError, match=rf"unknown key 'lerning_rate' \({path}:2\){hint}"):
        RunConfig("SASRec", "small", [path])
    with pytest.raises(UserError, match=rf"unknown key 'lerning_rate' \(configuration dict\){hint}"):
        sasrec(lerning_rate=1)
    with pytest.raises(UserError, match=rf"unknown key 'lerning_rate' \(command line\){hint}"):
        RunConfig("SASRec", "small", (), Overrides({"lerning_rate": 1}, origin=COMMAND_LINE))


@pytest.mark.parametrize(
    ("model", "key", "message"),
    [
        ("SASRec", "Epochs", "unknown key 'Epochs' .*did you mean 'epochs'"),
        ("SASRec", "max_item_list_length", "did you mean 'MAX_ITEM_LIST_LENGTH'"),
        ("SASRec", "qqqq", "neither RecBole nor the model SASRec reads it"),
        ("SASRec", "mask_ratio", "is read by BERT4Rec, S3Rec, not by SASRec"),
        ("SASRec", "num_layers", "not by SASRec; its nearest key is 'n_layers'"),
        ("SASRec", "embedding_size", "is read by .* and others, not by SASRec"),
        ("SASRec", "num_steps", "is read by .*DiffuRec.* and others, not by SASRec"),
        ("DiffuRec", "num_step", "did you mean 'num_steps'"),
        ("Pop", "loss_type", "not by Pop"),
    ],
)
def test_nearest_names_and_keys_of_other_models(model: str, key: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunConfig(model, "small", (), {key: 1})


@pytest.mark.parametrize("key", sorted(COMPUTED_KEYS))
def test_what_is_worked_out_cannot_be_set(key: str) -> None:
    with pytest.raises(UserError, match=rf"key '{key}' \(configuration dict\) cannot be set: \w+"):
        sasrec(**{key: "x"})


def test_a_key_must_be_a_name() -> None:
    with pytest.raises(UserError, match="a key must be a name, got 3"):
        RunConfig("SASRec", "small", (), {3: 1})  # type: ignore[dict-item]


def test_config_files_is_a_list() -> None:
    with pytest.raises(UserError, match=r"config_files must be a list of files, got 'a\.yaml'"):
        RunConfig("SASRec", "small", "a.yaml")


def test_keys_that_recbole_or_the_model_read_without_a_default_are_known() -> None:
    assert sasrec(encoding="latin-1")["encoding"] == "latin-1"
    assert sasrec(metrics=["TailPercentage"], valid_metric="TailPercentage@5", tail_ratio=0.2)["tail_ratio"] == 0.2
    assert RunConfig("FEARec", "small", (), {"sim": "dot"})["sim"] == "dot"
    assert sasrec(transform="crop_itemseq", eta=0.5)["eta"] == 0.5
    with pytest.raises(UserError, match="key 'eta'"):
        sasrec(eta=0.5)


def test_the_table_has_every_key_that_recboles_shared_code_reads() -> None:
    """A key read outside the models must be settable, or be listed as worked out or as some models' own."""
    root = recbole_directory()
    models = {key for path in (root / "properties" / "model").glob("*.yaml") for key in read_yaml(path).values}
    known = sasrec().known_keys() | set(COMPUTED_KEYS) | models | set(DECISION_TREE_KEYS)
    known |= {key for keys in TRANSFORM_KEYS.values() for key in keys}
    # read by ContextRecommender alone, whose models have them in their files or set them
    known |= {"double_tower", "embedding_size"}
    missing: dict[str, set[str]] = {}
    scanned = 0
    for path in root.rglob("*.py"):
        relative = path.relative_to(root)
        if relative.parts[0] != "model" or len(relative.parts) == 2:
            scanned += 1
            unknown = keys_read_by(path.read_text(encoding="utf-8")) - known
            if unknown:
                missing[str(relative)] = unknown
    assert scanned > 30
    assert missing == {}


def test_every_key_with_a_check_is_a_key() -> None:
    known = sasrec().known_keys()
    assert set(CHECKS) - known == set()


def test_reading_keys_out_of_source() -> None:
    source = """
class Model:
    def __init__(self, config, dataset):
        self.a = config["a"]
        self.b = self.config.get("b", 3)
        if "c" in config and "not_me" in dataset:
            self.c = dataset.config["c2"]
        config["f"], other["g"] = 1, 2
        self.d = config[name]
        config.update({"h": 1})
"""
    assert keys_read_by(source) == {"a", "b", "c", "c2", "f"}


# ---- values ----


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning_rate", "abc"), ("learning_rate", 0), ("learning_rate", -1.0), ("learning_rate", True),
        ("learning_rate", None), ("learning_rate", math.nan), ("learning_rate", math.inf),
        ("epochs", -1), ("epochs", 0),
        ("epochs", 1.5), ("epochs", True), ("epochs", "3"), ("train_batch_size", 0), ("eval_batch_size", 0),
        ("topk", 0), ("topk", [5, 0]), ("topk", []), ("topk", "[5"), ("topk", [5.0]), ("topk", True),
        ("MAX_ITEM_LIST_LENGTH", 0), ("metrics", ["Hits"]), ("metrics", []), ("metrics", 3), ("valid_metric", "MRR@10"),
        ("valid_metric", "NDCG@7"), ("valid_metric", "NDCG"), ("valid_metric", None), ("loss_type", "MSE"),
        ("loss_type", None), ("learner", "adamm"), ("scheduler", "cosine"), ("scheduler_gamma", 0),
        ("scheduler_gamma", 1.1), ("scheduler_step_size", 0), ("precision", "fp8"), ("time_precision", "float64"),
        ("use_gpu", 1), ("use_gpu", "yes please"), ("show_progress", "on"), ("gpu_id", "first"), ("gpu_id", True),
        ("seed", -1), ("seed", 2**32), ("eval_seed", "x"), ("num_threads", 0), ("state", "LOUD"),
        ("user_inter_num_interval", "[5,x)"), ("user_inter_num_interval", "5"), ("item_inter_num_interval", "[9,5)"),
        ("eval_args", "full"), ("eval_args", {"ordr": "TO"}), ("eval_args", {"order": "XO"}),
        ("eval_args", {"mode": "foo"}), ("eval_args", {"mode": {"valid": "uni1x"}}), ("eval_args", {"mode": "uni0"}),
        ("eval_args", {"split": {"LSS": "x"}}), ("eval_args", {"split": {"LS": "x"}}), ("eval_args", {"split": {}}),
        ("eval_args", {"split": {"RS": "x"}}), ("eval_args", {"group_by": "items"}),
        ("train_neg_sample_args", "uniform"), ("train_neg_sample_args", {"distribution": "gaussian"}),
        ("train_neg_sample_args", {"number": 3}), ("clip_grad_norm", 1.0), ("clip_grad_norm", {"max_norm": 0}),
        ("clip_grad_norm", {"norm": 1}), ("load_col", ["user_id"]), ("rm_dup_inter", "middle"), ("transform", "crop"),
        ("n_layers", "x"), ("n_layers", True), ("hidden_act", 3), ("hidden_dropout_prob", "x"), ("data_path", 3),
        ("checkpoint_dir", "x"), ("loss_decimal_place", 2), ("enable_scaler", True),
        ("save_dataset", True),
        ("dataloaders_save_path", "x.pth"), ("valid_metric_bigger", False), ("worker", -1),
    ],
)  # fmt: skip
def test_a_wrong_value_names_the_key_the_value_and_its_origin(key: str, value: Any) -> None:
    with pytest.raises(UserError) as caught:
        sasrec(**{key: value})
    message = str(caught.value)
    assert message.startswith(f"{key} must be ")
    assert "\n" not in message
    assert "(configuration dict)" in message
    assert repr(value) in message


def test_keys_without_effect_may_have_their_defaults_alone(write: Callable[..., Path]) -> None:
    defaults = {key: sasrec()[key] for key in KEYS_WITHOUT_EFFECT}
    assert {key: sasrec(**defaults)[key] for key in KEYS_WITHOUT_EFFECT} == defaults
    path = write("epochs: 3\nenable_scaler: True\n")
    with pytest.raises(UserError, match=rf"left at False, .*: precision: .*, got True \({path}:2\)"):
        RunConfig("SASRec", "small", [path])


def test_an_error_about_a_file_has_its_line(write: Callable[..., Path]) -> None:
    path = write("topk: 5\nepochs: many\n")
    with pytest.raises(UserError, match=rf"epochs must be an integer of at least 1, got 'many' \({path}:2\)"):
        RunConfig("SASRec", "small", [path])


def test_what_recbole_itself_refuses_is_the_persons_mistake_too() -> None:
    with pytest.raises(UserError, match=r"RecBole refuses this configuration: Sequential models .* repeatable"):
        sasrec(repeatable=False)
    with pytest.raises(UserError, match="RecBole refuses this configuration: Ranking metrics and value metrics"):
        sasrec(metrics=["NDCG", "AUC"])


@pytest.mark.parametrize("dataset", ["", "a/b", "../small", 3])
def test_a_dataset_is_the_name_of_a_folder(dataset: Any) -> None:
    with pytest.raises(UserError, match=r"dataset must be the name of a folder"):
        RunConfig("SASRec", dataset)


def test_values_in_their_usual_spellings_pass() -> None:
    config = sasrec(
        metrics="NDCG", topk=10, valid_metric="ndcg@10", learner="AdamW", learning_rate=1, weight_decay=0,
        state="warning", user_inter_num_interval="[5,inf)", item_inter_num_interval=[5, 100], scheduler="none",
        clip_grad_norm={"max_norm": 5}, gpu_id=0, eval_args={"mode": {"test": "pop100"}}, seed=np.int64(3),
        hidden_size=np.float64(32.0), rm_dup_inter="last", eval_seed=None, train_neg_sample_args="None",
    )  # fmt: skip
    assert (config["metrics"], config["topk"]) == (["NDCG"], [10])
    assert (config["user_inter_num_interval"], config["item_inter_num_interval"]) == ("[5,inf)", "[5,100]")
    assert config["scheduler"] is None
    assert config["eval_args"]["mode"] == {"valid": "full", "test": "pop100"}
    assert type(config["seed"]) is int
    assert config["valid_metric_bigger"] is True
    assert RunConfig("AutoInt", "small", (), {"valid_metric": "LogLoss"})["valid_metric_bigger"] is False


# ---- what a run writes down ----


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec", "LightGCN", "MultiVAE", "AutoInt"])
@pytest.mark.parametrize("dataset", ["ml-100k", "amazon-beauty"])
def test_a_written_configuration_gives_the_same_configuration(model: str, dataset: str, tmp_path: Path) -> None:
    first = RunConfig(model, dataset, (), {"epochs": 3, "learning_rate": 1e-5})
    plain = first.to_plain()
    assert json.loads(json.dumps(plain)) == plain
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    again = RunConfig(config_files=[path])
    assert again.to_plain() == plain
    assert {key: value for key, value in again.final_config_dict.items() if key not in ("device",)} == {
        key: value for key, value in first.final_config_dict.items() if key not in ("device",)
    }
    assert not set(plain) & set(COMPUTED_KEYS)
    assert "epochs = 3" in str(first)
    assert "\x1b" not in str(first)


def test_what_a_run_changes_in_its_folders_is_not_written_down() -> None:
    config = sasrec(data_path="data")
    config["checkpoint_dir"] = "/somewhere/on/this/machine"
    assert config.to_plain()["data_path"] == "data"
    assert config.to_plain()["checkpoint_dir"] == "saved"


def test_keys_of_an_earlier_run_keep_their_origin() -> None:
    given = Overrides({"epochs": 5}, origin=COMMAND_LINE)
    merged = given.over({"epochs": 3, "topk": "many"}, "runs/x/config.yaml")
    with pytest.raises(UserError, match=r"topk must be .*\(runs/x/config\.yaml\)"):
        RunConfig("SASRec", "small", (), merged)
    config = RunConfig("SASRec", "small", (), given.over({"epochs": 3, "seed": 4}, "runs/x/config.yaml"))
    assert (config["epochs"], config["seed"]) == (5, 4)
    assert (config.origin("epochs"), config.origin("seed")) == (COMMAND_LINE, "runs/x/config.yaml")


# ---- a model's own keys ----


@dataclass(frozen=True)
class OwnOptions:
    width: int = 8
    share: float = 0.5
    active: bool = True
    name: str = "x"
    mode: Literal["fast", "slow"] = "fast"
    steps: Optional[int] = None  # noqa: UP045 (both spellings are in use)
    scale: Union[float, None] = None  # noqa: UP007
    sizes: tuple[int, ...] = (1, 2)
    weights: list[float] | None = None
    extra: dict[str, float] | None = None

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"width must be even, got {self.width}")


@dataclass(frozen=True)
class NeedsWidth:
    width: int


def test_options_are_filled_and_typed() -> None:
    keys = {
        "width": 4,
        "share": 1,
        "mode": "slow",
        "steps": 3,
        "scale": 2,
        "sizes": [3],
        "weights": [1, 0.5],
        "other": 1,
    }
    options = model_options(OwnOptions, keys)
    assert options == OwnOptions(4, 1.0, True, "x", "slow", 3, 2.0, (3,), [1.0, 0.5])
    assert isinstance(options.share, float)
    assert isinstance(options.scale, float)
    assert isinstance(options.sizes, tuple)
    assert model_options(OwnOptions, {}) == OwnOptions()


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("width", "x", "an integer"),
        ("width", True, "an integer"),
        ("width", 2.0, "an integer"),
        ("width", None, "an integer"),
        ("share", "x", "a number"),
        ("share", False, "a number"),
        ("share", math.nan, "a number"),
        ("active", 1, "True or False"),
        ("name", 3, "text"),
        ("mode", "slo", r"one of fast, slow \(did you mean 'slow'\?\)"),
        ("mode", 1, "one of fast, slow"),
        ("steps", 1.5, "an integer or ~"),
        ("scale", "x", "a number or ~"),
        ("sizes", 3, "a list such as"),
        ("sizes", [1, "x"], "a list whose entries are an integer"),
        ("weights", ["x"], "a list whose entries are a number or ~"),
        ("extra", [1], "a mapping"),
    ],
)
def test_an_option_of_the_wrong_type(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(UserError, match=rf"^{key} must be {allowed}.*, got "):
        model_options(OwnOptions, {key: value})


def test_missing_options_and_those_the_class_refuses() -> None:
    with pytest.raises(UserError, match="key 'width' is not set and NeedsWidth needs it"):
        model_options(NeedsWidth, {})
    with pytest.raises(UserError, match="width must be even, got 3"):
        model_options(OwnOptions, {"width": 3})


def own_model(options: type | None) -> type:
    from recbole.model.abstract_recommender import SequentialRecommender
    from recbole.utils import InputType

    attributes: dict[str, Any] = {"input_type": InputType.POINTWISE, "__module__": __name__}
    if options is not None:
        attributes["Options"] = options
    return type("Own", (SequentialRecommender,), attributes)


def test_a_users_class_brings_its_keys_with_their_defaults() -> None:
    config = RunConfig(own_model(OwnOptions), "small", (), {"width": 6})
    assert (config["width"], config["share"], config["model"]) == (6, 0.5, "Own")
    assert config.to_plain()["width"] == 6
    with pytest.raises(UserError, match=r"unknown key 'widht' .*did you mean 'width'"):
        RunConfig(own_model(OwnOptions), "small", (), {"widht": 6})
    with pytest.raises(UserError, match=r"mode must be one of fast, slow.*\(configuration dict\)"):
        RunConfig(own_model(OwnOptions), "small", (), {"mode": "quick"})
    assert RunConfig(own_model(NeedsWidth), "small", (), {"width": 6})["width"] == 6
    with pytest.raises(UserError, match="key 'width' is not set"):
        RunConfig(own_model(NeedsWidth), "small")


def test_options_must_be_a_dataclass() -> None:
    with pytest.raises(UserError, match="must be a frozen dataclass"):
        RunConfig(own_model(int), "small")


@pytest.mark.parametrize("name", OUR_MODEL_NAMES)
def test_options_and_the_models_file_agree_both_ways(name: str) -> None:
    options = {option.name for option in fields(our_models()[name].Options)}  # type: ignore[attr-defined]
    in_file = set(read_yaml(properties_directory() / "model" / f"{name}.yaml").values)
    assert options - in_file == set()
    of_every_run = RunConfig("SASRec", "small").known_keys()
    assert in_file - options - of_every_run == set()


@pytest.mark.parametrize("path", sorted((properties_directory() / "dataset").glob("*.yaml")), ids=lambda p: p.stem)
def test_our_dataset_files_hold_known_keys_and_allowed_values(path: Path) -> None:
    config = RunConfig("DiffuRec", path.stem)
    for key, value in read_yaml(path).values.items():
        assert config[key] == value
        assert config.origin(key).startswith(str(path))
