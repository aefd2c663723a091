"""Exports of trained runs: what is in the folder, whether it gives the run's lists, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from recbole_diffusion import __version__
from recbole_diffusion.command_line import main
from recbole_diffusion.errors import UserError
from recbole_diffusion.export import exporting, programs
from recbole_diffusion.export.exporting import export_model
from recbole_diffusion.export.verification import compare
from recbole_diffusion.export.verification_histories import VerificationHistories
from recbole_diffusion.provenance import file_digest
from recbole_diffusion.recommendation.recommender import Recommender
from recbole_diffusion.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests.conftest import write_interactions

from .conftest import Train

FEW: dict[str, Any] = {"verify_rows": 20}
HAS_ONNX = True
try:
    import onnx  # noqa: F401
    import onnxruntime
    import onnxscript  # noqa: F401
except ImportError:
    HAS_ONNX = False
needs_onnx = pytest.mark.skipif(
    not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not installed (extra export)"
)


def words(run: Any, form: str, output: Path, *more: str) -> list[str]:
    return ["export", f"--checkpoint={run.folder}", f"--format={form}", f"--output={output}", "--verify_rows=20", *more]


def snippet_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found.group(1)


def check_no_place_of_this_machine(folder: Path) -> None:
    """No file, nor what is packed into one, names a folder that the code or the runs lie in."""
    places = [str(Path(__file__).parents[2]).encode(), str(Path(torch.__file__).parent).encode()]
    for file in folder.iterdir():
        contents = [file.read_bytes()]
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        assert not [place for place in places for content in contents if place in content], file.name


def check_snippet(folder: Path, run: Any, reverse_steps: int | None = None, **keys: Any) -> None:
    """The card's program, in a process that cannot import this package, prints the run's list."""
    guard = "import sys; sys.modules['recbole_diffusion'] = sys.modules['recbole'] = None\n"
    code = guard + snippet_of(folder)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    history = json.loads(re.search(r"for token in (\[.*?\])\]", code).group(1))  # type: ignore[union-attr]
    changed = {} if reverse_steps is None else {"reverse_steps": reverse_steps}
    expected = Recommender.load(run.folder, device="cpu", config=changed).recommend([history], 10, **keys)
    assert done.stdout.strip() == str(expected.items[0])


def test_a_torch_program_at_the_command_line(
    trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, folder = trained("DreamRec"), tmp_path / "new" / "export"
    assert main(words(run, "torchexport", folder, "--licence=CC BY 4.0", "--reverse_steps=2")) == 0
    shown = capsys.readouterr().out
    assert "verified on 20 of the 60 test rows of small" in shown and "100.00% of lists of 20 equal" in shown
    assert [path.name for path in folder.parent.iterdir()] == ["export"]
    files = {"README.md", "export.json", "item_vectors.npy", "items.csv", "user_encoder.pt2"}
    assert {path.name for path in folder.iterdir()} == files

    manifest = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert (manifest["model"], manifest["dataset"], manifest["score"]) == ("DreamRec", "small", "dot")
    assert manifest["reverse_chain"] == {"steps": 2, "chains_averaged": 1}
    assert manifest["noise"] == {"eval_seed": 2023, "key": "history"}
    assert manifest["settings_changed_by_the_export"] == {"reverse_steps": 2}
    assert manifest["training"]["versions"]["recbole_diffusion"] == __version__
    assert manifest["verification"]["batch_sizes"] == [1, 7, 20] and manifest["verification"]["real"] is True
    assert 0 < manifest["verification"]["largest_relative_difference"] < 1e-5
    for name, digest in manifest["files"].items():
        assert file_digest(folder / name) == digest
    assert set(manifest["files"]) == files - {"export.json"}
    assert manifest["test_result"] == run.test_result

    recommender = Recommender.load(run.folder, device="cpu")
    with (folder / "items.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["item_id"] for row in csv.DictReader(stream)] == recommender.tokens.tolist()
    vectors = np.load(folder / "item_vectors.npy")
    assert vectors.dtype == np.float32 and torch.equal(torch.from_numpy(vectors), recommender.model.item_vectors())

    text = (folder / "README.md").read_text(encoding="utf-8")
    for part in (
        "# DreamRec on small",
        "60 users and 40 items",
        "**CC BY 4.0**",
        "NeurIPS 2023",
        "reverse_steps: 2; with",
    ):
        assert part in text, part
    assert f"| ndcg@5 | {run.test_result['ndcg@5']:.6f} |" in text
    check_snippet(folder, run, reverse_steps=2)

    check_no_place_of_this_machine(folder)
    program = torch.export.load(folder / "user_encoder.pt2")
    assert program.example_inputs[0][0].max() == 1, "the file holds somebody's history"
    assert program.module()(torch.zeros(2, 6, dtype=torch.int64)).isnan().all()
    with pytest.raises(UserError, match=r"is an export without model.safetensors"):
        Recommender.load(folder)


@needs_onnx
def test_an_onnx_program_whose_rows_have_keys(trained: Train, tmp_path: Path) -> None:
    run, folder = trained("MIND"), tmp_path / "export"
    made = export_model(run.folder, folder, "onnx", row_keys="input", **FEW)
    assert [entry["name"] for entry in made.manifest["program"]["inputs"]] == ["item_seq", "row_key"]
    assert made.manifest["noise"]["key"] == "row_key" and made.manifest["reverse_chain"] is None
    assert made.manifest["verification"]["equal_lists"] == 1.0
    assert made.manifest["verification"]["largest_relative_difference"] < 1e-5
    check_no_place_of_this_machine(folder)
    session = onnxruntime.InferenceSession(folder / "user_encoder.onnx")
    item_seq = np.array([[3, 1, 2, 0, 0, 0]])
    one, two = (session.run(None, {"item_seq": item_seq, "row_key": np.array([key])})[0] for key in (0, 1))
    assert one.shape == (1, 2, 8) and np.abs(one - two).max() > 1e-3
    check_snippet(folder, run, row_keys=[0])


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("model", "score"), [("DiffuRec", "neg_sq_dist"), ("DreamRec", "cosine"), ("SASRecCE", "dot")])
def test_onnx_programs(model: str, score: str, trained: Train, tmp_path: Path) -> None:
    made = export_model(trained(model, score=score).folder, tmp_path / "export", "onnx", **FEW)
    assert made.manifest["verification"]["largest_relative_difference"] < 1e-5
    assert made.manifest["verification"]["equal_lists"] == 1.0
    check_snippet(made.folder, trained(model, score=score))


def test_the_cards_program_leaves_out_all_of_a_history(trained: Train, tmp_path: Path) -> None:
    run, folder = trained("SASRecCE"), tmp_path / "export"
    export_model(run.folder, folder, "torchexport", config={"filter_seen": True}, **FEW)
    recommender = Recommender.load(run.folder, device="cpu", config={"filter_seen": True})
    read = [f"i{number}" for number in range(1, 7)]  # as many as the model reads
    best = recommender.recommend([read], 1).items[0][0]
    history = [best, *read]
    code = re.sub(r"for token in \[.*?\]\]", f"for token in {json.dumps(history)}]", snippet_of(folder))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = recommender.recommend([history], 10).items[0]
    assert best not in expected and done.stdout.strip() == str(expected)


def test_the_cards_lines_for_weights(
    trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = trained("DreamRec"), tmp_path / "export"
    export_model(run.folder, folder, "safetensors", **FEW)
    code = snippet_of(folder)
    history = json.loads(re.search(r"recommend\(\[(\[.*?\])\]", code).group(1))  # type: ignore[union-attr]
    expected = Recommender.load(run.folder).recommend([history], 10).items[0]
    capsys.readouterr()
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.strip() == str(expected)


def test_weights_are_a_run_that_needs_no_data(trained: Train, tmp_path: Path) -> None:
    run, folder = trained("DreamRec"), tmp_path / "export"
    changed = {"reverse_steps": 2, "score": "cosine", "n_eval_samples": 2}
    made = export_model(run.folder, folder, "safetensors", config=changed, **FEW)
    assert made.manifest["reverse_chain"] == {"steps": 2, "chains_averaged": 2}
    kept = read_checkpoint(folder / "model.safetensors").facts["config"]
    assert kept["reverse_steps"] == 2 and not [key for key in kept if key.endswith(("_path", "_dir"))]
    histories = [["i1", "i2"], ["i7"], ["i5", "i30", "i5", "i6", "i1", "i2", "i3", "i4"]]
    expected = Recommender.load(run.folder, config=changed).recommend(histories, 5)
    found = Recommender.load(folder).recommend(histories, 5)
    assert found.items == expected.items and found.scores == expected.scores
    for name in ("README.md", "export.json", "model.safetensors"):
        assert str(run.folder.parent).encode() not in (folder / name).read_bytes()
    names = {"model.safetensors", "items.parquet", "items.csv", "item_vectors.npy", "README.md", "export.json"}
    assert {path.name for path in folder.iterdir()} == names
    again = export_model(folder, tmp_path / "again", "safetensors", **FEW)  # no data are where the export was
    assert again.manifest["verification"]["real"] is False
    assert "random items (the run's dataset small was not at hand)" in again.manifest["verification"]["histories"]
    text = (again.folder / "README.md").read_text(encoding="utf-8")
    assert "Unknown: there is no finished result" in text and "dataset/" not in text


def test_other_data_than_the_runs_are_not_verified_on(trained: Train, tmp_path: Path) -> None:
    write_interactions(tmp_path / "data", "small", seed=1, items=20)
    made = export_model(trained("DreamRec").folder, tmp_path / "out", "safetensors", data_path=tmp_path / "data", **FEW)
    assert "(another dataset small than the run's was at hand)" in made.manifest["verification"]["histories"]
    for file in made.folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file


def test_histories_that_are_given_come_first(trained: Train, tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    rows = {"user_id": ["a", "b", "c"], "item_id": [["i1", "what"], ["unknown"], ["i3", "i4"]]}
    pyarrow.parquet.write_table(pyarrow.table(rows), file)
    made = export_model(trained("DreamRec").folder, tmp_path / "one", "safetensors", histories=file, **FEW)
    assert made.manifest["verification"]["histories"] == "the first 2 histories of mine.parquet"
    long = {"user_id": [1, 1, 0], "item_id": ["i2", "i1", "i9"], "timestamp": [5.0, 1.0, 2.0]}
    pyarrow.parquet.write_table(pyarrow.table(long), file)
    made = export_model(trained("DreamRec").folder, tmp_path / "two", "safetensors", histories=file, **FEW)
    assert made.manifest["verification"]["rows"] == 2
    pyarrow.parquet.write_table(pyarrow.table({"user_id": ["a"], "item_id": [["nothing"]]}), file)
    with pytest.raises(UserError, match="has no history with an item that the run knows"):
        export_model(trained("DreamRec").folder, tmp_path / "three", "safetensors", histories=file, **FEW)


# what is refused ------------------------------------------------------------------------------------------------------


def nothing_is_left(folder: Path, *expected: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(expected)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"form": "onx"}, "format is 'onx'; it must be safetensors, torchexport or onnx"),
        ({"row_keys": "user"}, "row_keys is 'user'; it must be history or input"),
        ({"row_keys": "input"}, "row_keys is input, which goes with programs"),
        ({"verify_rows": 0}, "verify_rows is 0; it must be 1 or more"),
        ({"tolerance": 1.0}, "tolerance is 1.0; it must be at least 0 and less than 1"),
        ({"config": {"eval_seed": None}}, "eval_seed is ~, so an export could not be verified"),
        ({"config": {"reverse_step": 3}}, "unknown key 'reverse_step'"),
        ({"config": {"reverse_steps": 9}}, "reverse_steps is 9; it must lie in 1..4"),
    ],
)
def test_wrong_words_leave_nothing(keys: dict[str, Any], message: str, trained: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        export_model(trained("DreamRec").folder, tmp_path / "a" / "b", **{"form": "safetensors", **keys})
    assert "\n" not in str(caught.value) and nothing_is_left(tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--checkpoint=c", "--format=onnx"], "export needs --output=FOLDER to make"),
        (["--format=onnx", "--output=o"], "export needs --checkpoint=RUN_FOLDER"),
        (["--checkpoint=c", "--output=o"], "export needs --format=safetensors"),
        (["--checkpoint=c", "--format=onnx", "--output=o", "--tolerance=x"], "--tolerance is 'x'; it must be a number"),
        (["--checkpoint=c", "--format=torchexport", "--output=o"], "no checkpoint at c"),
    ],
)
def test_wrong_words_at_the_command_line(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1 and nothing_is_left(tmp_path)


def test_an_output_that_holds_something_is_left_as_it_is(
    trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "full", tmp_path / "file"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    file.write_text("mine")
    for output, message in ((folder, "is not empty; give a new folder"), (file, "is no folder; give a new one")):
        assert main(words(trained("DreamRec"), "safetensors", output)) == 2
        assert message in capsys.readouterr().err
    assert (folder / "mine.txt").read_text() == file.read_text() == "mine" and nothing_is_left(tmp_path, "full", "file")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(words(trained("DreamRec"), "safetensors", empty)) == 0 and (empty / "export.json").is_file()


def test_packages_that_are_missing_are_named(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(words(trained("DreamRec"), "onnx", tmp_path / "out")) == 2
    error = capsys.readouterr().err
    assert "--format=onnx needs onnx, " in error and "pip install 'recbole-diffusion[export]'" in error
    assert nothing_is_left(tmp_path)


def test_a_model_of_recbole_is_refused(trained: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SASRec cannot be exported: .* these can: DiffuRec, .*Popularity"):
        export_model(trained("SASRec").folder, tmp_path / "out", "torchexport")
    assert nothing_is_left(tmp_path)


def test_row_keys_of_a_model_without_noise_are_refused(trained: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="SASRecCE draws no noise here; leave row_keys out"):
        export_model(trained("SASRecCE").folder, tmp_path / "out", "torchexport", row_keys="input", **FEW)
    assert nothing_is_left(tmp_path)


def test_broken_checkpoints_are_one_line(trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = trained("DreamRec").folder / "best" / "model.safetensors"
    stored = read_checkpoint(best)
    file, output = tmp_path / "model.safetensors", tmp_path / "out"

    def refused(message: str) -> None:
        assert main(["export", f"--checkpoint={file}", "--format=safetensors", f"--output={output}"]) == 2
        error = capsys.readouterr().err
        assert re.search(message, error) and error.count("error: ") == 1 and error.splitlines()[-1].startswith("error:")
        assert nothing_is_left(tmp_path, file.name)

    file.write_bytes(best.read_bytes()[:-100])
    refused("is not a readable checkpoint")
    file.write_bytes(best.read_bytes()[:20])
    refused("is not a readable checkpoint")
    for facts in ({}, {"config": {"model": "DreamRec"}}, {"config": None}, ["?"]):
        write_checkpoint(file, Checkpoint(stored.tensors, facts))  # type: ignore[arg-type]
        refused("has no 'config' in its header that version .* can read|has a damaged header")
    config = {**stored.facts["config"], "key_of_tomorrow": 1}
    write_checkpoint(file, Checkpoint(stored.tensors, {**stored.facts, "config": config}))
    refused("unknown key 'key_of_tomorrow'")
    config = {**stored.facts["config"], "model": "ModelOfTomorrow"}
    write_checkpoint(file, Checkpoint(stored.tensors, {**stored.facts, "config": config}))
    refused("ModelOfTomorrow")


def test_weights_of_another_shape_are_refused(trained: Train, tmp_path: Path) -> None:
    best = trained("DreamRec").folder / "best"
    stored = read_checkpoint(best / "model.safetensors")
    tensors = {name: tensor for name, tensor in stored.tensors.items() if name != "model.no_condition"}
    write_checkpoint(tmp_path / "model.safetensors", Checkpoint(tensors, stored.facts))
    (tmp_path / "items.parquet").write_bytes((best / "items.parquet").read_bytes())
    with pytest.raises(UserError, match="does not fit this model and dataset: no_condition is absent"):
        export_model(tmp_path / "model.safetensors", tmp_path / "out", "safetensors")
    assert nothing_is_left(tmp_path, "model.safetensors", "items.parquet")


def test_an_export_that_gives_something_else_leaves_nothing(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(path: Path, checkpoint: Checkpoint) -> None:
        tensors = dict(checkpoint.tensors)
        tensors["model.no_condition"] = tensors["model.no_condition"] + 0.01
        write_checkpoint(path, Checkpoint(tensors, checkpoint.facts))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    run = trained("DreamRec").folder
    monkeypatch.setattr(exporting, "write_checkpoint", spoiled)
    with pytest.raises(UserError, match=r"the export differs from the model: \d+ of \d+ rows by more than 0.0001"):
        export_model(run, tmp_path / "a" / "b", "safetensors", **FEW)
    assert nothing_is_left(tmp_path)
    monkeypatch.setattr(exporting, "write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_model(run, tmp_path / "a" / "b", "safetensors", **FEW)
    assert nothing_is_left(tmp_path)
    monkeypatch.setattr(exporting, "write_checkpoint", full)
    with pytest.raises(UserError, match=r"could not be written to .* \(.*No space left on device\)"):
        export_model(run, tmp_path / "a" / "b", "safetensors", **FEW)
    assert nothing_is_left(tmp_path)


def test_a_program_that_does_not_load_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "p.onnx").write_bytes(b"no program")
    with pytest.raises(
        UserError, match=r"the exported program p.onnx does not run in a process of its own: "
    ) as caught:
        programs.run_program("onnx", tmp_path / "p.onnx", np.ones((2, 3), dtype=np.int64), None, [2])
    assert "\n" not in str(caught.value)


def test_differences_are_measured_against_the_rows_largest_entry() -> None:
    histories = VerificationHistories(np.ones((3, 2), dtype=np.int64), np.arange(3), True, "three")
    expected = np.array([[[1.0, 2.0]], [[0.5, -10.0]], [[0.0, 0.0]]], dtype=np.float32)
    items = np.eye(4, 2, dtype=np.float32)
    more: dict[str, Any] = {"list_length": 3, "runtime": "a test"}
    found = expected.copy()
    found[1, 0, 0] += 0.05
    result = compare(expected, {2: found[:2], 3: found}, items, "dot", histories, tolerance=0.01, **more)
    assert result.largest_difference == pytest.approx(0.05, rel=1e-5)
    assert result.largest_relative_difference == pytest.approx(0.005, rel=1e-5)
    assert result.batch_sizes == [2, 3] and result.equal_lists == 1.0
    for place, value in (((1, 0, 0), 1.0), ((2, 0, 0), 1e-6), ((0, 0, 0), np.nan)):
        broken = expected.copy()
        broken[place] = value
        with pytest.raises(UserError, match=r"1 of 3 rows by more than 0\.01"):
            compare(expected, {3: broken}, items, "dot", histories, tolerance=0.01, **more)
    with pytest.raises(UserError, match=r"vectors of shape \(3, 1, 1\)"):
        compare(expected, {3: expected[:, :, :1]}, items, "dot", histories, tolerance=0.01, **more)
