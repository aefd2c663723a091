"""Prepared data from the cache is what reading gives, and what changes is read again."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.dataset import SequentialDataset
from small_tables import small_rows, table

from recbole_diffusion.config import RunConfig
from recbole_diffusion.data.loading import prepare_loaders
from recbole_diffusion.data.prepared import PreparedData
from recbole_diffusion.data.reading import checked_dataset
from recbole_diffusion.errors import UserError

LOAD = {"inter": ["user_id", "item_id", "timestamp"]}


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A data path with the dataset `toy`, which repeats an interaction so that reading says something."""
    rows = [*small_rows(users=9, length=7), ("u0", "i0", "2000")]
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.inter").write_text(table(rows), encoding="utf-8")
    return tmp_path


def made(folder: Path, **keys: Any) -> Any:
    values = {"data_path": str(folder), "cache_dir": str(folder / "cache"), "use_gpu": False, "load_col": LOAD}
    config = RunConfig("SASRec", "toy", (), {**values, **keys})
    return checked_dataset(config.entry.dataset_class)(config)


def built(folder: Path, **keys: Any) -> Any:
    dataset = made(folder, **keys)
    return dataset, dataset.build()


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache").glob("*"))


def from_cache(dataset: Any) -> bool:
    return isinstance(dataset.histories.columns["item_id"], np.memmap)


def test_the_second_run_maps_what_the_first_prepared(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "recbole_diffusion")
    first, parts = built(toy)
    said = [record.getMessage() for record in caplog.records if record.name.endswith(("reading", "history_checks"))]
    assert any("repeat an earlier" in message for message in said)
    caplog.clear()
    second, again = built(toy)
    assert said == [
        record.getMessage() for record in caplog.records if record.name.endswith(("reading", "history_checks"))
    ]
    assert (from_cache(first), from_cache(second)) == (False, True)
    for name in ("field2type", "field2source", "field2seqlen", "field2bucketnum", "field2token_id", "alias"):
        assert getattr(first, name) == getattr(second, name), name
    for name, tokens in first.field2id_token.items():
        assert tokens.tolist() == second.field2id_token[name].tolist()
    for part, expected in zip(again, parts, strict=True):
        assert len(part) == len(expected)
        for column in expected.inter_feat:
            assert torch.equal(part.inter_feat[column], expected.inter_feat[column]), column


@pytest.mark.parametrize(
    ("keys", "shared_entry"),
    [
        ({"MAX_ITEM_LIST_LENGTH": 3}, True),
        ({"train_batch_size": 7}, True),
        ({"item_inter_num_interval": "[2,inf)"}, False),
        ({"time_precision": "float32"}, False),
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}, "protocol": "eval_args"}, False),
    ],
    ids=str,
)
def test_settings_that_reading_depends_on_have_their_own_entry(
    toy: Path, keys: dict[str, Any], shared_entry: bool
) -> None:
    built(toy)
    dataset, _ = built(toy, **keys)
    assert from_cache(dataset) is shared_entry
    assert len(entries(toy)) == (1 if shared_entry else 2)


def test_a_changed_file_is_read_again(toy: Path) -> None:
    built(toy)
    file = toy / "toy" / "toy.inter"
    file.write_text(file.read_text(encoding="utf-8") + "u0\ti6\t3000\n", encoding="utf-8")
    dataset, _ = built(toy)
    assert not from_cache(dataset)
    assert len(dataset.histories) == 65


