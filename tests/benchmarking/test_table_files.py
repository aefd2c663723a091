"""The exact text of tables from small run folders, and their figures as parquet."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from recbole_diffusion.benchmarking.comparison import Comparison
from recbole_diffusion.benchmarking.latex_table import escape_latex
from recbole_diffusion.benchmarking.published import read_published
from recbole_diffusion.benchmarking.results import find_runs
from recbole_diffusion.benchmarking.table_files import write_tables
from recbole_diffusion.benchmarking.tables import ResultTable, build_tables
from recbole_diffusion.errors import UserError

from .folders import PROTOCOL, make_run
from .test_tables import hits

PAPER = {
    "short": "DMI paper, Table 2",
    "source": "Le et al.: DMI",
    "unit": "percent",
    "protocol": "users 8:1:1",
    "values": {"toy": {"DMI": {"HR@10": 70.5}}},
}


@pytest.fixture
def tables(tmp_path: Path) -> list[ResultTable]:
    """DMI with two seeds and one under way, SASRec with two, popularity under filter_seen; a printed figure of DMI."""

    def make(name: str, model: str, seed: int, hit: list[float], **facts: object) -> None:
        ndcg = [value / 2 for value in hit]
        test = {"hit@10": sum(hit) / 10, "ndcg@10": sum(ndcg) / 10}
        make_run(tmp_path / "runs" / name, model, seed, test, {"hit@10": hit, "ndcg@10": ndcg}, **facts)

    make("dmi-1", "DMI", 1, hits(0, 1, 2, 3, 4, 5, 6))
    make("dmi-2", "DMI", 2, hits(0, 1, 2, 3, 4, 5, 6, 7))
    make_run(tmp_path / "runs" / "dmi-3", "DMI", 3, None)
    make("pop (1)", "Popularity", 1, hits(9), protocol={**PROTOCOL, "filter_seen": True}, label="Pop_100% & more")
    make("sasrec-1", "SASRec", 1, hits(0, 1))
    make("sasrec-2", "SASRec", 2, hits(0))
    (tmp_path / "paper.json").write_text(json.dumps(PAPER), encoding="utf-8")
    return build_tables(
        find_runs(tmp_path / "runs"),
        comparison=Comparison(reference="SASRec"),
        published=read_published(tmp_path / "paper.json"),
    )


MARKDOWN = """\
# toy, leave_one_out

