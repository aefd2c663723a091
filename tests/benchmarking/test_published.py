"""Printed figures: the committed files, and the errors of a suite's own."""

from __future__ import annotations

import csv
import json
import re
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


NEXT = {
    "YooChoose": "yoochoose_user_split_next",
    "KuaiRec": "kuairec_user_split_next",
    "ML-10M": "ml-10m_user_split_next",
}
MULTI = {name: f"{key}_user_split_multi" for name, key in
         {"Beauty": "amazon-beauty", "Gowalla": "gowalla", "Book": "amazon-books"}.items()}  # fmt: skip
LEAVE_ONE_OUT = {"Beauty": "amazon-beauty", "Toys": "amazon-toys", "Steam": "steam"}
ML_10M_OF_TABLE_4 = "ML-10M (as printed; values match KuaiRec)"
# file of figures -> copied table, its part, names of datasets, names of models where they differ
COPIED: dict[str, tuple[str, str, dict[str, str], dict[str, str]]] = {
    "diffurec_table2": ("diffurec_table2_main", "", {**LEAVE_ONE_OUT, "Movielens-1M": "ml-1m"}, {}),
    "diffurec_table3": ("diffurec_table3_ablation", "", {**LEAVE_ONE_OUT, "Movielens-1M": "ml-1m"}, {}),
    "diffurecsys_table3": (
        "diffurecsys_table3_variants",
        "",
        {**LEAVE_ONE_OUT, "Movielens-1M": "ml-1m-full"},
        {
            "Modified V1 (cross-attn)": "V1",
            "Modified V2 (cross-attn + offset noise)": "V2",
            "DiffuRec": "DiffuRec (copied)",
        },
    ),
    "diffurecsys_table5": ("diffurecsys_table5_main", "", {**LEAVE_ONE_OUT, "Movielens-1M": "ml-1m-full"}, {}),
    "dimerec_table1": ("dimerec_table1_main", "", NEXT, {}),
    "dimerec_table3": (
        "dimerec_tables3to8_ablation_sensitivity",
        "DimeRec T3",
        NEXT,
        {f"GEM={name}": name for name in ("SASRec", "MLP", "ComiRec-DR", "ComiRec-SA")},
    ),
    "dimerec_table4": (
        "dimerec_tables3to8_ablation_sensitivity",
        "DimeRec T4",
        {ML_10M_OF_TABLE_4: NEXT["KuaiRec"]},
        {},
    ),
    "dimerec_table5": ("dimerec_tables3to8_ablation_sensitivity", "DimeRec T5", NEXT, {}),
    "dmi_table2": (
        "dmi_table2_main",
        "",
        {name: MULTI[name] for name in ("Beauty", "Gowalla")},
        {"PoP": "Pop", "Y-DNN": "YouTubeDNN", "ComiRec": "ComiRecSA"},
    ),
    "dmi_table3": ("dmi_table3_ablation", "", MULTI, {"DMI": "DMI (full)"}),
    "dmi_table5": ("dmi_tables4to6", "DMI T5", MULTI, {f"DMI K={k}": f"K={k}" for k in (2, 4, 6, 8)}),
}


def test_every_committed_file_is_compared() -> None:
    assert sorted(COPIED) == sorted(path.stem for path in COMMITTED.glob("*.json"))


@pytest.mark.parametrize("name", COPIED)
def test_the_committed_figures_are_those_of_the_papers(name: str, shared: Path) -> None:
    """Against copies of the papers' tables made apart from these files."""
    copied, part, datasets, models = COPIED[name]
    (source,) = read_published(COMMITTED / f"{name}.json")
    expected: dict[str, dict[str, dict[str, float]]] = {}
    with (shared / "spec" / "paper_tables" / f"{copied}.csv").open(encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            metric = row["metric"].lower().replace("hr@", "hit@")
            if part.startswith("DimeRec") or name.startswith("dimerec"):
                metric = metric.replace("recall@", "hit@")
            metric = re.sub(r"^r@", "recall@", metric)
            left_out = metric.startswith(("nd@", "ndcg@")) and name.startswith("dmi")
            if "@" not in metric or left_out or (part and row["table"] != part) or "improvement" in row["model"]:
                continue
            value = float(row["value"]) * (100 if row["unit"] == "fraction" and float(row["value"]) <= 1 else 1)
            model = models.get(row["model"], row["model"])
            if row["dataset"] in datasets:
                expected.setdefault(datasets[row["dataset"]], {}).setdefault(model, {})[metric] = value
    assert source.values.keys() == expected.keys()
    for table, figures in expected.items():
        assert source.values[table].keys() == figures.keys()
        for model, values in figures.items():
            assert source.values[table][model] == pytest.approx(values, abs=1e-9), (table, model)
