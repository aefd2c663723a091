"""What a suite file says, and what is wrong with one: always a line, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from recbole_diffusion.benchmarking.metric_names import metric_key
from recbole_diffusion.benchmarking.published import read_published, table_name
from recbole_diffusion.benchmarking.results import read_run
from recbole_diffusion.config import RunConfig
from recbole_diffusion.config_files import Overrides
from recbole_diffusion.config_protocols import protocol_facts
from recbole_diffusion.errors import UserError
from recbole_diffusion.suites.benchmark import benchmark
from recbole_diffusion.suites.candidates import plan_choice
from recbole_diffusion.suites.performing import Outcome, Processes, perform
from recbole_diffusion.suites.plan import PlannedRun, data_files, plan_run, slug
from recbole_diffusion.suites.plan_file import SUITE_FILE, read_plan, write_plan
from recbole_diffusion.suites.searching import PlannedSearch, plan_search
from recbole_diffusion.suites.searching import make as make_search
from recbole_diffusion.suites.suite import SUITE_KEYS, Suite, read_suite
from recbole_diffusion.suites.suite_plan import SuitePlan
from recbole_diffusion.suites.tables import read_records, suite_tables
from recbole_diffusion.tuning.search_space import read

from ..benchmarking.folders import make_run

SUITES = Path(__file__).resolve().parents[2] / "benchmarks" / "suites"


def suite_of(folder: Path, text: str) -> Suite:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return read_suite(path)


GOOD = """\
about: two models
datasets: [small, other]
seeds: [1, 2]
settings: {epochs: 1}
time_limit: 60
models:
  SASRecCE:
  DiffuRec without diffusion:
    model: DiffuRec
    settings: {lambda_mean: 0}
    seeds: 7
    datasets: small
evaluations:
  without seen items: {filter_seen: True}
