"""Resuming: what a model keeps beside its weights, results of earlier weights, keys that the run has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recbole_diffusion.benchmarking.results import find_runs
from recbole_diffusion.errors import UserError
from recbole_diffusion.quick_start import evaluate, run
from recbole_diffusion.training.changed_attributes import TENSOR_PARTS, ChangedAttributes
from recbole_diffusion.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from recbole_diffusion.training.run_folder import RunFolder
from recbole_diffusion.training.trainer import RunTrainer

from .test_resume import assert_same_end

KEYS: dict[str, Any] = {"train_batch_size": 32, "eval_step": 1, "use_gpu": False, "show_progress": False}
MODELS: dict[str, dict[str, Any]] = {
    "MultiVAE": {"mlp_hidden_size": [16], "latent_dimension": 8, "total_anneal_steps": 1000},
    "DiffRec": {"dims_dnn": [8], "steps": 3},
}


class Counting(nn.Module):
    """State of every kind that is in no `state_dict`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.inner.step = 0
        self.rate, self.flag, self.fixed, self._ready = 0.5, False, 7, None
        self.history = torch.zeros(3)
        self.same_history = self.history
        self.replaced, self.constant = torch.zeros(2), torch.ones(2)
        self.graph = torch.eye(2).to_sparse()
        self.register_buffer("table", torch.zeros(2), persistent=False)
        self.register_buffer("stored", torch.zeros(2))

    def train_a_little(self) -> None:
        self.inner.step += 4  # type: ignore[operator]
        self.rate, self.flag, self._ready = 0.1, True, torch.ones(1)
        self.history[1] = 5.0
        self.replaced = self.replaced + 1
        self.graph = torch.tensor([[0.0, 3.0], [0.0, 0.0]]).to_sparse()
        self.table += 2
        self.stored += 2
        self.inner.weight.data.add_(1)


def test_what_training_changed_is_set_again() -> None:
    model = Counting()
    changed = ChangedAttributes(model)
    assert changed.pack() == ({}, {})
    model.train_a_little()
    model.eval()
    tensors, numbers = changed.pack()
    assert numbers == {"inner.step": 4, "rate": 0.1, "flag": True}
    names = {name.split(".", 1)[1] for name in tensors if not name.startswith("sparse.")}
    assert names == {"history", "same_history", "replaced", "_ready", "table"}  # neither constants nor weights

    other = Counting()
    later = ChangedAttributes(other)
    parts = Checkpoint({name: tensor.clone() for name, tensor in tensors.items()})
    later.unpack({part: parts.part(part) for part in TENSOR_PARTS}, json.loads(json.dumps(numbers)))
    for name in ("history", "replaced", "_ready", "table", "constant"):
        assert torch.equal(getattr(other, name), getattr(model, name)), name
    assert other.same_history is other.history
    assert torch.equal(other.graph.to_dense(), model.graph.to_dense())
    assert (other.inner.step, other.rate, other.flag, other.fixed) == (4, 0.1, True, 7)
    again, numbers_again = later.pack()  # a second cut keeps them, too
    assert (again.keys(), numbers_again) == (tensors.keys(), numbers)


@pytest.mark.parametrize("model", MODELS)
def test_recbole_models_with_such_state_end_as_uncut(model: str, small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, **MODELS[model]}
    whole = run(model, "small", {**keys, "epochs": 4}, data_path=small_data, output=tmp_path / "whole").folder
    cut = run(model, "small", {**keys, "epochs": 2}, data_path=small_data, output=tmp_path / "cut").folder
    run(resume=cut, config={"epochs": 4})
    ends = [read_checkpoint(RunFolder.open(folder).last) for folder in (whole, cut)]
    losses = [[row["train_loss"] for row in end.facts["history"]] for end in ends]
    assert losses[0] == losses[1]
    assert ends[0].facts["attributes"] == ends[1].facts["attributes"]
    assert_same_end(whole, cut)
    if model == "MultiVAE":  # a checkpoint of an earlier version, which knows no attributes
        assert ends[1].facts["attributes"]["update"] > 0
        old = {name: value for name, value in ends[1].facts.items() if name != "attributes"}
        write_checkpoint(RunFolder.open(cut).last, Checkpoint(ends[1].tensors, old))
        assert run(resume=cut, config={"epochs": 5}).epochs == 5


def test_an_old_result_goes_before_the_run_goes_on(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {**KEYS, "embedding_size": 8, "save_per_user": "parquet"}
    whole = run("BPR", "small", {**keys, "epochs": 4}, data_path=small_data, output=tmp_path / "whole").folder
    cut = run("BPR", "small", {**keys, "epochs": 2}, data_path=small_data, output=tmp_path / "cut").folder
    folder = RunFolder.open(cut)
    finished = json.loads(folder.result.read_text())
    run(resume=cut)  # nothing is left to train
    assert json.loads(folder.result.read_text())["test_result"] == finished["test_result"]

    def killed(*_: Any, **__: Any) -> None:
        assert not folder.result.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:  # before config.yaml says four epochs
        patched.setattr(RunFolder, "write_config", killed)
        with pytest.raises(KeyboardInterrupt):
            run(resume=cut, config={"epochs": 4})
    assert run(resume=cut).test_result == finished["test_result"]  # the shorter run can be had back
    with monkeypatch.context() as patched:  # after the last epoch, before the test
        patched.setattr(RunTrainer, "load_best", killed)
        with pytest.raises(KeyboardInterrupt):
            run(resume=cut, config={"epochs": 4})
    assert read_checkpoint(folder.last).facts["epoch"] == 3
    assert not folder.per_user("test").exists()
    assert folder.per_user("valid").is_file()
    assert [record.finished for record in find_runs([cut])] == [False]
    run(resume=cut)
    assert_same_end(whole, cut)


def test_rows_that_a_checkpoint_did_not_train_on_alone_are_evaluated(small_data: Path, tmp_path: Path) -> None:
    trained = run("BPR", "small", {**KEYS, "epochs": 1, "embedding_size": 8}, data_path=small_data, output=tmp_path)
    lines = (small_data / "small" / "small.inter").read_text().splitlines()
    other = tmp_path / "data" / "small"
    other.mkdir(parents=True)
    (other / "small.item").write_text("item_id:token\ti_class:token\ni0\tx\n")
    (other / "small.inter").write_text("\n".join(lines) + "\n")
    again = evaluate(trained.folder, data_path=other.parent, output=tmp_path / "again")  # another .item is no matter
    assert again.test_result == trained.test_result
    backwards = [line.rsplit("\t", 1) for line in lines[1:]]
    (other / "small.inter").write_text("\n".join([lines[0], *(f"{row}\t-{time}" for row, time in backwards)]) + "\n")
    with pytest.raises(UserError, match=r"was trained on another small\.inter; give its own data with data_path"):
        evaluate(trained.folder, data_path=other.parent, output=tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(("key", "value"), [("tail_ratio", 0.9), ("encoding", "latin-1")])
def test_keys_that_a_run_has_not_cannot_join_it(key: str, value: Any, small_data: Path, tmp_path: Path) -> None:
    keys = {**KEYS, "epochs": 1, "embedding_size": 8}
    folder = run("BPR", "small", keys, data_path=small_data, output=tmp_path).folder
    with pytest.raises(UserError, match=rf"'{key}' cannot change in a resumed run \(it has None\)"):
        run(resume=folder, config={key: value, "epochs": 2})
    with pytest.raises(UserError, match="learning_rat"):  # no key at all is named as such
        run(resume=folder, config={"learning_rat": 0.1})
    assert run(resume=folder, config={key: None}).epochs == 1
