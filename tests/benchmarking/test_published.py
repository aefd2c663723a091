"""Printed figures: the committed files, and the errors of a suite's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recbole_diffusion.benchmarking.published import read_published, table_name
from recbole_diffusion.errors import UserError

COMMITTED = Path(__file__).resolve().parents[2] / "benchmarks" / "published"
SOURCE = {"short": "a paper", "source": "somebody: a paper", "values": {"toy": {"DMI": {"HR@10": 7.5, "Recall@5": 1}}}}


def write(folder: Path, facts: object) -> Path:
    path = folder / "paper.json"
    path.write_text(facts if isinstance(facts, str) else json.dumps(facts), encoding="utf-8")
    return path


def test_the_committed_figures() -> None:
    sources = {source.short: source for source in read_published(COMMITTED)}
    dmi = sources["DMI paper, Table 2"]
    assert dmi.of("amazon-beauty_user_split_multi", "DMI")["hit@50"] == 26.41
    assert dmi.of("amazon-beauty_user_split_multi", "DMI")["recall@50"] == 16.31
    assert (
        sources["DiffuRec paper, Table 2"].of(table_name("amazon-beauty", "leave_one_out"), "SASRec")["hit@10"]
        == 6.2648
    )
    assert dmi.of("amazon-beauty", "DMI") == {}


def test_a_file_or_several(tmp_path: Path) -> None:
    path = write(tmp_path, SOURCE)
    (one,) = read_published(path)
    assert (one.short, one.protocol) == ("a paper", "")
    assert one.of("toy", "DMI") == {"hit@10": 7.5, "recall@5": 1.0}
    assert len(read_published([path, COMMITTED])) == 1 + len(list(COMMITTED.glob("*.json")))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ('{"short":\n "a",}', r"paper.json:2: not valid JSON"),
        ([], r"paper.json: needs 'short', a text"),
        ({**SOURCE, "source": None}, r"paper.json: needs 'source', a text"),
        ({**SOURCE, "values": []}, r"paper.json: needs 'values', table -> model -> metric -> value"),
        ({**SOURCE, "unit": "share"}, r"paper.json: 'unit' is 'share'; allowed: percent"),
        ({**SOURCE, "values": {"toy": 1}}, r"paper.json: 'values' of toy are 1; allowed: table"),
        ({**SOURCE, "values": {"toy": {"DMI": 1}}}, r"paper.json: 'values' of toy, DMI are 1; allowed: table"),
        (
            {**SOURCE, "values": {"toy": {"DMI": {"HR@10": "7"}}}},
            r"paper.json: the value of toy, DMI, HR@10 is '7'; allowed: a number in percent",
        ),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path: Path, facts: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_published(write(tmp_path, facts))


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no published figures at .*absent.json"):
        read_published(tmp_path / "absent.json")