reference: SASRecCE
"""


def test_a_suite_is_its_models_datasets_and_seeds(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    assert suite.name == "mine" and suite.about == "two models" and suite.reference == ("SASRecCE",)
    rows = [(model.label, dataset, seed) for model, dataset, seed in suite.rows()]
    assert rows == [
        ("SASRecCE", "small", 1),
        ("SASRecCE", "small", 2),
        ("DiffuRec without diffusion", "small", 7),
        ("SASRecCE", "other", 1),
        ("SASRecCE", "other", 2),
    ]
    assert suite.models[1].model == "DiffuRec" and suite.settings == {"time_limit": 60, "epochs": 1}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("about: two models", "abot: two models", r"mine\.yaml:1: unknown key 'abot'; did you mean 'about'\?"),
        ("    seeds: 7", "    seed: 7", r"mine\.yaml:11: unknown key 'seed'; did you mean 'seeds'\?"),
        ("seeds: [1, 2]", "seeds: [1, 1]", r"mine\.yaml:3: seeds must be a whole number from 0, .* got \[1, 1\]"),
        ("seeds: 7", "seeds: yes", r"mine\.yaml:11: models\.DiffuRec without diffusion\.seeds must be a whole"),
        ("datasets: small", "datasets: smal", r"mine\.yaml:12: .*of the suite's datasets small, other, got 'smal'"),
        ("reference: SASRecCE", "reference: SASRec", r"mine\.yaml:15: reference must be one of the models SASRecCE"),
        ("settings: {epochs: 1}", "settings: 3", r"mine\.yaml:4: settings must be keys with values, got 3"),
        ("datasets: [small, other]", "datasets: []", r"mine\.yaml: a suite needs datasets"),
        (
            "  SASRecCE:",
            "  SASRecCE:\n  A b: {model: DMI}\n  A  b: {model: DMI}",
            r"mine\.yaml:9: 'A b' is in .*mine\.yaml:8 too, with other blanks; they would be one row of the tables",
        ),
        ("about: two models", "order: runs", r"mine\.yaml:1: order must be seeds or models, got 'runs'"),
        ("about: two models", "test: z", r"mine\.yaml:1: test must be t-test or wilcoxon, got 'z'"),
        ("about: two models", "correction: no", r"mine\.yaml:1: correction must be holm or benjamini-hochberg or none"),
        ("about: two models", "alpha: 5", r"mine\.yaml:1: alpha must be between 0 and 1, as 0.05, got 5"),
        ("reference: SASRecCE", "test: wilcoxon", r"mine\.yaml:15: test goes with reference, what rows are tested"),
        (
            "    seeds: 7",
            "    candidates: {lambda_std: 0.1}",
            r"mine\.yaml:11: models\.DiffuRec without diffusion\.candidates\.lambda_std must be a list of different",
        ),
        (
            "    seeds: 7",
            "    candidates: {lambda_std: [0.1]}\n    search: {space: x.yaml}",
            r"mine\.yaml:12: DiffuRec without diffusion has candidates and a search; leave one of them out",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=message):
        suite_of(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("metrics", "more", "message"),
    [
        ("[HR@10, HR@7]", "", r"mine\.yaml:\d+: metrics: no run computes HR@7; they compute HR@5, HR@10, .*NDCG@20"),
        ("[Foo]", "", r"mine\.yaml:\d+: metrics: no run computes FOO; "),
        (
            "[HR@10]",
            "  other: {topk: [5]}\n",
            r"metrics: no run computes HR@10 in the evaluation 'other'; they compute H",
        ),
        ("[HR@10]", "published: broken.json\n", r"broken\.json:1: not valid JSON"),
        ("[hit@10, ndcg@5]", "", ""),
    ],
)
def test_what_the_tables_need_is_checked_before_anything_starts(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch, metrics: str, more: str, message: str
) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    text = GOOD.replace("[small, other]", "[small]").replace("about: two models", f"about: x\nmetrics: {metrics}")
    begun = []

    def made(*_: object, **__: object) -> list[Outcome]:
        begun.append(1)
        return []

    monkeypatch.setattr("recbole_diffusion.suites.benchmark.run_all", made)
    (tmp_path / "mine.yaml").write_text(text.replace("reference:", more + "reference:"), encoding="utf-8")
    keys = {"metrics": ["Hit", "NDCG"], "topk": [5, 10, 20], "valid_metric": "NDCG@5"}
    if message:
        with pytest.raises(UserError, match=message):
            benchmark(tmp_path / "mine.yaml", keys, data_path=small_data, output=tmp_path / "out")
        assert not begun and not (tmp_path / "out").exists()
    else:
        benchmark(tmp_path / "mine.yaml", keys, data_path=small_data, output=tmp_path / "out", show_progress=False)
        assert begun


def test_how_a_suite_tests_is_in_its_tables(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD + "test: wilcoxon\ncorrection: benjamini-hochberg\nalpha: 0.01\n")
    runs, records = [], []
    for model, hits in (("SASRecCE", 4), ("DiffuRec without diffusion", 9)):
        place = tmp_path / model
        values = [float(user < hits) for user in range(20)]
        made = make_run(place, "DiffuRec", 1, {"hit@10": sum(values) / 20}, {"hit@10": values})
        records.append(read_run(made, model))
        runs.append(PlannedRun(model, "toy", 1, "DiffuRec", None, {}, place))
    (table,) = suite_tables(suite, runs, records)
    tested = table.rows[1].cells["hit@10"].tested
    assert tested is not None and tested.result.test == "wilcoxon"
    assert any("Wilcoxon signed-rank test" in note and "p < 0.01 with Benjamini" in note for note in table.notes)


def test_the_pages_example_is_a_suite(tmp_path: Path) -> None:
    page = (SUITES.parents[1] / "docs" / "suites.md").read_text(encoding="utf-8")
    (tmp_path / "printed.json").write_text("{}", encoding="utf-8")
    text = page.split("```yaml\n")[1].split("```")[0]
    suite = suite_of(tmp_path, text.replace("hyper/", f"{SUITES.parents[1] / 'hyper'}/"))
    assert {*suite.lines} >= {(key,) for key in SUITE_KEYS}  # it shows every key


def test_a_row_may_have_no_printed_figures(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD.replace("    seeds: 7", "    seeds: 7\n    published: ~"))
    assert [model.published for model in suite.models] == [None, ""]
    make_run(tmp_path / "place" / "run", "DiffuRec", 7, {"hit@10": 1.0})
    run = PlannedRun("DiffuRec without diffusion", "toy", 7, "DiffuRec", None, {}, tmp_path / "place")
    (record,) = read_records(suite, [run])
    assert record is not None and record.published_as == ""


def test_candidates_are_every_combination(tmp_path: Path) -> None:
    text = GOOD.replace("    seeds: 7", "    candidates: {num_steps: [8, 16], mask_mode: [key, query]}")
    model = suite_of(tmp_path, text).models[1]
    assert model.candidates == (
        {"num_steps": 8, "mask_mode": "key"},
        {"num_steps": 8, "mask_mode": "query"},
        {"num_steps": 16, "mask_mode": "key"},
        {"num_steps": 16, "mask_mode": "query"},
    )


def test_a_wrong_candidate_is_said_with_its_line(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD.replace("    seeds: 7", "    candidates: {num_steps: [8, none]}"))
    with pytest.raises(UserError, match=r"num_steps must be .* got 'none' \(.*mine\.yaml:11\)"):
        plan_choice(suite, suite.models[1], "small", output=Path("out"), given={})


def test_messages_tell_candidates_apart(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD.replace("    seeds: 7", "    candidates: {num_steps: [8, 16]}"))
    names = [run.name for run in plan_choice(suite, suite.models[1], "small", output=Path("out"), given={}).runs]
    assert names == [f"DiffuRec without diffusion on small, seed 1, candidate num_steps {steps}" for steps in (8, 16)]


def test_all_seeds_of_a_model_can_come_first(tmp_path: Path) -> None:
    text = GOOD.replace("time_limit: 60", "order: models").replace("seeds: 7", "seeds: [2, 7]")
    rows = [(model.label[:8], dataset, seed) for model, dataset, seed in suite_of(tmp_path, text).rows()]
    small = [("SASRecCE", 1), ("SASRecCE", 2), ("DiffuRec", 2), ("DiffuRec", 7)]
    assert rows == [(label, "small", seed) for label, seed in small] + [("SASRecCE", "other", seed) for seed in (1, 2)]


def planned(suite: Suite, number: int = 0, **given: object):  # type: ignore[no-untyped-def]
    model, dataset, seed = list(suite.rows())[number]
    return plan_run(suite, model, dataset, seed, output=Path("out"), given=given)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{epochs: 1}", "{epochz: 1}", r"unknown key 'epochz' \(.*mine\.yaml:4\); did you mean 'epochs'"),
        ("{epochs: 1}", "{epochs: 0}", r"epochs must be an integer of at least 1, got 0 \(.*mine\.yaml:4\)"),
        ("time_limit: 60", "time_limit: -1", r"time_limit must be a number above 0 or ~, got -1 \(.*mine\.yaml:5\)"),
        ("  SASRecCE:", "  SASReCE:", r"mine\.yaml:7: .*SASReCE"),
        ("{epochs: 1}", "{n_heads: 3}", r"^hidden_size 64 is not a multiple of n_heads 3; .*\(.*mine\.yaml:4\)"),
        ("filter_seen: True", "filter_sen: True", r"unknown key 'filter_sen' \(.*mine\.yaml:14\)"),
        (
            "filter_seen: True",
            "protocol: global_time",
            r"protocol: global_time .*yaml:14.* differs from leave",
        ),
    ],
)
def test_a_runs_keys_are_checked_before_it_starts(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new).replace("reference: SASRecCE\n", "")
    with pytest.raises(UserError, match=message):
        planned(suite_of(tmp_path, text))


def test_a_run_has_a_folder_for_what_it_is(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    first = planned(suite)
    assert first.place.parts[:4] == ("out", "runs", "small", "SASRecCE")
    assert first.place.name.startswith("seed-1-") and first.keys["epochs"] == 1 and first.keys["time_limit"] == 60
    assert planned(suite, num_threads=3, show_progress=False).place == first.place  # where it runs is not what it is
    assert planned(suite, epochs=2).place != first.place
    assert planned(suite, 1).place != first.place
    assert planned(suite, epochs=2).keys["epochs"] == 2  # the command line wins


def test_finished_runs_are_found_again_by_later_versions(tmp_path: Path) -> None:
    """The folders that the first version of suites gave these runs; with other names all would be trained again."""
    suite = suite_of(tmp_path, GOOD)
    names = [planned(suite, number).place.name for number in (0, 1, 2)]
    assert names == ["seed-1-f6161f1e43c9", "seed-2-0ba22a6fc4d1", "seed-7-0a3f43920fe9"]


def test_data_that_changed_are_another_run(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    file = tmp_path / "small" / "small.inter"
    file.write_text("user_id:token\titem_id:token\n", encoding="utf-8")
    suite = suite_of(tmp_path, GOOD)
    first = planned(suite, data_path=str(tmp_path)).place
    file.write_text("user_id:token\titem_id:token\na\tb\n", encoding="utf-8")
    data_files.cache_clear()
    assert planned(suite, data_path=str(tmp_path)).place != first


def test_a_default_that_changed_is_another_run(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    model, dataset, seed = next(suite.rows())
    first = plan_run(suite, model, dataset, seed, output=tmp_path, given={})
    made = first.place / "run"
    made.mkdir(parents=True)
    (made / "config.yaml").write_text("epochs: 1\nlearning_rate: 0.001\nnum_threads: 7\n", encoding="utf-8")
    assert plan_run(suite, model, dataset, seed, output=tmp_path, given={}).place == first.place
    (made / "config.yaml").write_text("epochs: 1\nlearning_rate: 0.123\n", encoding="utf-8")
    second = plan_run(suite, model, dataset, seed, output=tmp_path, given={})
    assert second.place.name == f"{first.place.name}-2"


def test_a_wrong_key_of_the_command_line_is_not_the_suites(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    model, dataset, seed = next(suite.rows())
    given = Overrides({"epochz": 1}, origin="command line")
    with pytest.raises(UserError, match=r"^unknown key 'epochz' \(command line\); did you mean 'epochs'"):
        plan_run(suite, model, dataset, seed, output=tmp_path, given=given)


def test_a_preset_for_all_runs_is_that_of_each(tmp_path: Path) -> None:
    text = "datasets: [amazon-beauty]\nmodels:\n  SASRecCE:\n  DMI: {preset: paper}\n"
    suite = suite_of(tmp_path, text)
    assert [planned(suite, number).preset for number in (0, 1)] == [None, "paper"]
    assert [planned(suite, number, preset="paper").preset for number in (0, 1)] == ["paper", "paper"]
    assert [planned(suite, number, preset=None).preset for number in (0, 1)] == [None, None]
    assert planned(suite, preset="paper").place != planned(suite).place
    of_all = suite_of(tmp_path, text + "settings: {preset: paper}\n")
    assert planned(of_all).preset == "paper" and planned(of_all).place == planned(suite, preset="paper").place


def test_a_seed_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"^seed \(command line\): a suite's runs have its seeds; set seeds in .*yaml"):
        planned(suite, seed=5)
    with pytest.raises(UserError, match=r"^seed \(.*mine\.yaml:4\): a suite's runs have its seeds"):
        planned(suite_of(tmp_path, GOOD.replace("{epochs: 1}", "{seed: 1}")))


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, GOOD)
    runs = [plan_run(suite, *row, output=tmp_path, given={}) for row in suite.rows()]
    write_plan(tmp_path, suite, runs)
    assert read_plan(tmp_path) == runs
    (tmp_path / SUITE_FILE).write_text('{"runs": [{"label": 1}]}', encoding="utf-8")
    with pytest.raises(UserError, match=r"suite\.json is not what a suite writes"):
        read_plan(tmp_path)


def test_a_search_has_a_folder_for_what_it_searches(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("learning_rate: {uniform: [0.1, 0.2]}\n", encoding="utf-8")
    text = "datasets: [small]\nmodels:\n  SASRecCE: {search: {space: space.yaml, num_trials: 2}}\n"

    def place(text: str = text) -> Path:
        suite = suite_of(tmp_path, text)
        return plan_search(suite, suite.models[0], "small", output=tmp_path, given={}).place

    first = place()
    assert place("# a comment\n" + text) == first and place(text.replace("trials: 2", "trials: 3")) != first
    assert place(text + "settings: {epochs: 3}\n") != first
    (tmp_path / "space.yaml").write_text("# a comment\nlearning_rate: {uniform: [0.1, 0.2]}\n", encoding="utf-8")
    assert place() == first
    (tmp_path / "space.yaml").write_text("learning_rate: {uniform: [0.1, 0.3]}\n", encoding="utf-8")
    assert place() != first


def test_a_search_on_other_data_is_another_search(tmp_path: Path) -> None:
    """Wherever it is said where they lie."""
    (tmp_path / "space.yaml").write_text("learning_rate: {uniform: [0.1, 0.2]}\n", encoding="utf-8")
    (tmp_path / "small").mkdir()
    text = f"datasets: [small]\nsettings: {{data_path: '{tmp_path}'}}\n"
    suite = suite_of(tmp_path, text + "models:\n  SASRecCE: {search: {space: space.yaml}}\n")
    places = set()
    for text in ("user_id:token\titem_id:token\n", "user_id:token\titem_id:token\na\tb\n"):
        (tmp_path / "small" / "small.inter").write_text(text, encoding="utf-8")
        data_files.cache_clear()
        places.add(plan_search(suite, suite.models[0], "small", output=tmp_path, given={}).place)
    assert len(places) == 2


def test_a_key_is_drawn_by_a_search_or_given_to_all_runs(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("epochs: 7\nlearning_rate: {uniform: [0.1, 0.2]}\n", encoding="utf-8")
    suite = suite_of(tmp_path, "datasets: [small]\nmodels:\n  SASRecCE: {search: {space: space.yaml}}\n")

    def plan(**keys: object) -> PlannedSearch:
        given = Overrides(keys, origin="command line")
        return plan_search(suite, suite.models[0], "small", output=tmp_path, given=given)

    message = (
        r"^learning_rate is given \(command line\) and drawn \(.*space\.yaml:2\) by the search for SASRecCE; leave"
    )
    with pytest.raises(UserError, match=message):
        plan(learning_rate=0.1)

    class Noted(Processes):
        def call(self, words: Sequence[str], log: Path, **_: object) -> int:
            calls.append(list(words))
            log.write_text("error: nothing\n", encoding="utf-8")
            return 2

    calls: list[list[str]] = []
    for search, words in ((plan(epochs=3), ["--epochs=3"]), (plan(), [])):
        assert make_search(search, {}, Noted()).reason == "nothing"
        assert [word for word in calls.pop() if "epochs" in word] == words  # what the space fixes gives way


def test_a_key_that_candidates_have_is_said_when_it_is_given(tmp_path: Path) -> None:
    suite = suite_of(
        tmp_path, GOOD.replace("    seeds: 7", "    candidates: {num_steps: [8, 16], mask_mode: [key, query]}")
    )
    said = SuitePlan(suite, tmp_path / "out", Overrides({"num_steps": 4}, origin="command line")).given_candidates()
    assert said == [
        "num_steps 4 (command line) is that of all runs: the candidates of DiffuRec without diffusion do not vary it"
    ]
    assert not SuitePlan(suite, tmp_path / "out", Overrides({"epochs": 4})).given_candidates()


def test_what_a_search_chose_is_what_its_trials_were_given(tmp_path: Path) -> None:
    facts = {
        "space": {"learning_rate": {"uniform": [0.1, 0.2]}, "hidden_size": 8},
        "best": {"trial": "b"},
        "trials": [{"trial": "a", "values": {"learning_rate": 0.1}}, {"trial": "b", "values": {"learning_rate": 0.2}}],
    }
    sweep = tmp_path / "SASRecCE-small-1"
    sweep.mkdir()
    suite = suite_of(tmp_path, GOOD)
    search = PlannedSearch(suite.models[0], "small", {}, tmp_path)
    assert search.chosen() is None
    (sweep / "sweep.json").write_text("{}", encoding="utf-8")
    assert search.chosen() is None  # begun
    (sweep / "tune_result.json").write_text(json.dumps(facts), encoding="utf-8")
    assert search.chosen() == {"learning_rate": 0.2, "hidden_size": 8}


def test_labels_that_differ_have_folders_that_differ() -> None:
    labels = ["a b", "a-b", "a/b", "A", "λ = 0", "λ = 1", "x" * 200, "x" * 201, "..", "a.b"]
    assert len({slug(label) for label in labels}) == len(labels)
    assert slug("SASRecCE") == "SASRecCE"
    assert all(part not in ("", ".", "..") and "/" not in part for part in map(slug, labels))


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_can_be_run_and_set_beside_what_was_printed(path: Path) -> None:
    """Every configuration is allowed, the runs on a dataset are asked for the same rows, and each row has its name in
    the printed figures."""
    suite = read_suite(path)
    assert suite.about
    sources = read_published(suite.published)
    printed = {model for source in sources for models in source.values.values() for model in models}
    columns = {metric_key(name) for name in suite.metrics or ()}
    for dataset in suite.datasets:
        rows = {}
        for model in (model for model in suite.models if dataset in model.datasets):
            planned = plan_run(suite, model, dataset, model.seeds[0], output=Path("out"), given={})
            config = RunConfig(planned.model, dataset, (), {**planned.keys, "preset": planned.preset})
            rows[model.label] = protocol_facts(config)
            assert columns <= {f"{metric_key(metric)}@{k}" for metric in config["metrics"] for k in config["topk"]}
            if model.published:
                assert model.published in printed, f"{model.label}: {model.published} is in none of {suite.published}"
                table = table_name(dataset, config["protocol"])
                for source in sources:
                    assert table not in source.values or source.of(table, model.published), (table, model.published)
        for model in suite.models:
            if model.candidates and dataset in model.datasets:
                plan_choice(suite, model, dataset, output=Path("out"), given={})
        assert len({json.dumps(facts, sort_keys=True) for facts in rows.values()}) == 1, rows
    assert not sources or any((model.published or model.model) in printed for model in suite.models)


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_data_of_shipped_suites(path: Path, shared: Path) -> None:
    suite = read_suite(path)
    for dataset in suite.datasets:
        given = {"data_path": str(shared / "data")}
        planned = plan_run(suite, suite.models[0], dataset, 1, output=Path("out"), given=given)
        assert planned.keys["data_path"] == given["data_path"]
        assert (shared / "data" / dataset / f"{dataset}.inter").is_file()


def test_the_honest_suite_tries_as_many_configurations_of_every_model() -> None:
    suite = read_suite(SUITES / "honest.yaml")
    models = [model for model in suite.models if model.label != "Popularity"]
    assert {len(model.candidates) for model in models} == {4}
    for model in models:
        searched = read(SUITES.parents[1] / "hyper" / f"{model.model}.yaml").domains
        for key, value in ((key, value) for candidate in model.candidates for key, value in candidate.items()):
            domain = searched[key]
            inside = value in domain.values if domain.finite else domain.values[0] <= value <= domain.values[1]
            assert inside, f"{model.label}: {key} {value} is not among {domain}"
        spread = {"item_init_std", "initializer_range"} & {*model.candidates[0]}
        assert spread or model.model == "GRU4Rec"


def test_a_key_that_is_given_as_none_reaches_its_run(tmp_path: Path) -> None:
    """DreamRec's spread is 1.0 by default, and ~ is another one."""
    suite = suite_of(tmp_path, "datasets: [small]\nmodels:\n  DreamRec: {settings: {item_init_std: ~}}\n")
    run = plan_run(suite, *next(suite.rows()), output=tmp_path, given={})
    processes = Processes()
    processes.stopped = True  # nothing starts
    assert perform(run, {"data_path": str(tmp_path)}, processes).interrupted
    config = RunConfig(config_files=[run.place / "asked.yaml"])
    assert config["item_init_std"] is None and config["data_path"].startswith(str(tmp_path))
    assert config.to_plain() == RunConfig("DreamRec", "small", (), {**run.keys, "data_path": str(tmp_path)}).to_plain()


