"""Which of `protocol` and `eval_args` wins, what contradicts itself, and which keys a protocol reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion import config as config_module
from recbole_diffusion.config import RunConfig, read_yaml
from recbole_diffusion.config_protocols import (
    KEYS_OF_PROTOCOL,
    LEAVE_ONE_OUT,
    protocol_facts,
    refuse_other_training_rows,
)
from recbole_diffusion.config_values import CHECKS
from recbole_diffusion.errors import UserError
from recbole_diffusion.registry import properties_directory

RATIO = {"RS": [0.8, 0.1, 0.1]}


def sasrec(**overrides: Any) -> RunConfig:
    return RunConfig("SASRec", "small", (), overrides)


@pytest.fixture
def dataset_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """``dataset_default(text)``: properties/dataset/small.yaml holds `text`."""

    def write(text: str) -> None:
        (tmp_path / "dataset").mkdir()
        (tmp_path / "model").mkdir()
        overall = (properties_directory() / "overall.yaml").read_text(encoding="utf-8")
        (tmp_path / "overall.yaml").write_text(overall, encoding="utf-8")
        (tmp_path / "dataset" / "small.yaml").write_text(text, encoding="utf-8")
        monkeypatch.setattr(config_module, "properties_directory", lambda: tmp_path)

    return write


# ---- which one wins ----


@pytest.mark.parametrize(
    ("given", "protocol", "split"),
    [
        ({}, "leave_one_out", LEAVE_ONE_OUT),
        ({"eval_args": {"split": RATIO}}, "eval_args", RATIO),
        ({"eval_args": {"split": {"TS": [8, 1, 1]}}}, "eval_args", {"TS": [8, 1, 1]}),
        ({"eval_args": {"split": {"LS": "test_only"}}}, "leave_one_out", {"LS": "test_only"}),
        (
            {"protocol": "leave_one_out", "eval_args": {"split": {"LS": "valid_only"}}},
            "leave_one_out",
            {"LS": "valid_only"},
        ),
        ({"protocol": "eval_args", "eval_args": {"split": RATIO}}, "eval_args", RATIO),
        ({"protocol": "eval_args"}, "eval_args", LEAVE_ONE_OUT),
        ({"protocol": "user_split_next"}, "user_split_next", LEAVE_ONE_OUT),
        # what a stored configuration says
        ({"protocol": "user_split_next", "eval_args": {"split": LEAVE_ONE_OUT}}, "user_split_next", LEAVE_ONE_OUT),
    ],
    ids=str,
)  # fmt: skip
def test_one_of_two_is_enough(given: dict[str, Any], protocol: str, split: dict[str, Any]) -> None:
    config = sasrec(**given)
    assert config["protocol"] == protocol
    assert config["eval_args"]["split"] == split
    assert config["eval_args"]["order"] == "TO"


@pytest.mark.parametrize(
    ("given", "protocol", "split"),
    [
        ({}, "user_split_multi", LEAVE_ONE_OUT),
        ({"protocol": "leave_one_out"}, "leave_one_out", LEAVE_ONE_OUT),
        ({"eval_args": {"split": RATIO}}, "eval_args", RATIO),
        ({"eval_args": {"split": {"LS": "test_only"}}}, "leave_one_out", {"LS": "test_only"}),
    ],
    ids=str,
)
def test_a_person_wins_over_a_datasets_protocol(
    dataset_default: Callable[[str], None], given: dict[str, Any], protocol: str, split: dict[str, Any]
) -> None:
    dataset_default("protocol: user_split_multi\n")
    config = sasrec(**given)
    assert (config["protocol"], config["eval_args"]["split"]) == (protocol, split)


def test_a_person_wins_over_a_datasets_split(dataset_default: Callable[[str], None]) -> None:
    dataset_default("eval_args: {split: {RS: [8, 1, 1]}, order: TO, group_by: user, mode: full}\n")
    assert sasrec()["protocol"] == "eval_args"
    config = sasrec(protocol="leave_one_out")
    assert (config["protocol"], config["eval_args"]["split"]) == ("leave_one_out", LEAVE_ONE_OUT)
    assert sasrec(protocol="global_time")["protocol"] == "global_time"


def test_families_of_models_keep_recboles_split() -> None:
    context_aware = RunConfig("FM", "small", (), {})
    assert (context_aware["protocol"], context_aware["eval_args"]["split"]) == ("eval_args", RATIO)
    assert RunConfig("DIN", "small", (), {})["protocol"] == "leave_one_out"
    assert RunConfig("BPR", "small", (), {})["protocol"] == "leave_one_out"
    assert RunConfig("BPR", "small", (), {"eval_args": {"split": RATIO, "order": "RO"}})["protocol"] == "eval_args"


# ---- what is refused ----


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"protocol": "leave_one_out", "eval_args": {"split": RATIO}},
            r"protocol: leave_one_out \(configuration dict\) and eval_args\.split: .* contradict each other; leave one",
        ),
        (
            {"protocol": "user_split_multi", "eval_args": {"split": {"LS": "test_only"}}},
            r"protocol: user_split_multi .* contradict each other",
        ),
        ({"eval_args": {"order": "RO"}}, r"must have order TO: SASRec is sequential"),
        (
            {"protocol": "user_split_multi", "eval_args": {"mode": "uni100"}},
            r"must have mode full: rows of protocol user_split_multi have several targets",
        ),
        (
            {"protocol": "global_time", "time_target": "all", "eval_args": {"mode": {"test": "pop100"}}},
            r"must have mode full",
        ),
        ({"filter_seen": True, "eval_args": {"mode": "uni100"}}, r"filter_seen: True .* needs eval_args\.mode full"),
        ({"split_seed": 3}, r"split_seed: 3 .* read by protocol user_split_multi or user_split_next, not by leave_one"),
        ({"protocol": "user_split_next", "time_target": "all"}, r"time_target: all .* by protocol global_time, not"),
        ({"protocol": "user_split_next", "one_cut_per_user": True}, r"is read by protocol user_split_multi, not"),
        ({"eval_args": {"split": RATIO}, "split_ratio": [7, 2, 1]}, r"split_ratio: .* not by eval_args; leave it out"),
        (
            {"protocol": "global_time", "split_time": [1, 2], "split_ratio": [7, 2, 1]},
            r"split_ratio: .* cannot be given together with split_time",
        ),
        ({"protocol": "global_time", "split_time": ["2014-09-02", "2014-09-01"]}, r"must begin test no earlier"),
        (
            {"protocol": "user_split_next", "benchmark_filename": ["train", "valid", "test"]},
            r"protocol: user_split_next .* cannot be had with benchmark_filename",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        sasrec(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", ["user_split_multi", "user_split_next", "global_time"])
@pytest.mark.parametrize("model", ["BPR", "Pop", "MultiVAE", "FM", "LightGCN"])
def test_models_without_histories_have_recboles_protocols_alone(model: str, protocol: str) -> None:
    with pytest.raises(
        UserError, match=rf"protocol: {protocol} .* needs a sequential model, {model} has leave_one_out or eval_args"
    ):
        RunConfig(model, "small", (), {"protocol": protocol})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("protocol", "leave-one-out"), ("protocol", None), ("split_ratio", [0.8, 0.2]), ("split_ratio", [0, 1, 1]),
        ("split_ratio", [0.8, -0.1, 0.3]), ("split_ratio", "8:1:1"), ("split_seed", -1), ("split_seed", 1.5),
        ("user_order", "random"), ("split_time", [1]), ("split_time", "2014-09-01"), ("split_time", [1, "later"]),
        ("split_time", [True, 2]), ("split_time", [1, float("nan")]), ("time_target", "random"),
        ("eval_target", "first"), ("min_history", 0), ("one_cut_per_user", 1), ("filter_seen", None),
        ("rank_memory", 0), ("rank_memory", "1G"), ("save_per_user", "csv"), ("save_per_user", True), ("cache", None),
        ("cache_dir", 3), ("length_bucketing", 0),
    ],
)  # fmt: skip
def test_values_that_are_not_allowed(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^{key} must be .* \(configuration dict\)$"):
        sasrec(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cache", False), ("cache_dir", "somewhere"), ("length_bucketing", 8), ("length_bucketing", None),
        ("rank_memory", 1), ("save_per_user", "parquet"), ("filter_seen", True),
    ],
)  # fmt: skip
def test_values_that_are(key: str, value: Any) -> None:
    assert sasrec(**{key: value})[key] == value


def test_dates_stay_as_they_are_written(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("protocol: global_time\nsplit_time: [2014-09-01, 2014-09-08T12:00]\n", encoding="utf-8")
    assert RunConfig("SASRec", "small", [file], {})["split_time"] == ["2014-09-01", "2014-09-08T12:00"]


# ---- filter_seen of models that are not sequential ----


def test_filter_seen_of_general_models_follows_from_repeatable() -> None:
    assert RunConfig("BPR", "small", (), {})["filter_seen"] is False
    assert RunConfig("BPR", "small", (), {"repeatable": False})["filter_seen"] is True
    assert RunConfig("BPR", "small", (), {"repeatable": False, "filter_seen": True})["filter_seen"] is True
    for given in ({"filter_seen": True}, {"repeatable": False, "filter_seen": False}):
        with pytest.raises(UserError, match=r"filter_seen: .* contradicts repeatable: .* set repeatable: .* instead"):
            RunConfig("BPR", "small", (), given)


def test_a_stored_general_model_takes_another_repeatable() -> None:
    stored = RunConfig("BPR", "small", (), {}).to_plain()
    assert RunConfig(None, None, (), {**stored, "repeatable": False})["filter_seen"] is True


# ---- what is recorded, and read back ----

FOR_ALL_MODELS: list[dict[str, Any]] = [{}, {"eval_args": {"split": RATIO}}]
FOR_SEQUENTIAL: list[dict[str, Any]] = [
    *FOR_ALL_MODELS,
    {"protocol": "user_split_multi", "split_seed": 7, "one_cut_per_user": True, "filter_seen": True},
    {"protocol": "user_split_next", "user_order": "first_time", "eval_target": "all_positions"},
    {"protocol": "global_time", "split_time": ["2014-09-01", 1410000000], "time_target": "successive"},
    {"protocol": "global_time", "split_ratio": [7, 2, 1], "min_history": 3},
]


@pytest.mark.parametrize(
    ("model", "given"),
    [("SASRec", given) for given in FOR_SEQUENTIAL]
    + [(model, given) for model in ("BPR", "FM") for given in FOR_ALL_MODELS],
    ids=str,
)
def test_a_stored_configuration_comes_back(model: str, given: dict[str, Any]) -> None:
    config = RunConfig(model, "small", (), given)
    stored = config.to_plain()
    again = RunConfig(None, None, (), stored)
    assert again.to_plain() == stored
    assert protocol_facts(again) == protocol_facts(config)


def test_facts_hold_what_the_protocol_read() -> None:
    facts = protocol_facts(sasrec())
    assert facts["protocol"] == "leave_one_out"
    assert facts["eval_args"]["split"] == LEAVE_ONE_OUT
    assert (facts["filter_seen"], facts["repeatable"]) == (False, True)
    assert not {"split_ratio", "split_seed", "split_time", "time_target"} & facts.keys()
    facts = protocol_facts(sasrec(protocol="user_split_multi", filter_seen=True))
    assert facts == {
        "protocol": "user_split_multi", "split_ratio": [0.8, 0.1, 0.1], "user_order": "shuffled", "split_seed": 1230,
        "min_history": None, "one_cut_per_user": False, "filter_seen": True, "repeatable": True,
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
    }  # fmt: skip
    assert "split_seed" not in protocol_facts(sasrec(protocol="user_split_next", user_order="first_time"))
    assert "split_ratio" not in protocol_facts(sasrec(protocol="global_time", split_time=[1, 2]))
    assert "split_ratio" in protocol_facts(sasrec(protocol="global_time"))


# ---- evaluating a checkpoint ----


@pytest.mark.parametrize(
    ("trained", "now", "key"),
    [
        ({}, {"protocol": "user_split_next"}, "protocol"),
        ({}, {"eval_args": {"split": RATIO}}, "protocol"),
        ({}, {"eval_args": {"split": {"LS": "test_only"}}}, r"eval_args\.split"),
        ({"protocol": "user_split_next"}, {"protocol": "user_split_multi"}, "protocol"),
        ({"protocol": "user_split_next"}, {"protocol": "user_split_next", "split_seed": 7}, "split_seed"),
        ({"protocol": "user_split_multi"}, {"protocol": "user_split_multi", "split_ratio": [7, 2, 1]}, "split_ratio"),
        ({"protocol": "global_time"}, {"protocol": "global_time", "split_time": [1, 2]}, "split_time"),
    ],
    ids=str,
)
def test_a_checkpoint_is_not_tested_on_what_trained_it(trained: dict[str, Any], now: dict[str, Any], key: str) -> None:
    stored = sasrec(**trained).to_plain()
    with pytest.raises(
        UserError, match=rf"^{key}: .* differs from .*, by which model.safetensors was trained"
    ) as caught:
        refuse_other_training_rows(sasrec(**now), stored, "model.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("trained", "now"),
    [
        ({}, {"filter_seen": True}),
        ({}, {"eval_args": {"mode": "uni100"}}),
        ({"protocol": "user_split_next"}, {"protocol": "user_split_next", "eval_target": "all_positions"}),
        ({"protocol": "global_time"}, {"protocol": "global_time", "time_target": "all", "filter_seen": True}),
    ],
    ids=str,
)
def test_what_is_asked_of_the_same_users_may_change(trained: dict[str, Any], now: dict[str, Any]) -> None:
    refuse_other_training_rows(sasrec(**now), sasrec(**trained).to_plain(), "model.safetensors")


def test_checkpoints_from_before_there_were_protocols() -> None:
    old = {key: value for key, value in sasrec().to_plain().items() if key not in CHECKS or key == "eval_args"}
    refuse_other_training_rows(sasrec(), old, "model.safetensors")
    ratio = {**old, "eval_args": {**old["eval_args"], "split": RATIO}}
    refuse_other_training_rows(sasrec(eval_args={"split": RATIO}), ratio, "model.safetensors")
    with pytest.raises(UserError, match=r"^protocol: leave_one_out .* differs from eval_args"):
        refuse_other_training_rows(sasrec(), ratio, "model.safetensors")


def test_every_key_of_a_protocol_has_a_default_a_check_and_a_line_of_documentation() -> None:
    overall = read_yaml(properties_directory() / "overall.yaml").values
    document = (Path(__file__).resolve().parents[1] / "docs" / "protocols.md").read_text(encoding="utf-8")
    for protocol, keys in KEYS_OF_PROTOCOL.items():
        assert f"`{protocol}`" in document
        for key in keys:
            assert key in overall
            assert key in CHECKS
            assert f"`{key}`" in document


def test_the_protocols_are_those_of_the_data() -> None:
    from recbole_diffusion.data import protocols
    from recbole_diffusion.data.global_time import TIME_TARGETS

    assert tuple(KEYS_OF_PROTOCOL) == protocols.PROTOCOLS
    for key, values in (
        ("protocol", protocols.PROTOCOLS),
        ("user_order", protocols.USER_ORDERS),
        ("eval_target", protocols.EVAL_TARGETS),
        ("time_target", TIME_TARGETS),
    ):
        for value in values:
            assert CHECKS[key](value) == value