def test_a_damaged_entry_is_prepared_again(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected, _ = built(toy)
    (entry,) = entries(toy)
    victim = max((toy / "cache" / entry).glob("*.bin"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[0] ^= 1
    os.chmod(victim, 0o644)
    victim.write_bytes(content)
    dataset, _ = built(toy)
    assert "damaged" in caplog.text
    assert not from_cache(dataset)
    assert dataset.histories.columns["item_id"].tolist() == expected.histories.columns["item_id"].tolist()
    assert from_cache(built(toy)[0])


def test_cache_off_leaves_nothing(toy: Path) -> None:
    built(toy, cache=False)
    assert not (toy / "cache").exists()


def test_features_are_not_cached(toy: Path) -> None:
    items = table([(f"i{item}", "1.5") for item in range(7)], "item_id:token\tprice:float")
    (toy / "toy" / "toy.item").write_text(items, encoding="utf-8")
    load = {**LOAD, "item": ["item_id", "price"]}
    assert not from_cache(built(toy, load_col=load)[0])
    assert not from_cache(built(toy, load_col=load)[0])
    assert entries(toy) == []


def test_errors_of_the_data_come_each_time(toy: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match="filters"):
            built(toy, user_inter_num_interval="[50,inf)")
    assert entries(toy) == []


def test_a_file_that_changes_while_it_is_read_is_not_kept(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made(toy)
    os.utime(toy / "toy" / "toy.inter", ns=(1, 1))
    dataset.build()
    assert entries(toy) == []


def test_loaders_from_the_cache_give_the_same_batches(toy: Path) -> None:
    batches = []
    for _ in range(2):
        dataset = made(toy, train_batch_size=8)
        batches.append(list(prepare_loaders(dataset.config, dataset)[0]))
    for found, expected in zip(*batches, strict=True):
        for column in expected:
            assert torch.equal(found[column], expected[column])


def test_version_is_part_of_the_key(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(toy)
    monkeypatch.setattr("recbole_diffusion.data.prepared.PREPARED_VERSION", 0)
    assert not from_cache(built(toy)[0])


def test_recboles_own_config_caches_nothing(toy: Path) -> None:
    class Settings(dict[str, Any]):
        """A configuration in which absent keys are None, as in RecBole's."""

        def __missing__(self, key: str) -> None:
            return None

    prepared = PreparedData(Settings(data_path=str(toy / "toy"), dataset="toy"))
    assert prepared.load() is None
    assert prepared.key is None


def test_a_dataset_class_with_code_of_its_own_is_read_each_time(toy: Path) -> None:
    class Halved(SequentialDataset):
        """Keeps the first half of the interactions."""

        def _data_filtering(self) -> None:
            super()._data_filtering()
            self.inter_feat = self.inter_feat.iloc[: len(self.inter_feat) // 2].reset_index(drop=True)

    config = made(toy).config
    for _ in range(2):
        dataset = checked_dataset(Halved)(config)
        dataset.build()
        assert len(dataset.histories) == 32
        assert not from_cache(dataset)
    assert entries(toy) == []


def test_further_files_are_not_cached(toy: Path) -> None:
    (toy / "toy" / "toy.emb").write_text("emb_id:token\temb:float_seq\ni0\t0.1 0.2\ni1\t0.3 0.4\n", encoding="utf-8")
    keys = {
        "additional_feat_suffix": ["emb"],
        "load_col": {**LOAD, "emb": ["emb_id", "emb"]},
        "alias_of_item_id": ["emb_id"],
        "preload_weight": {"emb_id": "emb"},
    }
    for _ in range(2):
        dataset, _ = built(toy, **keys)
        assert dataset.get_preload_weight("emb_id").shape[1] == 2
    assert entries(toy) == []


def test_what_the_first_run_did_not_show_a_later_one_says(toy: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = {"val_interval": {"timestamp": "(-inf,1500)"}}
    caplog.set_level(logging.WARNING, "recbole_diffusion")
    built(toy, **keys)
    assert "filters keep" not in caplog.text
    caplog.set_level(logging.INFO, "recbole_diffusion")
    dataset, _ = built(toy, **keys)
    assert from_cache(dataset)
    assert "filters keep" in caplog.text


def test_messages_name_the_folder_of_the_day(toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = toy / "toy" / "toy.inter"
    file.write_text(file.read_text(encoding="utf-8").replace("i3\t", " i3\t", 1), encoding="utf-8")
    built(toy)
    assert str(toy / "toy") in caplog.text
    moved = tmp_path / "elsewhere"
    (moved / "toy").mkdir(parents=True)
    file.rename(moved / "toy" / "toy.inter")
    caplog.clear()
    dataset, _ = built(moved, cache_dir=str(toy / "cache"))
    assert from_cache(dataset)
    assert str(moved / "toy") in caplog.text
    assert str(toy / "toy") not in caplog.text