def test_an_evaluation_with_other_keys_is_made_anew(tmp_path: Path) -> None:
    def run(keys: str) -> PlannedRun:
        suite = suite_of(tmp_path, GOOD.replace("{filter_seen: True}", keys))
        return plan_run(suite, *next(suite.rows()), output=tmp_path, given={})

    name, first = "without seen items", run("{filter_seen: True}")
    for number, keys in enumerate(("{filter_seen: True, topk: 10}", "{filter_seen: True, topk: [10, 50]}")):
        assert run(keys).place == first.place and run(keys).missing_evaluations() == [name]
        made = first.evaluation_place(name) / f"evaluate-{number}"
        made.mkdir(parents=True)
        (made / "config.yaml").write_text(f"filter_seen: true\ntopk: {[10, 50][: number + 1]}\n", encoding="utf-8")
        assert run(keys).missing_evaluations() == [name]  # not finished
        (made / "result.json").write_text("{}", encoding="utf-8")
        assert run(keys).evaluation_folder(name) == made
    back = run("{filter_seen: True, topk: 10}")
    assert back.evaluation_folder(name) == first.evaluation_place(name) / "evaluate-0"


def test_an_evaluation_may_have_the_keys_of_another_mapping(tmp_path: Path) -> None:
    text = GOOD.replace("{filter_seen: True}", "&seen {filter_seen: True}\n  more: {<<: *seen, topk: 10}")
    assert planned(suite_of(tmp_path, text)).evaluations["more"] == {"filter_seen": True, "topk": [10]}
    with pytest.raises(UserError, match=r"unknown key 'filter_sen' .*mine\.yaml:14"):
        planned(suite_of(tmp_path, text.replace("{filter_seen", "{filter_sen")))


