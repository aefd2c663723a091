"""Search spaces: what a file may say, what is refused and where; nothing here starts Ray."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.config_data_keys import DATA_CHECKS
from recbole_diffusion.config_protocols import KEYS_OF_PROTOCOL, recorded_protocol
from recbole_diffusion.config_training_keys import TRAINING_CHECKS
from recbole_diffusion.config_values import CHECKS, NotAllowedError
from recbole_diffusion.errors import UserError
from recbole_diffusion.tuning.domains import ARGUMENTS, Domain, DomainError
from recbole_diffusion.tuning.options import SweepOptions, seconds
from recbole_diffusion.tuning.search_space import read
from recbole_diffusion.tuning.unsearched_keys import MAPPINGS, NOT_DRAWN, NOT_SEARCHED, TRAINING_ROWS


def write(folder: Path, text: str, name: str = "space.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_with_drawn_and_fixed_keys(tmp_path: Path) -> None:
    space = read(
        write(tmp_path, "learning_rate: {loguniform: [1e-4, 1e-2]}\nnum_steps:\n  choice: [16, 32]\nseed: 3\n")
    )
    assert space.domains == {
        "learning_rate": Domain("loguniform", (1e-4, 1e-2)),
        "num_steps": Domain("choice", (16, 32)),
    }
    assert space.fixed == {"seed": 3}
    assert space.origins["num_steps"] == f"{tmp_path / 'space.yaml'}:2"
    assert read(space.plain()).digest() == space.digest()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: 1\nlearning_rate: {loguniform: [0, 1]}\n",
            ":2: learning_rate must be loguniform: [low, high] with low above 0",
        ),
        (
            "learning_rate: {loguniform: [1, 0.1]}\n",
            ":1: learning_rate must be loguniform: [low, high] with low below high",
        ),
        (
            "learning_rate: {logunifrom: [1e-4, 1]}\n",
            ":1: learning_rate has no distribution 'logunifrom'; did you mean 'log",
        ),
        ("x: {uniform: [1]}\n", ":1: x must be uniform: [low, high], 2 numbers, got [1]"),
        ("x: {randint: [1, 2.5]}\n", ":1: x must be randint: [low, high] with integers"),
        ("x: {quniform: [0, 1, 0.3]}\n", "with low and high multiples of q"),
        ("x: {choice: []}\n", "with at least one value"),
        ("x: {choice: 3}\n", "with a list, got 3"),
        ("x: {choice: [1], grid: [2]}\n", "a key has one of"),
        ("x: 1\n", "space.yaml searches nothing"),
        (
            "seed: {choice: [1, 2]}\nlearning_rate: {zzz: [1e-4, 1e-2]}\n",
            ":2: learning_rate has no distribution 'zzz'; there are choice, grid, uniform",
        ),
        ("a_models_own: {zzz: [1, 2]}\n", ":1: a_models_own has no distribution 'zzz'; there are choice"),
        ("load_col: {inter: [user_id, item_id]}\n", "space.yaml searches nothing"),
        (f"x: {{uniform: [0, 1{'0' * 400}]}}\n", ":1: x must be uniform: [low, high] with finite numbers"),
        (
            "x: {choice: [1]}\neval_args: {choice: [{mode: full}, {mode: uni100}]}\n",
            ":2: eval_args cannot be drawn: trials would be validated on other rows, or against other items; give",
        ),
        (
            'user_inter_num_interval: {choice: ["[0,inf)", "[12,inf)"]}\n',
            ":1: user_inter_num_interval cannot be drawn: trials would be of other interactions, users or items",
        ),
        ("dataset: {choice: [a, b]}\n", ":1: dataset cannot stand in a search space: a sweep is of one dataset"),
        ("topk: [5]\nx: {choice: [1]}\n", ":1: topk cannot stand in a search space"),
        ("x: {choice: [1]}\nx: {choice: [2]}\n", ":2: not valid YAML: key 'x' is given twice"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(write(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recboles_range_files_mean_what_they_mean_there(tmp_path: Path) -> None:
    text = (
        "# comment\n"
        "learning_rate loguniform -8,0\n"
        "embedding_size choice [64, 96 ,128]\n"
        "mlp_hidden_size choice ['[64,64,64]','[128,128]']\n"
        "loss_type choice ['CE', 'BPR']\n"
        "dropout_prob uniform 0.0,1.0\n"
        "hidden_size quniform 16,64,16\n"
        "decay quniform 0.0,1.0,0.25\n"
    )
    domains = read(write(tmp_path, text, "hyper.test")).domains
    assert domains["learning_rate"] == Domain("loguniform", (math.exp(-8), 1.0))
    assert domains["embedding_size"].values == (64, 96, 128)
    assert domains["mlp_hidden_size"].values == ([64, 64, 64], [128, 128])
    assert domains["loss_type"].values == ("CE", "BPR")
    assert domains["dropout_prob"] == Domain("uniform", (0.0, 1.0))
    assert domains["hidden_size"] == Domain("qrandint", (16, 64, 16))
    assert domains["decay"] == Domain("quniform", (0.0, 1.0, 0.25))


def test_recboles_loguniform_agrees_with_hyperopt() -> None:
    hyperopt = pytest.importorskip("hyperopt")
    drawn = [hyperopt.pyll.stochastic.sample(hyperopt.hp.loguniform("x", -8, 0)) for _ in range(300)]
    assert math.exp(-8) <= min(drawn) < math.exp(-6) < math.exp(-2) < max(drawn) <= 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate loguniform\n", "hyper.test:1: a line is 'key type range'"),
        ("\nx normal 0,1\n", "hyper.test:2: the type of x must be one of choice, uniform"),
        ("x choice __import__('os').getcwd()\n", "hyper.test:1: the range of x must be a list"),
        ("x uniform 0,a\n", "must be numbers separated by commas"),
        ("x loguniform -8\n", "two numbers, the natural logarithms of the ends"),
        ("x uniform 0,1\nx uniform 0,1\n", "hyper.test:2: key 'x' is given twice"),
        ("\nx loguniform 0,800\n", "hyper.test:2: the range of x must be two natural logarithms, the lower first, of"),
        ("x loguniform -800,0\n", "hyper.test:1: the range of x must be two natural logarithms, the lower first, of"),
        (f"x loguniform 0,1{'0' * 400}\n", "must be two natural logarithms, the lower first, of numbers that a float"),
        ("eval_seed choice [1,2]\n", "hyper.test:1: eval_seed cannot be drawn: trials would be validated on other"),
    ],
)
def test_a_range_file_is_not_evaluated_and_no_line_is_skipped(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(write(tmp_path, text, "hyper.test"))
    assert message in str(caught.value)


@pytest.mark.parametrize("kind", sorted(ARGUMENTS))
def test_every_distribution_stays_in_its_range_and_reaches_both_ends_of_integers(kind: str) -> None:
    pytest.importorskip("ray")
    whole = "int" in kind
    values: tuple[Any, ...] = (2, 6) if whole else (0.5, 1.5)
    values += ((2,) if whole else (0.5,)) if kind.startswith("q") else ()
    domain = Domain(kind, values).to_ray()
    drawn = [domain.sample() for _ in range(400)]
    low, high = values[:2]
    assert low <= min(drawn) and max(drawn) <= high
    if whole:
        assert all(float(value).is_integer() for value in drawn)
        assert min(drawn) == low and max(drawn) == high


@pytest.mark.parametrize("kind", ["qrandint", "qlograndint"])
def test_multiples_of_one_are_integers(kind: str) -> None:
    """Ray leaves the upper end out of these, and includes it with any other q."""
    pytest.importorskip("ray")
    domain = Domain(kind, (2, 4, 1)).to_ray()
    assert {domain.sample() for _ in range(200)} == {2, 3, 4}


def test_multiples_are_drawn_alike() -> None:
    """Rounding integers to multiples would draw the ends half as often."""
    pytest.importorskip("ray")
    drawn = Domain("qrandint", (10, 50, 10)).to_ray().sample(size=4000, random_state=0)
    assert set(drawn) == {10, 20, 30, 40, 50}
    assert all(700 < drawn.count(value) < 900 for value in set(drawn))
    below = Domain("qlograndint", (10, 50, 10)).to_ray().sample(size=4000, random_state=0)
    counts = [below.count(value) for value in (10, 20, 30, 40, 50)]
    assert counts == sorted(counts, reverse=True) and counts[-1] > 0  # ln 2 / ln 6 for 10


@pytest.mark.parametrize(("values", "best"), [((2, 6, 2), 6), ((2, 5, 1), 5)])
def test_optuna_reaches_the_upper_end(values: tuple[int, ...], best: int) -> None:
    pytest.importorskip("ray")
    pytest.importorskip("optuna")
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch({"x": Domain("qrandint", values).to_ray()}, metric="score", mode="max", seed=0)
    seen = {(search.suggest(str(number)) or {})["x"] for number in range(60)}
    assert max(seen) == best and all(value % values[2] == 0 for value in seen)


def test_domains_that_cannot_be() -> None:
    for kind, values in (("uniform", (0, math.inf)), ("qrandint", (0, 10, 0)), ("uniform", (True, 2))):
        with pytest.raises(DomainError):
            Domain(kind, values)


def test_a_value_that_only_another_key_allows_is_no_mistake() -> None:
    """`b` is read with a = 2 alone; c = 9 is never read."""

    def refused(values: Any) -> UserError | None:
        if values.get("c") == 9:
            return UserError("c must be below 9")
        if "b" in values and values.get("a") != 2:
            return UserError("b goes with a = 2")
        return None

    read({"a": {"choice": [1, 2]}, "b": {"uniform": [0, 1]}}).check(refused)
    with pytest.raises(UserError, match="c must be below 9"):
        read({"a": {"choice": [1, 2]}, "c": {"choice": [1, 9]}}).check(refused)


@pytest.mark.parametrize("domain", [Domain("quniform", (16, 64, 16)), Domain("uniform", (1, 3))])
def test_ends_are_checked_as_they_are_drawn(domain: Domain) -> None:
    """A key that takes integers refuses 64.0, which is what every trial would get."""
    assert [type(end) for end in domain.ends()] == [float, float]
    assert [type(end) for end in Domain("qrandint", (16, 64, 16)).ends()] == [int, int]


def test_numbers_of_trials() -> None:
    space = read({"a": {"grid": [1, 2]}, "b": {"choice": [1, 2, 3]}})
    assert (space.size(), space.grid_size()) == (6, 2)
    assert SweepOptions(num_trials=4).trials(space) == 8
    assert SweepOptions(search="grid").trials(space) == 6


@pytest.mark.parametrize(
    ("options", "space", "message"),
    [
        ({"search": "grid"}, {"x": {"uniform": [0, 1]}}, "search: grid needs every value listed, but x is uniform"),
        ({"search": "optuna"}, {"x": {"grid": [0, 1]}}, "search: optuna draws every key, but x is grid"),
        ({"scheduler": "pbt"}, {"hidden_size": {"choice": [8, 16]}}, "hidden_size cannot change in one"),
        (
            {"scheduler": "pbt", "search": "optuna"},
            {"learning_rate": {"uniform": [0, 1]}},
            "pbt goes with search: random",
        ),
        ({"scheduler": "pbt", "num_trials": 1}, {"learning_rate": {"uniform": [0, 1]}}, "needs a population"),
    ],
)
def test_spaces_that_a_search_or_scheduler_cannot_go_through(options: Any, space: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        SweepOptions(**options).check_space(read(space))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "asah"}, "did you mean 'asha'?"),
        ({"num_trials": 0}, "num_trials must be an integer of at least 1, got 0"),
        ({"num_trials": 3, "search": "grid"}, "num_trials does not go with search: grid"),
        ({"cpus_per_trial": 0.5}, "cpus_per_trial must be an integer"),
        ({"gpus_per_trial": 1.5}, "gpus_per_trial must be 0, a share of a GPU"),
        ({"grace_period": 3}, "grace_period is read by scheduler asha and median, not by none"),
        ({"time_budget": -1}, "time_budget must be seconds above 0"),
        ({"reduction_factor": 1}, "reduction_factor must be a number above 1"),
        ({"reduction_factor": 4}, "reduction_factor is read by scheduler asha and median, not by none; leave it out"),
        (
            {"reduction_factor": 4, "scheduler": "median", "grace_period": 2},
            "reduction_factor is read by scheduler median where grace_period is not given",
        ),
    ],
)
def test_options_that_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        SweepOptions(**options)
    assert message in str(caught.value)


def test_the_factor_of_those_that_read_it_is_taken() -> None:
    for options in ({"scheduler": "asha", "grace_period": 2}, {"scheduler": "median"}):
        assert SweepOptions(**options, reduction_factor=4).reduction_factor == 4
    assert SweepOptions(**SweepOptions(scheduler="median", grace_period=2).plain()).grace_period == 2


def test_time_budgets() -> None:
    assert [seconds(text) for text in (90, "90s", "30m", "2h", "1d")] == [90, 90, 1800, 7200, 86400]
    with pytest.raises(UserError, match="time_budget must be"):
        seconds("soon")


def test_keys_not_to_be_searched_say_why() -> None:
    for key in NOT_SEARCHED:
        with pytest.raises(UserError, match=f"{key} cannot stand in a search space: "):
            read({key: {"choice": [1, 2]}})


def test_what_trials_are_compared_on_is_fixed_and_not_drawn() -> None:
    x = {"x": {"choice": [1]}}
    for key in NOT_DRAWN:
        with pytest.raises(UserError, match=f"search space: {key} cannot be drawn: trials would "):
            read({**x, key: {"grid": [1, 2]}})
        assert read({**x, key: 1}).fixed == {key: 1}


def test_all_that_a_result_says_of_its_measurement_is_the_same_in_every_trial() -> None:
    """Beside what decides on training rows alone, and how much of a history the model sees."""
    searched = {"MAX_ITEM_LIST_LENGTH", *TRAINING_ROWS}
    for protocol in KEYS_OF_PROTOCOL:
        config: Any = defaultdict(lambda: 1, protocol=protocol, eval_args={"mode": "full"}, user_order="shuffled")
        facts = set(recorded_protocol(config))
        assert facts - NOT_DRAWN.keys() - NOT_SEARCHED.keys() == searched & facts, protocol
    assert not NOT_DRAWN.keys() & NOT_SEARCHED.keys()
    for key in searched | {"transform", "seed", "train_batch_size"}:
        assert read({key: {"choice": [1, 2]}}).domains


def test_keys_whose_values_are_mappings_are_known() -> None:
    """Others refuse every mapping, so one of a name and a list is a distribution that is none."""
    taken = set()
    for key, check in {**CHECKS, **TRAINING_CHECKS, **DATA_CHECKS}.items():
        try:
            check({"inter": ["a"]})
            taken.add(key)
        except NotAllowedError as error:
            taken |= {key} if "mapping" in str(error) else set()
    assert taken == MAPPINGS
