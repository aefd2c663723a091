"""The report's page: the figures are those of the tables, markup in a label is text, nothing is fetched."""

from __future__ import annotations

import dataclasses
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import markupsafe
import pytest

from recbole_diffusion.benchmarking.metric_names import printed_name
from recbole_diffusion.benchmarking.printed import figure, lines_of_tests, published_lines, seeds
from recbole_diffusion.benchmarking.results import read_run
from recbole_diffusion.errors import UserError
from recbole_diffusion.pictures import COLOURS, DASHES, MARKERS
from recbole_diffusion.reporting.circumstances import environment_facts, protocol_facts
from recbole_diffusion.reporting.learning_curves import Curve, read_curve, thinned
from recbole_diffusion.reporting.page import render, write_report
from recbole_diffusion.reporting.plot_data import styles
from recbole_diffusion.reporting.run_lines import duration
from recbole_diffusion.reporting.suite_report import NOT_BEGUN, SuiteReport

from .example import EVIL, example, make


class Page(HTMLParser):
    """The text of a page's tables, its links and its identifiers."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.links: list[str] = []
        self.identifiers: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._cell: list[str] | None = None
        self._unseen = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.elements.append((tag, given))
        if given.get("id"):
            self.identifiers.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = []
        elif self._cell is not None and given.get("class") == "unseen":
            self._unseen += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None
        elif tag == "span" and self._unseen:
            self._unseen -= 1

    def handle_data(self, data: str) -> None:
        if self._cell is not None and not self._unseen:
            self._cell.append(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[SuiteReport, Path]:
    folder = tmp_path_factory.mktemp("suite")
    return example(folder), folder


@pytest.fixture(scope="module")
def text(report: tuple[SuiteReport, Path]) -> str:
    return render(*report)


def plots(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)
    values: dict[str, Any] = json.loads(found)
    return values


def test_the_figures_are_those_of_the_tables(report: tuple[SuiteReport, Path], text: str) -> None:
    page = Page(text)
    shown = [table for table in page.tables if table[0][:2] == ["Model", "Seeds"]]
    expected = [table for evaluation in report[0].evaluations for table in evaluation.tables]
    assert len(shown) == len(expected) == 2
    for lines, table in zip(shown, expected, strict=True):
        rows = []
        below = published_lines(table)
        for row in table.rows:
            cells = [row.cells[metric] for metric in table.metrics]
            marks = [cell.tested.mark if cell.tested else "" for cell in cells]
            figures = [figure(cell, table.decimals) + mark for cell, mark in zip(cells, marks, strict=True)]
            rows.append([row.label, seeds(row), *figures])
            rows += [[name, "", *printed] for name, printed in below.get(row.label, ())]
        assert lines[1:] == rows
        assert [name.removesuffix(" %") for name in lines[0][2:]] == list(map(printed_name, table.metrics))
        for note in table.notes:
            assert f"<p>{markupsafe.escape(note)}</p>" in text
        tests = [other for other in page.tables if other[1:] == lines_of_tests(table)]
        assert len(tests) == 1
    # by hand: 12 and 14 of 40 users are 30 and 35 %; the paper prints 31.5
    assert ["DMI", "2 of 3", "32.50 ± 3.54†", "16.25 ± 1.77†"] in shown[0]
    assert ["difference to the DMI paper, Table 2", "", "+1.00", "+4.00"] in shown[0]
    assert re.search(r"<strong><a [^>]*>32.50", text) and re.search(r"<u><a [^>]*>12.50", text)


def test_every_figure_leads_to_the_runs_that_it_comes_from(report: tuple[SuiteReport, Path], text: str) -> None:
    shown, folder = report
    found = re.findall(r'<td class="right figure" data-value="([^"]+)">(?:<\w+>)?<a href="([^"]+)">', text)
    cells = [
        (row, row.cells[metric])
        for evaluation in shown.evaluations
        for table in evaluation.tables
        for row in table.rows
        for metric in table.metrics
    ]
    cells = [(row, cell) for row, cell in cells if cell.summary]
    assert [value for value, _ in found] == [repr(cell.summary.mean) for _, cell in cells if cell.summary]
    for (_, link), (row, _) in zip(found, cells, strict=True):
        folders = [run.folder.resolve() for run in row.runs]
        if link.startswith("#"):  # the list of its runs, whose folders stand there
            listed = text.split(f'id="{link[1:]}"')[1].split("</table>")[0]
            links = [unquote(each) for each in re.findall(r'href="([^"]+)/">folder', listed)][: len(folders)]
            assert [(folder / each).resolve() for each in links] == folders and len(folders) > 1
        else:
            assert [(folder / unquote(link)).resolve() for link in [link]] == folders


def test_what_is_not_finished_is_said(text: str) -> None:
    assert "DMI on toy, seed 3</a>: <strong>failed</strong>, the loss of epoch 3 is NaN &lt;i&gt;" in text
    assert "DMI on other, seed 1: <strong>not begun</strong>" in text
    assert "other: no run is finished, hence no figures." in text
    assert "5 of 7 runs finished" in text
    assert "Nothing is chosen yet: 0 of 2 configurations have a validation score." in text


def test_markup_in_names_is_text(text: str) -> None:
    assert EVIL not in text and "<i>" not in text and "<seen>" not in text
    assert html.escape(EVIL) in text
    scripts = re.findall(r"<script[^>]*>", text)
    assert scripts == ['<script type="application/json" id="plots">', "<script>"]
    assert EVIL in plots(text)["styles"]


def test_nothing_is_fetched(text: str) -> None:
    page = Page(text)
    for tag, given in page.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base")
        assert not {"src", "style", "onclick", "onload"} & given.keys(), (tag, given)
    addresses = {str(given["href"]) for tag, given in page.elements if tag == "link"}
    assert addresses == {"data:,"}
    assert not [link for link in page.links if "//" in link or link.startswith("/")]
    style = text.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style
    policy = next(str(given["content"]) for tag, given in page.elements if given.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy


def test_links_lead_somewhere(report: tuple[SuiteReport, Path], text: str) -> None:
    page = Page(text)
    assert len(set(page.identifiers)) == len(page.identifiers)
    places = [link for link in page.links if not link.startswith("#")]
    assert len(places) > 20
    (report[1] / "searches" / "toy" / "DMI").mkdir(parents=True, exist_ok=True)
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.identifiers
        else:
            assert (report[1] / unquote(link)).exists(), link
    assert str(report[1]) not in text


def test_tables_are_readable_by_a_screen_reader(text: str) -> None:
    page = Page(text)
    for tag, given in page.elements:
        if tag == "th":
            assert given.get("scope") in ("col", "row")
        if given.get("class") == "scroll":
            assert given.get("tabindex") == "0" and given.get("aria-label") and given.get("role") == "region"
    names = {str(given["id"]) for tag, given in page.elements if tag == "select"}
    assert names == {str(given["for"]) for tag, given in page.elements if tag == "label"} != set()


def test_circumstances(report: tuple[SuiteReport, Path], text: str) -> None:
    table = report[0].evaluations[0].tables[0]
    facts = {fact.name: fact.values for fact in protocol_facts(table)}
    assert facts["rows of the evaluation"] == [("each user's last item tests, the one before it validates", "")]
    assert facts["ranked"] == [("every item", "")]
    assert facts["items of a row's history"] == [
        ("ranked like the others", "SASRec, DMI"),
        ("left out of the ranking (filter_seen)", EVIL),
    ]
    assert facts["eval_seed"] == [("2023", "")]
    records = [run.record for run in report[0].runs if run.record and run.record.finished]
    environment = {fact.name: fact.values for fact in environment_facts(records)}
    assert environment["torch"] == [("2.13.0", "")]
    assert environment["code of recbole-diffusion"] == [
        ("0.1.0, 0123456789ab", "4 runs"),
        ("0.1.0, ffffffffffff, uncommitted changes", "1 run"),
    ]
    assert "a" * 64 in text  # of the data's file
    assert "recbole-diff run --config_files=runs/toy/DMI/seed-1/asked.yaml --data_path=DATA" in text
    assert "2026-01-01T10:00:00+0000 to 2026-01-02T10:00:00+0000" in text
    assert "learning_rate: 0.00123456789" in text and "failed: the loss is NaN" in text


def test_plots_have_the_tables_and_the_curves_numbers(report: tuple[SuiteReport, Path], text: str) -> None:
    values = plots(text)
    (section,) = values["sections"]
    assert section["metric"] == "ndcg@10"  # checkpoints were chosen by it
    assert section["metrics"] == [
        {"key": "hit@10", "name": "HR@10", "unit": "%"},
        {"key": "ndcg@10", "name": "NDCG@10", "unit": "%"},
    ]
    rows = {row["label"]: row for row in section["bars"][0]["rows"]}
    cell = rows["DMI"]["cells"]["hit@10"]
    assert cell["mean"] == 32.5 and cell["deviation"] == pytest.approx(50**0.5 / 2, rel=1e-5)
    assert cell["seeds"] == [[1, 30.0], [2, 35.0]]
    assert cell["interval"][0] < 32.5 < cell["interval"][1]
    assert rows["DMI"]["printed"]["hit@10"] == [["DMI paper, Table 2", 31.5]]
    lines = {(line["label"], line["seed"]): line for line in section["lines"]}
    assert len(lines) == 5  # popularity validates in no second epoch
    assert lines["DMI", 2] == {
        "label": "DMI", "seed": 2, "finished": True, "best": 6, "epochs": [2, 4, 6],
        "values": {"hit@10": [11.667, 23.333, 35.0], "ndcg@10": [5.8333, 11.667, 17.5]},
    }  # fmt: skip
    assert lines["DMI", 3]["finished"] is False
    assert styles(["a", "b"]) == {"a": [0, 0, 0], "b": [1, 1, 1]}
    assert max(styles([str(place) for place in range(30)]).values(), key=lambda style: style[1])[1] == len(DASHES) - 1
    assert len(COLOURS) == len(MARKERS) == 6  # the script has as many shapes


def test_the_same_runs_give_the_same_bytes(report: tuple[SuiteReport, Path], text: str) -> None:
    path = write_report(*report)
    assert path == report[1] / "report.html"
    assert path.read_text(encoding="utf-8") == text
    code = (
        "import sys; from recbole_diffusion.reporting import page; "
        "print(sorted({'torch', 'recbole', 'ray', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_a_suite_without_a_finished_run_has_a_page(report: tuple[SuiteReport, Path]) -> None:
    own = dataclasses.replace(report[0].evaluations[0], tables=[])
    begun = [dataclasses.replace(run, state=NOT_BEGUN, record=None) for run in report[0].runs]
    nothing = dataclasses.replace(report[0], evaluations=[own], runs=begun, searches=[])
    text = render(nothing, report[1])
    assert "0 of 7 runs finished" in text and "toy: no run is finished, hence no figures." in text
    assert "No run is finished." in text
    (report[1] / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot write .*report.html .*; give another folder"):
        write_report(nothing, report[1] / "file")


def test_fifty_runs_fit_a_megabyte(tmp_path: Path) -> None:
    epochs = 500
    record = read_run(make(tmp_path, "DMI", 1, 4), "DMI")
    header = ["epoch", *(f"valid_{kind}@{k}" for kind in ("hit", "ndcg", "mrr") for k in (5, 10, 20, 50))]
    lines = [[epoch, *(0.0123456 * epoch / place for place in range(1, len(header)))] for epoch in range(1, epochs + 1)]
    text = "\n".join(",".join(map(str, line)) for line in [header, *lines])
    (record.folder / "metrics.csv").write_text(text + "\n", encoding="utf-8")
    curve = read_curve(record, [name.removeprefix("valid_") for name in header[1:]])
    assert curve is not None and len(curve.epochs) == epochs and len(curve.values) == 12
    kept, step = thinned([curve] * 50)
    assert step == 5  # 300,000 numbers, of which 60,000 are kept
    assert kept[0].epochs == (1, 6, *range(11, 500, 5), 500)
    single = dataclasses.replace(curve, best_epoch=8)
    assert single.every(5).epochs[:3] == (1, 6, 8)
    from recbole_diffusion.reporting.plot_data import lines as drawn

    assert len(json.dumps(drawn(kept), separators=(",", ":"))) < 800_000


def test_curves_that_cannot_be_read(tmp_path: Path) -> None:
    record = read_run(make(tmp_path, "DMI", 1, 4), "DMI")
    file = record.folder / "metrics.csv"
    for text, message in (
        ("epoch,valid_hit@10\n1,0.1\n2\n", r"metrics.csv:3: has 1 fields instead of 2"),
        ("epoch,valid_hit@10\none,0.1\n", r"metrics.csv:2: invalid literal"),
        ("valid_hit@10\n0.1\n", r"metrics.csv:1: has no column 'epoch'"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_curve(record, ["hit@10"])
    file.write_text("epoch,valid_hit@10,valid_novelty@10\n1,,\n2,0.5,\n3,nan,7\n", encoding="utf-8")
    curve = read_curve(record, ["hit@10", "novelty@10", "mrr@10"])
    assert curve == Curve("DMI", 1, True, 6, (2, 3), {"hit@10": (50.0, None), "novelty@10": (None, 7.0)})
    file.unlink()
    assert read_curve(record, ["hit@10"]) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(2.34, "2.3 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7_500, "2 h 5 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