def test_candidates_that_the_command_line_makes_alike_are_one(tmp_path: Path) -> None:
    text = GOOD.replace("    seeds: 7", "    candidates: {num_steps: [8, 16], mask_mode: [key, query]}")
    suite = suite_of(tmp_path, text)
    choice = plan_choice(suite, suite.models[1], "small", output=Path("out"), given={"mask_mode": "query"})
    assert len({run.place for run in choice.runs}) == len(choice.runs) == len(choice.values) == 2
    assert [run.keys["num_steps"] for run in choice.runs] == [values["num_steps"] for values in choice.values]


def test_candidates_need_validation(tmp_path: Path) -> None:
    text = GOOD.replace("    seeds: 7", "    candidates: {num_steps: [8, 16]}").replace("epochs: 1", "eval_step: 0")
    suite = suite_of(tmp_path, text)
    with pytest.raises(UserError, match=r"mine\.yaml:11: candidates are .* but eval_step is 0 \(.*mine\.yaml:4\)"):
        plan_choice(suite, suite.models[1], "small", output=Path("out"), given={})


def test_a_model_need_not_be_one_without_its_candidates(tmp_path: Path) -> None:
    text = "datasets: [small]\nsettings: {valid_metric: NDCG@50}\nmodels:\n"
    text += "  SASRecCE: {candidates: {topk: [[50], [5, 50]]}}\n"
    plan = SuitePlan(suite_of(tmp_path, text), tmp_path / "out", {})
    assert [run.keys["topk"] for run in plan.first_runs()] == [[50], [5, 50]]
    assert plan.settled_runs() == () and plan.total == 3


