"""Tables as values: means, places, tests against a reference or the best baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from recbole.evaluator.register import metrics_dict

from recbole_diffusion.benchmarking import comparison as comparison_module
from recbole_diffusion.benchmarking.comparison import Comparison
from recbole_diffusion.benchmarking.metric_names import bigger_is_better, in_order, metric_key, printed_name, unit
from recbole_diffusion.benchmarking.results import RunRecord, find_runs
from recbole_diffusion.benchmarking.tables import ResultTable, build_tables
from recbole_diffusion.errors import UserError

from .folders import DATA, PROTOCOL, make_run, write_users


def hits(*users: int) -> list[float]:
    """10 users, of whom these have a hit."""
    return [float(user in users) for user in range(10)]


def make(folder: Path, model: str, seed: int, hit: Sequence[float], **facts: object) -> Path:
    """A run whose hit@10 are these, and whose ndcg@10 are half of them."""
    ndcg = [value / 2 for value in hit]
    test = {"hit@10": sum(hit) / 10, "ndcg@10": sum(ndcg) / 10}
    return make_run(folder / f"{model}-{seed}", model, seed, test, {"hit@10": hit, "ndcg@10": ndcg}, **facts)


@pytest.fixture
def runs(tmp_path: Path) -> list[RunRecord]:
    """Three models, two seeds each of the first two."""
    make(tmp_path, "DMI", 1, hits(0, 1, 2, 3, 4, 5, 6))
    make(tmp_path, "DMI", 2, hits(0, 1, 2, 3, 4, 5, 6, 7))
    make(tmp_path, "SASRec", 1, hits(0, 1))
    make(tmp_path, "SASRec", 2, hits(0))
    make(tmp_path, "Pop", 1, hits(9))
    return find_runs(tmp_path)


def only(runs: Sequence[RunRecord], **options: object) -> ResultTable:
    (table,) = build_tables(runs, **options)  # type: ignore[arg-type]
    return table


def test_means_and_places(runs: list[RunRecord]) -> None:
    table = only(runs)
    rows = {row.label: row.cells["hit@10"] for row in table.rows}
    assert table.metrics == ("hit@10", "ndcg@10")
    dmi = rows["DMI"].summary
    assert dmi is not None
    assert (dmi.mean, dmi.deviation, dmi.number) == (75.0, pytest.approx(np.sqrt(50)), 2)
    pop = rows["Pop"].summary
    assert pop is not None
    assert (pop.mean, pop.deviation, pop.number) == (10.0, None, 1)
    assert [rows[label].place for label in ("DMI", "SASRec", "Pop")] == [1, 2, 0]
    assert table.comparison is None


def test_without_a_comparison_no_rows_are_read(runs: list[RunRecord], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_module, "read_rows", None)
    assert all(cell.tested is None and cell.interval is None for row in only(runs).rows for cell in row.cells.values())


def test_figures_that_are_printed_alike_are_marked_alike(tmp_path: Path) -> None:
    for model, value in (("A", 0.12341), ("B", 0.12342), ("C", 0.1), ("D", 0.05)):
        make_run(tmp_path / model, model, 1, {"hit@10": value})
    places = [row.cells["hit@10"].place for row in only(find_runs(tmp_path)).rows]
    assert places == [1, 1, 2, 0]
    places = [row.cells["hit@10"].place for row in only(find_runs(tmp_path), decimals=3).rows]
    assert places == [2, 1, 0, 0]


def test_metrics_that_are_no_share_or_better_when_smaller(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, {"giniindex@10": 0.5, "averagepopularity@10": 12.0})
    make_run(tmp_path / "b", "B", 1, {"giniindex@10": 0.9, "averagepopularity@10": 30.0})
    table = only(find_runs(tmp_path))
    cells = table.rows[0].cells
    assert [cell.summary.mean for cell in cells.values() if cell.summary] == [50.0, 12.0]
    assert [cell.place for cell in cells.values()] == [1, 1]
    assert table.notes[0] == (
        "Test metrics in percent (AVERAGEPOPULARITY@10 in their own unit), one seed each; best bold, second underlined "
        "(the smaller the better: GINIINDEX@10, AVERAGEPOPULARITY@10)."
    )


def test_directions_are_recboles() -> None:
    assert {name: not bigger_is_better(name) for name in metrics_dict} == {
        name: bool(metric.smaller) for name, metric in metrics_dict.items()
    }


def test_names_of_metrics() -> None:
    assert [metric_key(name) for name in ("HR@10", "Hit@10", " NDCG@5", "auc")] == ["hit@10", "hit@10", "ndcg@5", "auc"]
    assert [printed_name(name) for name in ("hit@10", "recall@50", "auc")] == ["HR@10", "RECALL@50", "AUC"]
    names = ("hit@10", "shannonentropy@10", "novelty@10", "categorycount@10", "categorydiversity@10")
    assert [unit(name) for name in names] == ["percent", "", "", "", "percent"]
    assert in_order(["hit@20", "ndcg@5", "hit@5", "hit@10", "hit@20", "auc"]) == [
        *("hit@5", "hit@10", "hit@20", "ndcg@5", "auc")
    ]


def test_columns_that_are_asked_for(runs: list[RunRecord]) -> None:
    assert only(runs, metrics=["NDCG@10", "HR@10"]).metrics == ("ndcg@10", "hit@10")
    with pytest.raises(UserError, match="metrics: HR@20 is in no result; allowed: HR@10, NDCG@10"):
        build_tables(runs, metrics=["HR@20"])


def test_a_reference_by_name(runs: list[RunRecord]) -> None:
    table = only(runs, comparison=Comparison(reference="SASRec"))
    cells = {row.label: row.cells for row in table.rows}
    dmi = (np.array(hits(0, 1, 2, 3, 4, 5, 6)) + np.array(hits(0, 1, 2, 3, 4, 5, 6, 7))) / 2
    sasrec = (np.array(hits(0, 1)) + np.array(hits(0))) / 2
    expected = scipy.stats.ttest_rel(dmi, sasrec)
    tested = cells["DMI"]["hit@10"].tested
    assert tested is not None
    assert (tested.reference, tested.result.users, tested.result.difference) == ("SASRec", 10, pytest.approx(60.0))
    assert (tested.result.statistic, tested.result.p_value) == pytest.approx((expected.statistic, expected.pvalue))
    assert tested.p_corrected == pytest.approx(4 * expected.pvalue)  # the smallest of 4
    assert tested.mark == "†"
    assert tested.interval is not None
    assert 0 < tested.interval.low < 60 < tested.interval.high < 100
    interval = cells["SASRec"]["hit@10"].interval
    assert interval is not None
    assert interval.low <= 15 <= interval.high
    assert cells["SASRec"]["hit@10"].tested is None
    assert cells["Pop"]["hit@10"].tested is not None
    assert cells["Pop"]["hit@10"].tested.mark == ""
    assert table.notes[1] == (
        "† better, ‡ worse than SASRec: paired t-test over 10 users, each averaged over seeds, p < 0.05 with Holm's "
        "correction for 4 tests. It speaks of other users for these trained models, not of other trainings."
    )


def test_what_is_worse_is_marked_so(runs: list[RunRecord]) -> None:
    table = only(runs, comparison=Comparison(reference="DMI", test="wilcoxon", correction="none"))
    cells = {row.label: row.cells["hit@10"] for row in table.rows}
    assert cells["SASRec"].tested is not None
    assert cells["SASRec"].tested.mark == "‡"
    assert "than DMI: Wilcoxon signed-rank test over 10 users" in table.notes[1]
    assert "p < 0.05 with no correction for 4 tests" in table.notes[1]


def test_the_best_baseline_of_each_column(tmp_path: Path) -> None:
    for model, hit, ndcg in (("Ours", 0.6, 0.3), ("A", 0.5, 0.1), ("B", 0.2, 0.2), ("Also", 0.1, 0.1)):
        by_user = {"hit@10": [hit * 2, 0.0] * 5, "ndcg@10": [ndcg * 2, 0.0, 0.0, ndcg * 2] * 2 + [ndcg] * 2}
        make_run(tmp_path / model, model, 1, {"hit@10": hit, "ndcg@10": ndcg}, by_user)
    table = only(
        find_runs(tmp_path), comparison=Comparison(baselines=("A", "B"), correction="benjamini-hochberg", alpha=0.01)
    )
    references = {
        (row.label, metric): cell.tested.reference
        for row in table.rows
        for metric, cell in row.cells.items()
        if cell.tested
    }
    assert references == {
        ("Ours", "hit@10"): "A",
        ("Ours", "ndcg@10"): "B",
        ("Also", "hit@10"): "A",
        ("Also", "ndcg@10"): "B",
    }
    assert "than the best of A, B in each column: paired t-test" in table.notes[1]
    assert "p < 0.01 with Benjamini and Hochberg's correction for 4 tests" in table.notes[1]


def test_several_seeds_do_not_make_more_users(tmp_path: Path) -> None:
    """Ten seeds that are all alike are worth one: the p-value is that of one seed each."""
    for seed in range(10):
        make(tmp_path, "A", seed, hits(0, 1, 2, 3))
        make(tmp_path, "B", seed, hits(0, 4))
    runs = find_runs(tmp_path)
    one = only([run for run in runs if run.seed == 0], comparison=Comparison(reference="B"))
    ten = only(runs, comparison=Comparison(reference="B"))
    assert one.rows[0].cells["hit@10"].tested == ten.rows[0].cells["hit@10"].tested


def test_of_several_rows_a_user_tests_and_intervals_are_of_the_means_shown(tmp_path: Path) -> None:
    """90 users with one row, 10 with twenty: the means over rows and over users point different ways."""
    names = [*(f"few{number}" for number in range(90)), *(f"many{number % 10}" for number in range(200))]
    draw = np.random.default_rng(0)
    for label, few, many in (("A", 0.5, 0.1), ("B", 0.2, 0.4)):
        hit = (draw.random(290) < np.repeat([few, many], [90, 200])).astype(float).tolist()
        folder = make_run(tmp_path / label, label, 1, {"hit@10": sum(hit) / 290})
        write_users(folder, {"hit@10": hit}, {"hit@10": sum(hit) / 290}, names)
    table = only(find_runs(tmp_path), comparison=Comparison(reference="B"))
    one, other = (row.cells["hit@10"] for row in table.rows)
    assert one.summary is not None and other.summary is not None and one.tested is not None
    assert one.tested.result.users == 100
    assert one.tested.result.difference == pytest.approx(one.summary.mean - other.summary.mean)
    assert one.tested.result.difference < 0 and one.tested.mark != "†"
    assert one.tested.interval is not None and one.tested.interval.low < one.tested.result.difference
    for cell in (one, other):
        assert cell.summary is not None and cell.interval is not None
        assert cell.interval.low < cell.summary.mean < cell.interval.high
    assert "over 100 users, each averaged over seeds, each with the sum of its rows, p < 0.05" in table.notes[1]


def test_ranks_that_contradict_the_means_have_no_mark(tmp_path: Path) -> None:
    first = [0.49 - 0.0001 * place for place in range(80)] + [0.6 + 0.001 * place for place in range(20)]
    for label, values in (("A", first), ("B", [0.5] * 100)):
        make_run(tmp_path / label, label, 1, {"ndcg@10": float(np.mean(values))}, {"ndcg@10": values})
    table = only(find_runs(tmp_path), comparison=Comparison(reference="B", test="wilcoxon"))
    tested = table.rows[0].cells["ndcg@10"].tested
    assert tested is not None and tested.p_corrected is not None
    assert tested.p_corrected < 0.05 and tested.result.difference > 0 and tested.mark == ""
    assert (
        "A against B, NDCG@10: ranks of the users' differences point the other way than their mean, so it has no mark."
        in table.notes
    )


def test_rows_without_results_for_each_user_are_named(runs: list[RunRecord]) -> None:
    by_label = {run.label: run for run in runs}
    by_label["Pop"].per_user.unlink()
    table = only(runs, comparison=Comparison(reference="SASRec"))
    assert "Not tested, run without save_per_user: parquet: Pop." in table.notes
    assert table.rows[1].label == "Pop"
    assert table.rows[1].cells["hit@10"].tested is None
    table = only(runs, comparison=Comparison(reference="Pop"))
    assert table.notes[1] == "No test against Pop: no other row has results for each user beside it."


def test_a_metric_without_a_value_for_a_user_is_named(tmp_path: Path) -> None:
    for model, hit in (("A", hits(1, 2)), ("B", hits(1))):
        make_run(tmp_path / model, model, 1, {"hit@10": sum(hit) / 10, "giniindex@10": 0.5}, {"hit@10": hit})
    table = only(find_runs(tmp_path), comparison=Comparison(reference="B"))
    assert "Not tested: GINIINDEX@10, which has no value for a user." in table.notes
    assert "with Holm's correction for 1 test." in table.notes[1]


def test_rows_of_other_data_are_not_tested(tmp_path: Path) -> None:
    make(tmp_path, "A", 1, hits(1, 2, 3))
    make(tmp_path, "B", 1, hits(1), data={**DATA, "users": 5})
    make(tmp_path, "C", 1, hits(2))
    table = only(find_runs(tmp_path), allow=["data"], comparison=Comparison(reference="B"))
    assert all(cell.tested is None for row in table.rows for cell in row.cells.values())
    assert "Not tested: A against B, of other data or another protocol." in table.notes


def test_degenerate_tests_are_explained(tmp_path: Path) -> None:
    make(tmp_path, "A", 1, hits(1, 2))
    make(tmp_path, "B", 1, hits(1, 2))
    make(tmp_path, "C", 1, hits(*range(10)))
    make(tmp_path, "D", 1, hits())
    runs = find_runs(tmp_path)
    table = only(runs, metrics=["hit@10"], comparison=Comparison(reference="B"))
    tested = table.rows[0].cells["hit@10"].tested
    assert tested is not None
    assert (tested.p_corrected, tested.mark) == (1.0, "")
    assert "A against B, HR@10: no user has a difference." in table.notes
    table = only(runs, metrics=["hit@10"], comparison=Comparison(reference="D"))
    tested = table.rows[2].cells["hit@10"].tested
    assert tested is not None
    assert (tested.p_corrected, tested.mark, tested.result.difference) == (None, "", 100.0)
    assert "C against D, HR@10: every user has the same difference." in table.notes
    assert "for 2 tests" in table.notes[1]


def test_users_that_do_not_match_are_refused_with_their_files(tmp_path: Path) -> None:
    make(tmp_path, "A", 1, hits(1, 2))
    folder = make(tmp_path, "B", 1, hits(1))
    names = [f"v{number}" for number in range(10)]
    ndcg = [value / 2 for value in hits(1)]
    write_users(folder, {"hit@10": hits(1), "ndcg@10": ndcg}, {"hit@10": 0.1, "ndcg@10": 0.05}, names)
    with pytest.raises(UserError, match=r"A-1/per_user/test.parquet, .*B-1/per_user/test.parquet: .* 0 in both"):
        only(find_runs(tmp_path), comparison=Comparison(reference="B"))
    make(tmp_path, "B", 2, hits(1))
    with pytest.raises(UserError, match=r"B-1/per_user/test.parquet, .*B-2/per_user/test.parquet: .* 0 in both"):
        only(find_runs(tmp_path), comparison=Comparison(reference="B"))


def test_a_reference_that_is_not_there(runs: list[RunRecord], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reference: no run is called 'BPR'; allowed: DMI, Pop, SASRec"):
        build_tables(runs, comparison=Comparison(reference="BPR"))
    make(tmp_path, "BPR", 1, hits(1), protocol={**PROTOCOL, "protocol": "global_time"})
    first, second = build_tables(find_runs(tmp_path), comparison=Comparison(reference="BPR"))
    assert (first.protocol, second.protocol) == ("global_time", "leave_one_out")
    assert second.notes[1] == "No test against BPR: no such row has a finished run here."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a comparison needs a reference or baselines, got reference: None and baselines: "),
        ({"reference": "A", "baselines": ("B",)}, "needs a reference or baselines, got reference: A"),
        ({"reference": "A", "test": "t"}, "test: 't' is unknown; allowed: t-test, wilcoxon"),
        ({"reference": "A", "correction": "bh"}, "correction: 'bh' is unknown; allowed: holm"),
        ({"reference": "A", "alpha": 5}, "alpha: 5 is no level of significance"),
    ],
)
def test_comparisons_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Comparison(**options)  # type: ignore[arg-type]


def test_nothing_is_finished(tmp_path: Path) -> None:
    make_run(tmp_path / "a", "A", 1, None)
    table = only(find_runs(tmp_path), metrics=["HR@10"], comparison=Comparison(reference="A"))
    assert table.metrics == ()
    assert "Unfinished, not in the figures: A seed 1." in table.notes
    assert build_tables([]) == []
