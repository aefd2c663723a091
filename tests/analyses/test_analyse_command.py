"""The word analyse: which analysis, its keys, and what is left behind after a mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from recbole_diffusion import analyse_command
from recbole_diffusion.analyses.request import Request, named_runs
from recbole_diffusion.analyses.table import ANALYSES, OPTIONS
from recbole_diffusion.analyses.text_table import text_table
from recbole_diffusion.command_line import main
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import bar_style, line_style, new_figure, save


def asked(tmp_path: Path, **options: str) -> Request:
    return Request(options, Overrides(), tmp_path)


def refusal(options: Mapping[str, str], config: Mapping[str, object] | None = None) -> str:
    with pytest.raises(UserError) as error:
        analyse_command.run(options, set(), Overrides(config or {}))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_key_of_an_analysis_is_explained() -> None:
    for analysis in ANALYSES.values():
        assert set(analysis.needs) | set(analysis.takes) <= set(OPTIONS)
    assert {key for row in ANALYSES.values() for key in (*row.needs, *row.takes)} == set(OPTIONS)


def test_the_page_has_every_analysis_and_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "analyses.md").read_text(encoding="utf-8")
    for name, analysis in ANALYSES.items():
        section = page.split(f"## {name}\n")[1].split("\n## ")[0]
        for key in (*analysis.needs, *analysis.takes):
            assert f"`--{key}`" in section or f"--{key}=" in section, (name, key)


def test_which_analysis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refusal({}).startswith("analyse needs the NAME of an analysis; there are reverse_steps, ")
    assert refusal({"analysis": "reverse_step"}) == "no analysis 'reverse_step'; did you mean 'reverse_steps'?"
    assert refusal({"analysis": "groups"}) == "groups needs --runs=RUN_FOLDERS"
    assert "--steps does not go with groups, which takes runs, cutoff" in refusal(
        {"analysis": "groups", "runs": "a", "steps": "1"}
    )
    assert refusal({"analysis": "groups", "runs": "a"}, {"cut_off": 5}) == (
        "unknown key 'cut_off' of groups; did you mean 'cutoff'?"
    )
    assert "unknown key 'epochs' of groups; it takes runs, cutoff, head_share" in refusal(
        {"analysis": "groups", "runs": "a"}, {"epochs": 5}
    )
    assert not list(tmp_path.iterdir())


def test_a_mistake_leaves_no_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["analyse", "groups", "--runs=nowhere"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: --runs: no folder nowhere"
    assert not (tmp_path / "analyses").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kept").touch()
    assert main(["analyse", "groups", "--runs=nowhere", "--output=mine"]) == 2
    assert (tmp_path / "mine" / "kept").exists()


def test_a_key_of_another_analysis_may_be_one_of_the_run(tmp_path: Path) -> None:
    """`--steps` is a key of reverse_steps, and one of RecBole's DiffRec."""
    config = Overrides()
    options = {
        "analysis": "uncertainty",
        "checkpoint": str(tmp_path / "none"),
        "steps": "5",
        "output": str(tmp_path / "o"),
    }
    with pytest.raises(UserError, match="no checkpoint at"):
        analyse_command.run(options, set(), config)
    assert config == {"steps": 5}


@pytest.mark.parametrize(
    ("text", "numbers"), [("1", [1]), ("1,2", [1, 2]), ("[4, 8]", [4, 8]), ("2,2", [2, 2]), ("1e1", [10])]
)
def test_whole_numbers(text: str, numbers: list[int], tmp_path: Path) -> None:
    assert asked(tmp_path, steps=text).wholes("steps", [3]) == numbers


@pytest.mark.parametrize("text", ["0", "1.5", "a", "", "[1,", "9", ".inf", "True", "1,x", "{a: 1}"])
def test_other_than_whole_numbers_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--steps must be whole numbers from 1 to 8, got"):
        asked(tmp_path, steps=text).wholes("steps", [3], most=8)


def test_single_numbers_and_words(tmp_path: Path) -> None:
    assert asked(tmp_path).whole("k", 20) == 20
    with pytest.raises(UserError, match="--k must be a whole number from 1, got '1,2'"):
        asked(tmp_path, k="1,2").whole("k", 20)
    with pytest.raises(UserError, match="--split must be test or valid, got 'train'"):
        asked(tmp_path, split="train").choice("split", ("test", "valid"))
    assert asked(tmp_path).choice("split", ("test", "valid")) == "test"
    assert asked(tmp_path, user="a 'b c'").words("user") == ["a", "b c"]
    with pytest.raises(UserError, match="cannot read --user=''a': No closing quotation"):
        asked(tmp_path, user="'a").words("user")


def test_runs_have_names(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "a b").mkdir()
    first, second = str(tmp_path / "first"), str(tmp_path / "a b")
    assert named_runs(f"{first} 'B={second}'") == [("first", tmp_path / "first"), ("B", tmp_path / "a b")]
    with pytest.raises(UserError, match="--runs: two runs are named first; give names as NAME=RUN_FOLDER"):
        named_runs(f"{first} first={first}")


def test_numbers_are_written_whole(tmp_path: Path) -> None:
    file = asked(tmp_path).write_csv("a.csv", ["x", "y"], [[1 / 3, None], [1, "a, b"]])
    assert file.read_text(encoding="utf-8") == 'x,y\n0.3333333333333333,\n1,"a, b"\n'


def test_a_table_for_a_terminal() -> None:
    table = text_table(["name", "value"], [["a", 0.123456], ["long", None]])
    assert table == "name   value\na     0.1235\nlong       -"


def test_a_picture_is_the_same_file_again(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        figure, (panel,) = new_figure()
        panel.plot([1, 2], [3, 4], label="x", **line_style(1))
        panel.bar([1, 2], [1, 2], **bar_style(1))
        panel.legend()
        save(figure, tmp_path / folder / "picture", about="two lines")
    for suffix in ("png", "svg"):
        one, other = ((tmp_path / folder / f"picture.{suffix}").read_bytes() for folder in "ab")
        assert one == other
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["picture.png", "picture.svg"]
