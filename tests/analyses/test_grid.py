"""What a grid varies, what it is called, and the suite that is made of it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.analyses.grid import (
    PUBLISHED,
    Grid,
    check_variants,
    given_values,
    metrics_of,
    reference_of,
    variants_of,
    write_suite,
)
from recbole_diffusion.analyses.lambda_sensitivity import LAMBDA
from recbole_diffusion.analyses.request import Request
from recbole_diffusion.analyses.schedules import fitting_schedules
from recbole_diffusion.benchmarking.published import read_published
from recbole_diffusion.benchmarking.statistics import mean_interval
from recbole_diffusion.command_line import main
from recbole_diffusion.config import RunConfig
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.diffusion.schedules import SCHEDULES
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.plan import plan_run
from recbole_diffusion.suites.suite import read_suite


def request_of(folder: Path, config: dict[str, Any] | None = None, **options: str) -> Request:
    return Request(options, Overrides(config, origin="command line"), folder)


def grid_of(keys: list[str], text: str, **facts: Any) -> Grid:
    known = {"name": "sensitivity", "about": "a grid", "model": "DiffuRec", "dataset": "small", "preset": None}
    return Grid(**{**known, "variants": variants_of(keys, given_values(text)), **facts})


def test_values_and_what_they_are_called() -> None:
    variants = variants_of(["lambda_mean", "lambda_std"], given_values("0, 1.0, 1e-5"))
    assert [variant.label for variant in variants] == [
        "lambda_mean=lambda_std=0", "lambda_mean=lambda_std=1", "lambda_mean=lambda_std=1e-05",
    ]  # fmt: skip
    assert variants[2].settings == {"lambda_mean": 1e-5, "lambda_std": 1e-5} and variants[2].value == "1e-05"
    named, several = variants_of(["noise_schedule"], given_values("[exp, {noise_schedule: linear, beta_start: 0.1}]"))
    assert named.label == "noise_schedule=exp" and named.value == "exp"
    assert several.label == "noise_schedule=linear beta_start=0.1" and several.value == "linear beta_start=0.1"
    assert several.settings == {"noise_schedule": "linear", "beta_start": 0.1}
    assert variants_of(["reverse_steps"], [None])[0].label == "reverse_steps=~"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 1.0]", "--values: 1 is given twice"),
        ("[]", "--values is empty"),
        ("[{}]", "an empty value"),
        ("[1", "--values must be values such as"),
    ],
)
def test_values_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        variants_of(["n_layers"], given_values(text))


@pytest.mark.parametrize(
    ("keys", "text", "config", "message"),
    [
        (["n_layerz"], "[1]", {}, r"^unknown key 'n_layerz' \(--values\); did you mean 'n_layers'"),
        (["n_layers"], "[1, many]", {}, r"n_layers must be an integer.*got 'many' \(--values\)"),
        (["n_layers"], "[1]", {"n_layers": 2}, "^--n_layers is what sensitivity varies"),
        (["n_layers"], "[1]", {"seed": 2}, r"^seed: a grid has several, .*; give --seeds=\[1,2,3\]"),
        (["seed"], "[1, 2]", {}, r"^seed: a grid has several, .*; give --seeds=\[1,2,3\]"),
        (["n_layers"], "[1]", {"epochz": 2}, r"^unknown key 'epochz' \(command line\)"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    tmp_path: Path, keys: list[str], text: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_variants(grid_of(keys, text), request_of(tmp_path, config))


def test_the_suite_of_a_grid_is_the_grid(tmp_path: Path) -> None:
    grid = grid_of(["noise_schedule"], "[exp, trunc_lin]", seeds=(4, 5), refused={"eq14": "needs eq14_a"})
    request = request_of(tmp_path, {"epochs": 3, "num_threads": 2})
    base = check_variants(grid, request)
    reference = reference_of(grid, base)
    assert reference == "noise_schedule=trunc_lin"  # the model's own
    file = write_suite(grid, request, reference)
    assert "# Not trained: eq14: needs eq14_a\n" in file.read_text(encoding="utf-8")
    suite = read_suite(file)
    assert suite.reference == (reference,) and suite.settings == {"epochs": 3}  # where it runs is not what it is
    assert [path.name for path in suite.published] == ["DiffuRec.table3.json"]
    runs = [plan_run(suite, *row, output=tmp_path, given=request.config) for row in suite.rows()]
    assert [(run.seed, run.keys["noise_schedule"]) for run in runs] == [
        (4, "exp"), (4, "trunc_lin"), (5, "exp"), (5, "trunc_lin"),
    ]  # fmt: skip
    # by hand, without the command line's keys, the same runs are found
    assert [plan_run(suite, *row, output=tmp_path, given={}).place for row in suite.rows()] == [r.place for r in runs]


def test_metrics_are_those_that_runs_compute(tmp_path: Path) -> None:
    request = request_of(tmp_path, {"topk": [5, 10], "valid_metric": "NDCG@10"})
    base = check_variants(grid_of(["n_layers"], "[1]"), request)
    assert metrics_of(request, base) == ["ndcg@10"]
    assert metrics_of(request_of(tmp_path, metric="HR@5, ndcg@5"), base) == ["hit@5", "ndcg@5"]
    with pytest.raises(UserError, match=r"--metric: runs have no HR@20; they have"):
        metrics_of(request_of(tmp_path, metric="HR@20"), base)


def test_schedules_that_fit(tmp_path: Path) -> None:
    fitting, refused = fitting_schedules(request_of(tmp_path, dataset="small"), list(SCHEDULES))
    assert set(refused) == {"linear", "linear_var", "eq14"} and set(fitting) == set(SCHEDULES) - set(refused)
    assert "beta_start" in refused["linear"] and "eq14_a" in refused["eq14"]
    short = request_of(tmp_path, {"num_steps": 10}, dataset="small")
    values = ["linear_scaled", "cosine", {"noise_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2}]
    fitting, refused = fitting_schedules(short, values)
    assert fitting == values[1:] and "allowed are 21 and more" in refused["linear_scaled"]
    # a model whose schedule takes no parameters, and one that has a default for them
    assert "eq14" in fitting_schedules(request_of(tmp_path, model="DMI", dataset="small"), list(SCHEDULES))[1]
    assert "linear" in fitting_schedules(request_of(tmp_path, model="DreamRec", dataset="small"), list(SCHEDULES))[0]


@pytest.mark.parametrize("model", LAMBDA)
def test_every_lambda_is_a_key_with_zero_and_the_default_among_its_values(tmp_path: Path, model: str) -> None:
    keys, values = LAMBDA[model]
    grid = Grid("lambda", "", model, "small", None, variants_of(keys, values))
    assert values[0] == 0 and reference_of(grid, check_variants(grid, request_of(tmp_path))) is not None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lambda", "--model=SASRecCE", "--dataset=small"], "SASRecCE has no lambda; DiffuRec, DiffuRecSys, DimeRec"),
        (["interests", "--model=DiffuRec", "--dataset=small"], "key 'n_interests' (--values) is read by ComiRecDR"),
        (["interests"], "interests needs --dataset=NAME"),
        (["schedules", "--dataset=small", "--values=[cosine,eq14]"], "--values: eq14: "),
        (["schedules", "--dataset=small", "--seeds=[1,1]"], "--seeds must be different ones"),
    ],
)
def test_wrong_words(tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["analyse", *words, f"--output={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_interval_over_seeds() -> None:
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval is not None  # 2 +- t(2, 0.975) 1 / sqrt(3), t = 4.302653
    assert (interval.low, interval.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    assert mean_interval([1.0]) is None
    with pytest.raises(UserError, match="no confidence level"):
        mean_interval([1.0, 2.0], level=95)


# Printed figures ------------------------------------------------------------------------------------------------------

# file -> the copy of the paper's table, the rows of it, dataset -> ours, model column -> value
TABLES = {
    "DiffuRec.table3": (
        "diffurec_table3_ablation",
        "DiffuRec T3",
        {"Beauty": "amazon-beauty", "Movielens-1M": "ml-1m"},
    ),
    "DMI.table5": (
        "dmi_tables4to6",
        "DMI T5",
        {"Book": "amazon-books", "Gowalla": "gowalla", "Beauty": "amazon-beauty"},
    ),
    **{
        f"DimeRec.table{number}": (
            "dimerec_tables3to8_ablation_sensitivity",
            f"DimeRec T{number}",
            {"YooChoose": "yoochoose", "KuaiRec": "kuairec", "ML-10M": "ml-10m"},
        )
        for number in (5, 7, 8)
    },
}
ROWS = {"w Cosine": "cosine", "w L": "linear_scaled", "w Sqrt": "sqrt", "DIFFUREC": "trunc_lin"}


@pytest.mark.parametrize("file", sorted(PUBLISHED.glob("*.json")), ids=lambda path: path.stem)
def test_printed_figures_are_the_papers(file: Path, shared: Path) -> None:
    table, number, datasets = TABLES[file.stem]
    printed = {}
    with (shared / "spec" / "paper_tables" / f"{table}.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["table"] == number:
                value = ROWS.get(row["model"], row["model"].partition(",")[0].partition("=")[2])
                factor = 1 if row["unit"] == "percent" else 100
                metric = row["metric"].lower().replace("hr@", "hit@")
                printed[datasets[row["dataset"]], value, metric] = factor * float(row["value"])
    (source,) = read_published(file)
    count = 0
    for name, rows in source.values.items():
        for label, figures in rows.items():
            key, _, text = label.partition("=")
            (variant,) = variants_of([key], given_values(text))
            assert variant.label == label  # so that a grid finds it
            RunConfig(file.stem.partition(".")[0], "small", (), variant.settings)
            for metric, figure in figures.items():
                value = text if text in ROWS.values() else next(v for _, v, _ in printed if v and _same(v, text))
                assert figure == pytest.approx(printed[name.partition("_")[0], value, metric]), (name, label, metric)
                count += 1
    assert count == sum(1 for _, value, metric in printed if value and not (number == "DMI T5" and "ndcg" in metric))


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:
        return one == other
