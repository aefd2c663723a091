"""Weights & Biases' own package, offline: what its files hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion import run
from recbole_diffusion.command_line import main
from recbole_diffusion.config import RunConfig
from recbole_diffusion.loggers.choice import check_loggers

from .tiny import TINY

wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'recbole-diffusion[wandb]'")


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DIR", "WANDB_RUN_ID", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def leveldb_log(data: bytes, start: int) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KiB of pieces, each with checksum, length and kind (1
    whole, 2 first, 3 middle, 4 last); a block's last bytes are empty where no head fits in."""
    place, whole = 0, b""
    while place < len(data):
        left = 32768 - (place + start) % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def records(folder: Path) -> dict[str, Any]:
    """What the offline files of a run hold: ids, history, summary, config, exit codes."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"ids": set(), "history": [], "summary": {}, "config": {}, "exits": [], "projects": set()}
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in leveldb_log(file.read_bytes()[7:], start=7):  # seven bytes say that it is wandb's
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found["ids"].add(record.run.run_id)
                found["projects"].add(record.run.project)
                found["name"] = record.run.display_name
                found["config"].update({item.key: json.loads(item.value_json) for item in record.run.config.update})
            elif kind == "history":
                items = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                found["history"].append(items)
            elif kind == "summary":
                for item in record.summary.update:
                    found["summary"]["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
            elif kind == "exit":
                found["exits"].append(record.exit.exit_code)
    return found


def test_a_run_and_its_resumed_part_are_one_run(small_data: Path, tmp_path: Path) -> None:
    keys = {**TINY, "log_wandb": True, "wandb_project": "mine", "run_name": "a name"}
    first = run("SASRec", "small", {**keys, "epochs": 2}, data_path=small_data, output=tmp_path)
    assert wandb.run is None
    result = run(resume=first.folder, config={"epochs": 3}, data_path=small_data)
    found = records(result.folder)
    assert len(found["ids"]) == 1 and found["projects"] == {"mine"} and found["name"] == "a name"
    assert [row["epoch"] for row in found["history"]] == [1, 2, 3]
    assert all({"train/loss", "train/learning_rate", "valid/ndcg@10"} <= set(row) for row in found["history"])
    assert found["summary"]["test/ndcg@10"] == result.test_result["ndcg@10"]
    assert found["config"]["hidden_size"] == 8 and found["config"]["model"] == "SASRec"
    assert found["exits"] == [0, 0]
    assert (
        "wandb_init" not in (result.folder / "run.log").read_text()
        and f"wandb run {found['ids'].pop()}" in (result.folder / "run.log").read_text()
    )


def test_an_active_run_is_used_and_left_open(small_data: Path, tmp_path: Path) -> None:
    active = wandb.init(project="theirs", dir=str(tmp_path), settings=wandb.Settings(silent=True, console="off"))
    try:
        result = run(
            "SASRec", "small", {**TINY, "loggers": ["wandb"], "epochs": 1}, data_path=small_data, output=tmp_path / "r"
        )
        assert wandb.run is active and not (result.folder / "wandb").exists()
        assert active.summary["test/ndcg@10"] == result.test_result["ndcg@10"]
    finally:
        active.finish()


def test_without_a_key_nothing_starts(
    monkeypatch: pytest.MonkeyPatch, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb.teardown()  # it reads its settings once
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["run", "--model=SASRec", "--dataset=small", f"--data_path={small_data}", f"--output={tmp_path / 'runs'}"]
    assert main([*words, "--loggers=wandb"]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: wandb has no API key: run `wandb login`")
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    check_loggers(RunConfig("SASRec", "small", (), {"loggers": ["wandb"]}))
    wandb.teardown()


def test_offline_needs_no_key() -> None:
    check_loggers(RunConfig("SASRec", "small", (), {"loggers": ["wandb"]}))