| model | seeds | HR@10 | NDCG@10 |
|---|---:|---:|---:|
| DMI | 2 of 3 | **[75.00 ± 7.07](#toy-1)**† | **[37.50 ± 3.54](#toy-1)**† |
| DMI in the DMI paper, Table 2 |  | 70.50 | – |
| difference to the DMI paper, Table 2 |  | +4.50 | – |
| Pop_100% & more | 1 | [10.00](../runs/pop%20%281%29) | [5.00](../runs/pop%20%281%29) |
| SASRec | 2 | <u>[15.00 ± 7.07](#toy-3)</u> | <u>[7.50 ± 3.54](#toy-3)</u> |

Test metrics in percent, mean ± sample standard deviation over seeds; best bold, second underlined.

† better, ‡ worse than SASRec: paired t-test over 10 users, each averaged over seeds, p < 0.05 with Holm's correction \
for 4 tests. It speaks of other users for these trained models, not of other trainings.

Numbers of seeds differ: 2 for DMI, SASRec; 1 for Pop_100% & more.

Whether items of the history are left out of the ranking (filter_seen) differs: False for DMI, SASRec; True for \
Pop_100% & more.

Unfinished, not in the figures: DMI seed 3.

DMI paper, Table 2: Le et al.: DMI (users 8:1:1).

## Tests

| model | metric | reference | difference | 95 % interval | p | corrected p | users |
|---|---:|---:|---:|---:|---:|---:|---:|
| DMI | HR@10 | SASRec | +60.00† | +30.00 to +85.00 | 0.0026 | 0.0102 | 10 |
| DMI | NDCG@10 | SASRec | +30.00† | +15.00 to +42.50 | 0.0026 | 0.0102 | 10 |
| Pop_100% & more | HR@10 | SASRec | -5.00 | -35.00 to +25.00 | 0.7577 | 1.0000 | 10 |
| Pop_100% & more | NDCG@10 | SASRec | -2.50 | -17.50 to +12.50 | 0.7577 | 1.0000 | 10 |

## Runs

| model | seed | HR@10 | NDCG@10 | epochs | seconds | device | code |
|---|---:|---:|---:|---:|---:|---:|---:|
| <a id="toy-1"></a>DMI | [1](../runs/dmi-1) | 70.00 | 35.00 | 3 | 12 | cpu | 0.1.0, 0123456789ab |
| DMI | [2](../runs/dmi-2) | 80.00 | 40.00 | 3 | 12 | cpu | 0.1.0, 0123456789ab |
| DMI | [3](../runs/dmi-3) | – | – | 0, unfinished | – | – | – |
| <a id="toy-2"></a>Pop_100% & more | [1](../runs/pop%20%281%29) | 10.00 | 5.00 | 3 | 12 | cpu | 0.1.0, 0123456789ab |
| <a id="toy-3"></a>SASRec | [1](../runs/sasrec-1) | 20.00 | 10.00 | 3 | 12 | cpu | 0.1.0, 0123456789ab |
| SASRec | [2](../runs/sasrec-2) | 10.00 | 5.00 | 3 | 12 | cpu | 0.1.0, 0123456789ab |
"""

LATEX = r"""\begin{table}
\centering
\caption{toy, leave\_one\_out}
\label{tab:toy}
\begin{tabular}{lrrr}
\toprule
model & seeds & HR@10 & NDCG@10 \\
\midrule
DMI & 2 of 3 & \textbf{75.00 $\pm$ 7.07}$^{\dagger}$ & \textbf{37.50 $\pm$ 3.54}$^{\dagger}$ \\
\quad DMI in the DMI paper, Table 2 &  & 70.50 & -- \\
\quad difference to the DMI paper, Table 2 &  & +4.50 & -- \\
Pop\_100\% \& more & 1 & 10.00 & 5.00 \\
SASRec & 2 & \underline{15.00 $\pm$ 7.07} & \underline{7.50 $\pm$ 3.54} \\
\bottomrule
\end{tabular}

\footnotesize
Test metrics in percent, mean $\pm$ sample standard deviation over seeds; best bold, second underlined.\par
$^{\dagger}$ better, $^{\ddagger}$ worse than SASRec: paired t-test over 10 users, each averaged over seeds, """ + (
    r"""p \textless{} 0.05 with Holm's correction for 4 tests. It speaks of other users for these trained models, """
    r"""not of other trainings.\par
Numbers of seeds differ: 2 for DMI, SASRec; 1 for Pop\_100\% \& more.\par
Whether items of the history are left out of the ranking (filter\_seen) differs: False for DMI, SASRec; True for """
    r"""Pop\_100\% \& more.\par
Unfinished, not in the figures: DMI seed 3.\par
DMI paper, Table 2: Le et al.: DMI (users 8:1:1).\par
\end{table}
% DMI, seed 1: ../runs/dmi-1
% DMI, seed 2: ../runs/dmi-2
% DMI, unfinished, seed 3: ../runs/dmi-3
% Pop_100% & more, seed 1: ../runs/pop (1)
% SASRec, seed 1: ../runs/sasrec-1
% SASRec, seed 2: ../runs/sasrec-2
"""
)

CSV = """\
model,seeds,unfinished,HR@10,HR@10 std,HR@10 corrected p,HR@10 published,NDCG@10,NDCG@10 std,NDCG@10 corrected p,folders
DMI,2,1,75,7.07107,0.0102458,70.5,37.5,3.53553,0.0102458,../runs/dmi-1;../runs/dmi-2
Pop_100% & more,1,0,10,,1,,5,,1,../runs/pop (1)
SASRec,2,0,15,7.07107,,,7.5,3.53553,,../runs/sasrec-1;../runs/sasrec-2
"""


@pytest.mark.parametrize(("form", "name", "text"), [("markdown", "toy.md", MARKDOWN), ("latex", "toy.tex", LATEX)])
def test_text(tables: list[ResultTable], tmp_path: Path, form: str, name: str, text: str) -> None:
    (path,) = write_tables(tables, tmp_path / "tables", [form])
    assert path.name == name
    assert path.read_text(encoding="utf-8") == text


def test_csv(tables: list[ResultTable], tmp_path: Path) -> None:
    (path,) = write_tables(tables, tmp_path / "tables", ["csv"])
    assert path.read_text(encoding="utf-8") == CSV


def test_every_link_leads_to_a_run_or_to_the_list_of_runs(tables: list[ResultTable], tmp_path: Path) -> None:
    (path,) = write_tables(tables, tmp_path / "deep" / "tables", ["markdown"])
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"\]\(([^)]*)\)", text))
    assert len(targets) == 6 + 2
    for target in targets:
        if target.startswith("#"):
            assert f'<a id="{target[1:]}">' in text
        else:
            assert (path.parent / target.replace("%20", " ").replace("%28", "(").replace("%29", ")")).is_dir()
    assert str(tmp_path) not in text


