"""docs/preparing_data.md: its commands run, on small files of the names and shapes that they have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from recbole_diffusion import prepare_command
from recbole_diffusion.command_line import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "preparing_data.md"
COMMANDS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("recbole-diff prepare ")]

# How the files of the commands begin, and what becomes of the first row.
FILES = {
    "ratings.csv": ("userId,movieId,rating,timestamp\n1,296,5.0,1147880044\n", "1\t296\t1147880044"),
    "ratings_Books.csv": ("AH2L9G3DQHHAJ,0000000116,4.0,1019865600\n", "AH2L9G3DQHHAJ\t0000000116\t1019865600"),
    "ratings.dat": ("1::122::5::838985046\n1::185::5::838983525\n", "1\t122\t838985046"),
    "movies.dat": (
        "122::Boomerang (1992)::Comedy|Romance\n185::Net, The (1995)::Action|Crime|Thriller\n",
        "122\tBoomerang (1992)\tComedy Romance",
    ),
    "yoochoose-buys.dat": (
        "420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n420374,2014-04-06T18:44:58.325Z,214537850,10471,1\n",
        "420374\t214537888\t1396809898.314",
    ),
    "big_matrix.csv": (
        "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        "0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.2733965215790926\n"
        "0,9598,13665,10984,,,,1.2440823015294975\n",
        "0\t3649\t1593878903.438\t1.2733965215790926",
    ),
}


@pytest.mark.parametrize("command", COMMANDS, ids=[re.findall(r"--dataset=(\S+)", command)[0] for command in COMMANDS])
def test_a_command_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name, (content, _) in FILES.items():
        Path(name).write_text(content, encoding="utf-8")
    arguments = shlex.split(command)[1:]
    assert main(arguments) == 0
    given = dict(argument[2:].split("=", 1) for argument in arguments[1:])
    folder = Path("dataset") / given["dataset"]
    header, first, *_ = (folder / f"{folder.name}.inter").read_text(encoding="utf-8").splitlines()
    assert first == FILES[given["input"]][1]
    if "items" in given:
        items = (folder / f"{folder.name}.item").read_text(encoding="utf-8").splitlines()
        assert items[1] == FILES[given["items"]][1]
    preset = PAGE.parents[1] / "properties" / "dataset" / f"{folder.name}.yaml"
    if preset.is_file():  # what the dataset's settings load is there
        loaded = yaml.safe_load(preset.read_text(encoding="utf-8"))["load_col"]["inter"]
        assert set(loaded) <= {field.partition(":")[0] for field in header.split("\t")}


def test_the_page_has_a_command_for_every_file() -> None:
    assert len(COMMANDS) == 5
    for name in FILES:
        assert any(name in command for command in COMMANDS)


def test_the_keys_of_the_page_are_keys() -> None:
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    keys = [key for row in rows if len(row) == 5 for key in re.findall(r"`(\w+)`", row[1])]
    known = {*prepare_command.OPTIONS, *prepare_command.FLAGS}
    datasets = {path.stem for path in (PAGE.parents[1] / "properties" / "dataset").glob("*.yaml")}
    named = [key for row in rows if len(row) == 5 for key in re.findall(r"`([\w-]+)`", row[1])]
    assert set(named) <= known | datasets
    assert {"user", "item", "time", "keep", "bad_rows", "overwrite"} <= set(keys)