def test_an_evaluation_runs_on_the_suites_device(tmp_path: Path) -> None:
    class Noted(Processes):
        def call(self, words: Sequence[str], log: Path, **_: object) -> int:
            calls.append(list(words))
            return 0

    calls: list[list[str]] = []
    suite = suite_of(tmp_path, GOOD.replace("{epochs: 1}", "{epochs: 1, use_gpu: False}"))
    run = plan_run(suite, *next(suite.rows()), output=tmp_path, given={})
    (run.place / "made").mkdir(parents=True)
    for name in ("config.yaml", "result.json"):
        (run.place / "made" / name).write_text("{}", encoding="utf-8")
    assert perform(run, {"data_path": "data"}, Noted()).reason is None
    assert calls[0][0] == "evaluate" and "--use_gpu=false" in calls[0]
    assert perform(run, {"use_gpu": True}, Noted()).reason is None and "--use_gpu=true" in calls[1]  # the machine's say


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("learning_rate: {uniform: [0.1,\n", r"space\.yaml:2: not valid YAML"),
        ("learning_rate: {unifrm: [0.1, 1]}\n", r"space\.yaml:1: .*unifrm"),
        ("learning_rate: 0.1\n", r"space\.yaml searches nothing"),
        ("learning_ratee: {uniform: [0.1, 1]}\n", r"unknown key 'learning_ratee' \(.*space\.yaml:1\)"),
        ("epochs: {choice: [1, 0]}\n", r"epochs must be .* got 0 \(.*space\.yaml:1\)"),
        ("n_heads: {choice: [1, 3]}\n", r"hidden_size 64 is not a multiple of n_heads 3; .*\(.*space\.yaml:1\)"),
    ],
)
def test_a_wrong_search_space_is_said_before_anything_starts(tmp_path: Path, space: str, message: str) -> None:
    (tmp_path / "space.yaml").write_text(space, encoding="utf-8")
    suite = suite_of(tmp_path, "datasets: [small]\nmodels:\n  SASRecCE: {search: {space: space.yaml}}\n")
    with pytest.raises(UserError, match=message):
        SuitePlan(suite, tmp_path / "out", {})
