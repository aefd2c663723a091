"""Presets: a paper's settings as a layer, who wins over them, what is refused, what is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion import config_presets, evaluate, run
from recbole_diffusion.command_line import main
from recbole_diffusion.config import RunConfig
from recbole_diffusion.config_files import read_yaml
from recbole_diffusion.config_presets import datasets_with_preset, preset_file
from recbole_diffusion.config_protocols import KEYS_OF_PROTOCOL
from recbole_diffusion.errors import UserError
from recbole_diffusion.model_table import OUR_MODELS
from recbole_diffusion.registry import properties_directory

FILES = sorted((properties_directory() / "paper").glob("*.yaml"))
DIFFUREC_DATASETS = {"amazon-beauty", "amazon-toys", "ml-1m", "ml-1m-full"}


def paper(model: Any = "DiffuRec", dataset: str = "ml-1m", **overrides: Any) -> RunConfig:
    return RunConfig(model, dataset, (), {"preset": "paper", **overrides})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_preset_is_of_a_model_and_a_whole_configuration(path: Path) -> None:
    model, _, dataset = path.stem.partition(".")
    assert model in OUR_MODELS
    config = paper(model, dataset)
    values = read_yaml(path).values
    for key, value in values.items():
        assert config[key] == value
        assert config.origin(key).startswith(str(path))
    assert set(values) <= RunConfig(model, dataset).known_keys()
    assert values["protocol"] in KEYS_OF_PROTOCOL
    assert {"metrics", "topk", "valid_metric"} <= set(values)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        assert len(line) <= 200, f"{path.name}:{number}"
        assert not line or line.startswith((" ", "#")) or " #" in line, f"{path.name}:{number} names no source"


def test_only_presets_set_the_protocol() -> None:
    for path in [
        *(properties_directory() / "model").glob("*.yaml"),
        *(properties_directory() / "dataset").glob("*.yaml"),
    ]:
        assert "protocol" not in read_yaml(path).values, path


def test_diffurec_has_its_papers_settings() -> None:
    assert set(datasets_with_preset("paper")["DiffuRec"]) == DIFFUREC_DATASETS
    assert {name: paper(dataset=name)["MAX_ITEM_LIST_LENGTH"] for name in DIFFUREC_DATASETS} == {
        "amazon-beauty": 50, "amazon-toys": 50, "ml-1m": 200, "ml-1m-full": 200,
    }  # fmt: skip
    config = paper()
    assert (config["num_steps"], config["hidden_size"], config["train_batch_size"]) == (32, 128, 512)
    assert config["protocol"] == "leave_one_out"


def test_without_a_preset_nothing_of_it_is_there() -> None:
    config = RunConfig("DiffuRec", "ml-1m")
    assert config.preset is None
    assert config["MAX_ITEM_LIST_LENGTH"] == 50
    assert RunConfig("DiffuRec", "ml-1m", (), {"preset": None})["MAX_ITEM_LIST_LENGTH"] == 50


def test_what_a_person_gives_wins(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("MAX_ITEM_LIST_LENGTH: 20\npreset: paper\n", encoding="utf-8")
    config = RunConfig("DiffuRec", "ml-1m", [file], {"num_steps": 8})
    assert (config.preset, config["MAX_ITEM_LIST_LENGTH"], config["num_steps"]) == ("paper", 20, 8)
    assert RunConfig("DiffuRec", "ml-1m", [file], {"preset": None}).preset == "paper"


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of presets in place of the package's."""
    folder = tmp_path / "paper"
    folder.mkdir()
    monkeypatch.setattr(config_presets, "properties_directory", lambda: tmp_path)
    return folder


