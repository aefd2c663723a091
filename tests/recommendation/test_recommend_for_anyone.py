"""Any history, from Python and the command line: titles, items left out or added, and all that can be wrong with it."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import recbole_diffusion
from recbole_diffusion.command_line import main
from recbole_diffusion.errors import UserError
from recbole_diffusion.quick_start import run
from recbole_diffusion.recommendation.recommender import Recommender
from recbole_diffusion.recommendation.shown_lists import as_json, as_table
from recbole_diffusion.registry import KEYS_OF_PARTS
from recbole_diffusion.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from tests.conftest import write_interactions

from .conftest import TINY, Train

HISTORY = ["i1", "i2", "i3"]


@pytest.fixture(scope="module")
def diffurec(trained: Train) -> Recommender:
    return Recommender.load(trained("DiffuRec").folder, device="cpu")


@pytest.fixture(scope="module")
def titled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on data with titles, and the data: i0 has none, i1 two rows, i2 a comma."""
    data = write_interactions(tmp_path_factory.mktemp("titled"), "named", users=20, items=8)
    lines = ["item_id:token\tprice:float\tmovie_title:token_seq"]
    lines += ["i0\t1\t", "i1\t1\tThe First", "i1\t2\tIgnored", "i2\t3\tRed, White", "nobody\t1\tNot there"]
    lines += [f"i{number}\t2\tTitle of {number}" for number in range(3, 8)]
    (data / "named" / "named.item").write_text("\n".join(lines) + "\n")
    config = {**TINY, "topk": [5], "valid_metric": "NDCG@5"}
    return run("Popularity", "named", config, data_path=data, output=tmp_path_factory.mktemp("runs")).folder, data


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filter_seen": "False"}, r"filter_seen is 'False'; it must be True, False or None"),
        ({"row_keys": ["u1"]}, r"row_keys must be whole numbers of up to 63 bits"),
        ({"row_keys": [0.7]}, r"row_keys must be whole numbers of up to 63 bits"),
        ({"row_keys": [2**63]}, r"row_keys must be whole numbers of up to 63 bits"),
        ({"row_keys": [2**70]}, r"row_keys must be whole numbers of up to 63 bits"),
        ({"row_keys": [1, 2]}, r"row_keys has 2 keys for 1 histories; give one for each"),
        ({"row_keys": [[1, 2]]}, r"row_keys must be whole numbers of up to 63 bits"),
        ({"n_samples": "2"}, r"n_samples is '2'; it must be a whole number, 1 or more"),
        ({"batch_size": "2"}, r"batch_size is '2'; it must be a whole number, 1 or more"),
    ],
)
def test_arguments_of_another_kind(diffurec: Recommender, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        diffurec.recommend([HISTORY], 3, **arguments)


def test_items_to_leave_out_may_be_arrays(diffurec: Recommender) -> None:
    rows = [HISTORY, HISTORY, HISTORY]
    lists = diffurec.recommend(rows, 3, exclude=[["i4", "i5"], ["i6"], []], row_keys=[1, 2, 3])
    exclude = [np.array(["i4", "i5"]), np.array(["i6"]), np.array([], dtype=str)]
    assert diffurec.recommend(rows, 3, exclude=exclude, row_keys=np.array([1, 2, 3])).items == lists.items


TITLES = {"i0": None, "i1": "The First", "i2": "Red, White", **{f"i{n}": f"Title of {n}" for n in range(3, 8)}}


def test_titles_are_kept_with_the_run(titled: tuple[Path, Path]) -> None:
    folder, _ = titled
    found = Recommender.load(folder, device="cpu", data_path="/nowhere").recommend([["i1"], ["no"]], 8)
    assert found.titles is not None and found.items[0] is not None and len(found.items[0]) == 8
    assert found.titles == [[TITLES[item] for item in found.items[0]], None]
    (row, _), shown = json.loads(as_json(found)), as_table(found).splitlines()
    assert [line["title"] for line in row["items"]] == found.titles[0] and row["items"][0]["rank"] == 1
    assert shown[1].split() == ["rank", "item", "title", "score"] and "Red, White" in as_table(found)


def test_titles_of_older_runs_come_from_their_data(titled: tuple[Path, Path], tmp_path: Path) -> None:
    folder, data = titled
    shutil.copytree(folder, tmp_path / "older")
    items = tmp_path / "older" / "best" / "items.parquet"
    table = pyarrow.parquet.read_table(items)
    assert "title" in table.column_names
    kept = json.loads(table.schema.metadata[b"recbole_diffusion"])
    del kept["titled"]
    older = table.drop_columns(["title"]).replace_schema_metadata({"recbole_diffusion": json.dumps(kept)})
    pyarrow.parquet.write_table(older, items)
    there = Recommender.load(tmp_path / "older", device="cpu", data_path=data)
    assert there.titles is not None and dict(zip(there.tokens[1:], there.titles[1:])) == TITLES
    gone = Recommender.load(tmp_path / "older", device="cpu", data_path="/nowhere")
    assert gone.titles is None and gone.recommend([["i1"]], 3).titles is None
    items.unlink()
    read = Recommender.load(tmp_path / "older", device="cpu", data_path=data)
    assert read.titles is not None and read.titles[1:].tolist() == there.titles[1:].tolist()


def test_another_column_of_titles_may_be_named(titled: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    folder, data = titled
    named = Recommender.load(folder, device="cpu", data_path=data, config={"title_field": "movie_title"})
    assert named.titles is not None and "The First" in named.titles.tolist()
    wrong = Recommender.load(folder, device="cpu", data_path=data, config={"title_field": "price"})
    assert wrong.titles is None and "no column 'price' of text, which title_field names" in caplog.text


# what is left out, what is added --------------------------------------------------------------------------------------


def test_items_are_excluded_for_all_or_for_each(diffurec: Recommender) -> None:
    histories = [HISTORY, ["i9"]]
    whole = diffurec.recommend(histories, 40)
    best = [line[0] for line in whole.items if line]

    def without(line: list[str] | None, *gone: str) -> list[str]:
        return [item for item in line or () if item not in gone]

    assert diffurec.recommend(histories, 9, exclude=best).items == [without(line, *best)[:9] for line in whole.items]
    own = diffurec.recommend(histories, 9, exclude=[[best[0]], None]).items
    assert own == [without(whole.items[0], best[0])[:9], whole.items[1][:9] if whole.items[1] else None]
    seen = diffurec.recommend(histories, 9, exclude=[[], np.array([best[1]])], filter_seen=True).items
    assert seen == [without(whole.items[0], *HISTORY)[:9], without(whole.items[1], "i9", best[1])[:9]]
    assert diffurec.recommend(histories, 9, exclude=["unknown"]).items == diffurec.recommend(histories, 9).items
    assert diffurec.recommend(histories, 9, exclude=[]).items == diffurec.recommend(histories, 9).items


def test_added_items_are_recommended_by_their_vectors(trained: Train, caplog: pytest.LogCaptureFixture) -> None:
    recommender = Recommender.load(trained("DiffuRec").folder, device="cpu")
    before = recommender.recommend([HISTORY], 3)
    table = recommender.model.item_vectors().detach().numpy()
    best = table[list(recommender.tokens).index(before.items[0][0])]  # type: ignore[index]
    recommender.add_items(["new", 77], np.stack((2 * best, -best)), titles=["New", None])
    after = recommender.recommend([HISTORY], 4)
    assert after.items[0] == ["new", *(before.items[0] or ())]
    assert np.isclose(after.scores[0][0], 2 * before.scores[0][0], rtol=1e-5)  # type: ignore[index]
    assert after.titles == [["New", None, None, None]]
    assert len(recommender.recommend([HISTORY], 42).items[0] or ()) == 42
    # in a history: not read, counted, and not recommended again
    read = recommender.recommend([[*HISTORY, "new"]], 4, filter_seen=False)
    assert read.items == after.items and read.unknown == {0: ["new"]} and read.unknown_items == 1
    seen = recommender.recommend([[*HISTORY, "new"]], 42, filter_seen=True).items[0]
    assert seen is not None and "new" not in seen and "77" in seen and not set(HISTORY) & set(seen)
    with pytest.raises(UserError, match="was added after training, so the model cannot read it"):
        recommender.recommend([["new"]], 4, unknown="refuse")
    recommender.add_items(["third"], [2.5 * best])
    assert (recommender.recommend([HISTORY], 1).items[0] or ())[0] == "third"


@pytest.mark.parametrize(
    ("tokens", "vectors", "titles", "message"),
    [
        (["i1"], [[0.0] * 8], None, "'i1' is an item of the run already"),
        (["a", "a"], [[0.0] * 8] * 2, None, "'a' is there twice"),
        (["a"], [[0.0] * 7], None, r"vectors have the shape \[1, 7\]; it must be \[1, 8\]"),
        (["a"], [0.0] * 8, None, r"vectors have the shape \[8\]"),
        (["a"], [[0.0] * 7 + [float("nan")]], None, "the vector of 'a' has an entry that is no finite number"),
        (["a"], [["x"] * 8], None, "vectors are no numbers of 8 columns"),
        ("a", [[0.0] * 8], None, "tokens must be a list"),
        ([1.5], [[0.0] * 8], None, "tokens must be a list of text or whole numbers"),
        (["a"], [[0.0] * 8], ["x", "y"], "titles must be a list of 1"),
        (["a", ""], [[0.0] * 8] * 2, None, "the token of item 2 is empty"),
    ],
)
def test_items_that_cannot_be_added(
    tokens: Any, vectors: Any, titles: Any, message: str, diffurec: Recommender
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        diffurec.add_items(tokens, vectors, titles)
    assert "\n" not in str(caught.value) and len(diffurec.tokens) == 41


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a"]}, "has no column vector; it has item_id"),
        ({"item_id": ["a"], "vector": ["x"]}, "column vector is string; it must be lists of numbers"),
        ({"item_id": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}, "vectors differ in length"),
        ({"item_id": [None], "vector": [[1.0]]}, "item_id is null in 1 rows"),
        (
            {"item_id": pyarrow.array([], "string"), "vector": pyarrow.array([], pyarrow.list_(pyarrow.float32()))},
            r"new\.parquet has no rows",
        ),
        ({"item_id": ["a"], "vector": [[1.0]], "title": [["x"]]}, "column title is list<.*>; it must be text"),
        ({"item_id": [""], "vector": [[1.0] * 8]}, "the token of item 1 is empty"),
    ],
)
def test_files_of_items_that_are_refused(columns: dict[str, Any], message: str, trained: Train, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "new.parquet")
    with pytest.raises(UserError, match=message):
        Recommender.load(trained("DiffuRec").folder, device="cpu", added_items=tmp_path / "new.parquet")
    with pytest.raises(UserError, match=r"no file .*none\.parquet"):
        Recommender.load(trained("DiffuRec").folder, device="cpu", added_items=tmp_path / "none.parquet")


def test_a_model_that_scores_items_itself_takes_no_others(trained: Train) -> None:
    with pytest.raises(UserError, match="SASRec scores its own items alone"):
        Recommender.load(trained("SASRec").folder, device="cpu").add_items(["a"], [[0.0] * 8])


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ("i1,i2", "histories are 'i1,i2'; they must be a list of histories"),
        (None, "histories are None"),
        (5, "histories are 5"),
        (["i1", "i2"], r"history 0 is 'i1'; .*one history is a list in a list"),
        ([["i1"], None], "history 1 is None; it must be a list"),
        ([["i1"], 7], "history 1 is 7"),
        ([[["i1"]]], r"history 0 has the item \['i1'\]"),
        ([["i1", None]], "history 0 has the item None"),
        ([[1.0]], "history 0 has the item 1.0"),
        ([[True]], "history 0 has the item True"),
        ([[b"i1"]], "history 0 has the item b'i1'"),
        ([{"i1": 1}], "history 0 is {'i1': 1}"),
        ([np.zeros((2, 2))], "history 0 is array"),
    ],
)
def test_wrong_types_are_one_line(histories: Any, message: str, diffurec: Recommender) -> None:
    with pytest.raises(UserError, match=message) as caught:
        diffurec.recommend(histories, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": "5"}, "k is '5'"),
        ({"k": True}, "k is True"),
        ({"exclude": "i1"}, "exclude is 'i1'; it must be a list"),
        ({"exclude": [["i1"], ["i2"]]}, "exclude has 2 lists for 1 histories"),
        ({"exclude": [3.5]}, "exclude of history 0 is 3.5"),
        ({"exclude": ["zz"], "unknown": "refuse"}, "exclude has the item 'zz', which the run does not know"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: dict[str, Any], message: str, diffurec: Recommender) -> None:
    with pytest.raises(UserError, match=message):
        diffurec.recommend([HISTORY], **arguments)


def test_long_histories_are_cut_and_counted_and_all_of_them_filtered(
    diffurec: Recommender, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    long = [f"i{number % 30}" for number in range(10_000)]
    found = diffurec.recommend([long, HISTORY], 5, filter_seen=True)
    assert found.cut_histories == 1
    assert "1 of 2 histories are longer than the 6 items that the model reads" in caplog.text
    assert set(found.items[0] or ()) <= {f"i{number}" for number in range(30, 40)}
    read = diffurec.recommend([long], 5, filter_seen=False)
    assert read.items == diffurec.recommend([long[-6:]], 5, filter_seen=False).items


def test_an_item_may_stand_in_a_history_twice(diffurec: Recommender) -> None:
    found = diffurec.recommend([["i1", "i1", "i1"], ["i1"]], 5, filter_seen=True)
    assert "i1" not in (found.items[0] or ()) and len(found.items[0] or ()) == 5


class Marker:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def spoiled(change: Callable[[Checkpoint], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        stored = read_checkpoint(path)
        change(stored)
        write_checkpoint(path, stored)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is not a readable checkpoint"),
        (lambda path: path.write_bytes(path.read_bytes()[:50]), "is not a readable checkpoint"),
        (lambda path: path.write_bytes(b""), "is not a readable checkpoint"),
        (lambda path: path.write_bytes(pickle.dumps(Marker(path.parent / "run"))), "is not a readable checkpoint"),
        (spoiled(lambda stored: stored.facts.pop("config")), "has no 'config' in its header"),
        (
            spoiled(lambda stored: stored.facts.update(config=[], versions={"recbole_diffusion": "9.9"})),
            "written by version 9.9; load it with that one",
        ),
        (spoiled(lambda stored: stored.facts.update(data={"users": 3})), "has no 'data' in its header"),
        (spoiled(lambda stored: stored.facts["config"].update(later=3)), "unknown key 'later'"),
        (spoiled(lambda stored: stored.facts["config"].update(hidden_size=4)), "does not fit this model and dataset"),
        (spoiled(lambda stored: stored.tensors.pop("model.item_embedding.weight")), "item_embedding.weight is absent"),
    ],
)
def test_checkpoints_that_are_cut_or_of_another_version(
    spoil: Callable[[Path], None], message: str, trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained("DiffuRec").folder, tmp_path / "run")
    spoil(tmp_path / "run" / "best" / "model.safetensors")
    assert main(["recommend", f"--checkpoint={tmp_path / 'run'}", "--history=i1"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run" / "best" / "run").exists(), "something was unpickled"


@pytest.mark.parametrize("key", sorted(set(KEYS_OF_PARTS)))
def test_a_module_that_a_checkpoint_names_is_not_imported(
    key: str, trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = f"foreign_{key}"  # imported once a process
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{module}.py").write_text("from pathlib import Path\nPath('was_run').touch()\nName = 1\n")
    shutil.copytree(trained("DiffuRec").folder, tmp_path / "run")
    spoiled(lambda stored: stored.facts["config"].update({key: f"{module}:Name"}))(
        tmp_path / "run" / "best" / "model.safetensors"
    )
    words: list[list[str]] = [["recommend", "--history=i1"], ["index"]]
    words += [["export", "--format=safetensors", f"--output={tmp_path / 'export'}"]]
    for more in words:
        assert main([more[0], "--checkpoint=run", *more[1:]]) == 2
        error = capsys.readouterr().err
        assert f"{key} '{module}:Name'" in error and f"allow it with own_code={module}" in error
        assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "was_run").exists() and not (tmp_path / "export").exists()
    with pytest.raises(UserError, match=f"would run the module {module}"):
        Recommender.load("run")
    with pytest.raises((UserError, TypeError, ValueError)):  # it is allowed, and is no part: a number
        Recommender.load("run", own_code=["other", module])
    assert (tmp_path / "was_run").exists() or key == "reverse_sampler"  # looked up when a chain begins


def test_a_part_of_ones_own_is_allowed_by_name_or_by_naming_it(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_noise.py").write_text("from recbole_diffusion.diffusion.noise import GlobalNoise as Mine\n")
    run_folder = trained("DiffuRec", noise="own_noise:Mine").folder
    words = ["recommend", f"--checkpoint={run_folder}", "--history=i1"]
    assert main([*words, "--own_code=own noise"]) == 2 and "must be names of modules" in capsys.readouterr().err
    assert main([*words, "--own_code=own_noise"]) == 0
    assert Recommender.load(run_folder, config={"noise": "own_noise:Mine"}).recommend([["i1"]], 3).items[0]
    expected = Recommender.load(run_folder, own_code="own_noise", device="cpu").recommend([["i1"]], 3)
    export = tmp_path / "export"
    words = ["export", f"--checkpoint={run_folder}", "--format=safetensors", f"--output={export}"]
    assert main([*words, "--own_code=own_noise"]) == 0
    card = (export / "README.md").read_text(encoding="utf-8")
    assert 'Recommender.load(".", own_code=["own_noise"])' in card
    assert Recommender.load(export, own_code=["own_noise"], device="cpu").recommend([["i1"]], 3).items == expected.items


def test_every_part_that_may_be_of_ones_own_is_known_to_the_check() -> None:
    package = Path(recbole_diffusion.__file__).parent
    source = "".join(path.read_text() for path in package.rglob("*.py"))
    used = re.findall(r"named_part\((?:\w+\.)?(\w+)\)", source)
    assert used and set(used) == set(KEYS_OF_PARTS) - {"model"}
    assert len(re.findall(r"named_part\((?!name: str)", source)) == len(used), "a use that the check cannot read"


# the command ----------------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(
    trained: Train, diffurec: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["recommend", f"--checkpoint={trained('DiffuRec').folder}", "--history= i1, i2 ,zz", "--top_k=4"]
    assert main(words) == 0
    shown = capsys.readouterr()
    expected = diffurec.recommend([["i1", "i2"]], 4)
    assert [line.split()[:2] for line in shown.out.splitlines()[1:]] == [
        [str(rank), item] for rank, item in enumerate(expected.items[0] or (), 1)
    ]
    assert "1 items that the model does not know are skipped: 'zz'" in shown.err
    options = ["--filter_seen", '--exclude=["i5"]', "--n_samples=3", "--diversity=1", "--seed=4", "--json"]
    assert main([*words, '--history=["i9"]', *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    merged = diffurec.recommend(
        [["i1", "i2"], ["i9"]], 4, filter_seen=True, exclude=["i5"], n_samples=3, diversity=1.0, seed=4
    )
    assert [[line["item"] for line in row["items"]] for row in rows] == merged.items
    assert [row["unknown"] for row in rows] == [["zz"], []] and rows[1]["history"] == 2
    assert rows[0]["items"][0]["score"] == pytest.approx(merged.scores[0][0])  # type: ignore[index]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--history="], "--history is empty"),
        (["--history=[]"], "--history has no item"),
        (["--history=zz,yy"], "--history has no item that the model knows ('zz', 'yy'); nothing can be recommended"),
        (["--history=i1", "--history=zz"], "--history number 2 has no item that the model knows ('zz')"),
        (["--history=i1,zz", "--unknown=refuse"], "has the item 'zz', which the run does not know"),
        (["--history=i1", "--unknown=maybe"], "unknown is 'maybe'; it must be skip or refuse"),
        (["--history=i1", "--unknown=skip", "--unknown_items=bad"], "older name of unknown; give one of them"),
        (["--history=i1", "--unknown_items=bad"], "unknown_items is 'bad'; it must be skip or refuse"),
        (["--history=i1,,i2"], "--history is i1,,i2: item 2 is empty"),
        (["--history=['i1']"], "begins like a JSON list and is none"),
        (["--history=[1.5]"], "--history has the item 1.5"),
        (["--history=i1", "--top_k=41"], "top_k is 41; it must be from 1 to 40"),
        (["--history=i1", "--diversity=0.5"], "n_samples is 1; set n_samples"),
        (["--history=i1", "--diversity=some"], "--diversity is 'some'; it must be a number from 0 to 1"),
        (["--history=i1", "--histories=in.csv"], "--history is of one user and --histories a file of users"),
        (["--history=i1", "--output=out.parquet"], "--output goes with --histories=FILE"),
        (["--history=i1", "--resume"], "--resume goes with --histories=FILE"),
        (["--histories=in.csv", "--output=o", "--json"], "--json goes with --history"),
        (["--histories=in.csv"], "recommend needs --output=FILE.parquet"),
        ([], 'recommend needs --history="a,b,c"'),
        (["--history=i1", "--retrieval=annoy"], "retrieval is 'annoy'"),
        (["--history=i1", "--item_separator=[]"], "item_separator is '[]'"),
    ],
)
def test_mistakes_at_the_command_line(
    words: list[str], message: str, trained: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", f"--checkpoint={trained('DiffuRec').folder}", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1, error