def test_parquet_has_a_line_a_row_and_metric(tables: list[ResultTable], tmp_path: Path) -> None:
    (path,) = write_tables(tables, tmp_path / "tables", ["parquet"])
    lines = pd.read_parquet(path).set_index(["label", "metric"])
    assert len(lines) == 6
    dmi = lines.loc[("DMI", "hit@10")]
    assert (dmi["mean"], dmi["n"], dmi["unit"]) == (75.0, 2, "percent")
    assert dmi["std"] == pytest.approx(50**0.5)
    assert dmi["low"] < 75 < dmi["high"]
    assert (dmi["reference"], dmi["test"], dmi["correction"], dmi["mark"]) == ("SASRec", "t-test", "holm", "†")
    assert (dmi["difference"], dmi["users"]) == (pytest.approx(60.0), 10)
    assert dmi["difference_low"] < 60 < dmi["difference_high"]
    assert dmi["p_corrected"] == pytest.approx(4 * dmi["p_value"])
    assert (dmi["published"], dmi["published_source"]) == (70.5, "DMI paper, Table 2")
    assert dmi["seeds"].tolist() == [1, 2]
    assert dmi["unfinished_seeds"].tolist() == [3]
    assert dmi["folders"].tolist() == ["../runs/dmi-1", "../runs/dmi-2"]
    sasrec = lines.loc[("SASRec", "ndcg@10")]
    assert sasrec["mark"] is None
    assert pd.isna(sasrec["p_value"])
    assert pd.isna(lines.loc[("Pop_100% & more", "hit@10"), "std"])


def test_rows_of_one_model_share_its_printed_figures(tmp_path: Path) -> None:
    for name, hit in (("a", 0.7), ("b", 0.6)):
        make_run(tmp_path / name, "DMI", 1, {"hit@10": hit}, label=f"DMI {name} | x")
    (tmp_path / "paper.json").write_text(json.dumps(PAPER), encoding="utf-8")
    runs = [*find_runs(tmp_path / "a"), *find_runs(tmp_path / "b")]
    (path,) = write_tables(
        build_tables(runs, published=read_published(tmp_path / "paper.json")), tmp_path, ["markdown"]
    )
    assert path.read_text(encoding="utf-8").splitlines()[4:9] == [
        r"| DMI a \| x | 1 | **[70.00](a)** |",
        "| DMI in the DMI paper, Table 2 |  | 70.50 |",
        "| difference to the DMI paper, Table 2 |  | -0.50 |",
        r"| DMI b \| x | 1 | <u>[60.00](b)</u> |",
        "| difference to the DMI paper, Table 2 |  | -10.50 |",
    ]


def test_latex_prints_what_it_would_interpret() -> None:
    assert escape_latex(r"50 % & $5 #1 a_b {c} \f") == r"50 \% \& \$5 \#1 a\_b \{c\} \textbackslash{}f"
    assert escape_latex("~d ^e <g> ± – †") == (
        r"\textasciitilde{}d \textasciicircum{}e \textless{}g\textgreater{} $\pm$ -- $^{\dagger}$"
    )


def test_all_formats_are_written_whole(tables: list[ResultTable], tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    written = write_tables(tables, folder)
    assert [path.name for path in written] == ["toy.md", "toy.tex", "toy.csv", "toy.parquet"]
    assert sorted(folder.iterdir()) == sorted(written)


def test_formats_and_folders_that_cannot_be(tables: list[ResultTable], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="formats: 'html' is unknown; allowed: markdown, latex, csv, parquet"):
        write_tables(tables, tmp_path, ["html"])
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot write .*toy.md .*; give another folder"):
        write_tables(tables, tmp_path / "file", ["markdown"])


def test_tables_of_unfinished_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, None)
    for path in write_tables(build_tables(find_runs(tmp_path)), tmp_path / "tables"):
        assert path.stat().st_size
    assert "| A | 0 of 1 |" in (tmp_path / "tables" / "toy.md").read_text(encoding="utf-8")


def test_tables_need_neither_recbole_nor_torch() -> None:
    code = (
        "import sys; from recbole_diffusion.benchmarking import table_files; "
        "print(sorted({'torch', 'recbole', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