def test_a_presets_protocol_gives_way_to_a_persons(presets: Path) -> None:
    (presets / "DiffuRec.small.yaml").write_text("protocol: user_split_multi\nmin_history: 4\n", encoding="utf-8")
    assert paper(dataset="small")["protocol"] == "user_split_multi"
    assert paper(dataset="small", protocol="leave_one_out")["protocol"] == "leave_one_out"
    split = {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO"}}
    assert paper(dataset="small", **split)["protocol"] == "eval_args"


@pytest.mark.parametrize("protocol", ["user_split_multi", "leave_one_out"])
def test_a_stored_configuration_comes_back_with_its_preset(presets: Path, protocol: str) -> None:
    text = "protocol: user_split_multi\nmin_history: 3\nsplit_ratio: [0.6, 0.2, 0.2]\nnum_steps: 8\n"
    (presets / "DiffuRec.small.yaml").write_text(text, encoding="utf-8")
    stored = paper(dataset="small", protocol=protocol).to_plain()
    assert (stored["preset"], stored["num_steps"]) == ("paper", 8)
    assert RunConfig(overrides=stored).to_plain() == stored
    (presets / "DiffuRec.small.yaml").write_text(text.replace("8", "9"), encoding="utf-8")
    assert RunConfig(overrides=stored).to_plain() == stored


def test_an_unknown_key_of_a_preset_is_refused(presets: Path) -> None:
    (presets / "DiffuRec.small.yaml").write_text("epochs: 1\nnum_stepss: 8\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"unknown key 'num_stepss' \(.*DiffuRec.small.yaml:2\); did you mean 'num_steps'"
    ):
        paper(dataset="small")


def test_a_wrong_value_of_a_preset_names_its_line(presets: Path) -> None:
    (presets / "DiffuRec.small.yaml").write_text("num_steps: many\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"num_steps must be .*DiffuRec.small.yaml:1"):
        paper(dataset="small")


def test_a_class_derived_from_a_model_has_its_presets() -> None:
    from recbole_diffusion.models.diffurec import DiffuRec

    class Own(DiffuRec):
        pass

    assert paper(Own)["MAX_ITEM_LIST_LENGTH"] == 200


@pytest.mark.parametrize(
    ("model", "dataset", "preset", "message"),
    [
        (
            "DiffuRec",
            "ml-100k",
            "paper",
            "no preset 'paper' of DiffuRec on ml-100k; it has one on amazon-beauty, amazon-",
        ),
        ("SASRec", "ml-1m", "paper", "no preset 'paper' of SASRec; these models have one: .*DiffuRec"),
        ("DiffuRec", "ml-1m", "papers", "preset must be paper, or ~ for none, got 'papers'"),
        ("DiffuRec", "ml-1m", True, "preset must be paper, or ~ for none, got True"),
    ],
)
def test_a_preset_that_is_not_there_is_one_line(model: str, dataset: str, preset: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        RunConfig(model, dataset, (), {"preset": preset})
    assert "\n" not in str(refused.value)


def test_where_a_preset_lies() -> None:
    assert preset_file("paper", "DiffuRec", "ml-1m") == properties_directory() / "paper" / "DiffuRec.ml-1m.yaml"


def test_a_run_records_its_preset_and_keeps_it(presets: Path, small_data: Path, tmp_path: Path) -> None:
    text = "protocol: user_split_next\nMAX_ITEM_LIST_LENGTH: 5\n"
    (presets / "SASRecCE.small.yaml").write_text(text, encoding="utf-8")
    keys = {"epochs": 1, "hidden_size": 8, "use_gpu": False, "show_progress": False, "cache": False}
    folder = run("SASRecCE", "small", keys, preset="paper", data_path=small_data, output=tmp_path / "runs").folder
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["preset"] == "paper"
    assert result["protocol"]["protocol"] == "user_split_next"
    assert read_yaml(folder / "config.yaml").values["preset"] == "paper"
    with pytest.raises(UserError, match="'preset' cannot change in a resumed run"):
        run(resume=folder, preset="other")
    resumed = run(resume=folder, config={"epochs": 2}, preset="paper").folder
    assert json.loads((resumed / "result.json").read_text(encoding="utf-8"))["preset"] == "paper"
    with pytest.raises(UserError, match="is of preset paper, not other; leave preset out"):
        evaluate(folder, {"preset": "other"})
    again = evaluate(folder, data_path=small_data, output=tmp_path / "again").folder
    assert json.loads((again / "result.json").read_text(encoding="utf-8"))["preset"] == "paper"
    assert read_yaml(again / "config.yaml").values["MAX_ITEM_LIST_LENGTH"] == 5


def test_help_of_a_model_names_its_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model=DiffuRec", "--help"]) == 0
    line = "# --preset=paper for the datasets amazon-beauty, amazon-toys, ml-1m, ml-1m-full"
    assert line in capsys.readouterr().out.splitlines()
