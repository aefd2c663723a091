"""Noise schedules: published numbers, identities of the posterior, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from recbole_diffusion.diffusion.schedules import SCHEDULES, NoiseSchedule, build_schedule

PARAMETERS = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02},
    "eq14": {"eq14_a": 0.3, "eq14_b": 0.01},
    "linear_var": {"variance_min": 1e-4, "variance_max": 0.4},
}
ANY_T = [name for name in SCHEDULES if name not in ("linear_scaled", "pw_lin")]
CASES = [(name, steps) for name in SCHEDULES for steps in (1, 2, 3, 10, 20, 21, 32, 100, 1000)]
CASES = [(name, steps) for name, steps in CASES if steps > 20 or name in ANY_T]


def built(name: str, num_steps: int) -> NoiseSchedule:
    return build_schedule(name, num_steps, **PARAMETERS.get(name, {}))


# --- identities that hold for every schedule --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "num_steps"), CASES)
def test_posterior_identities(name: str, num_steps: int) -> None:
    schedule = built(name, num_steps)
    table = schedule.tables
    assert schedule.num_steps == num_steps
    assert all(values.shape == (num_steps,) and values.dtype == np.float64 for values in table.values())
    assert ((table["betas"] > 0) & (table["betas"] < 1)).all()
    bar = np.append(1.0, table["alpha_bar"])
    assert (np.diff(bar) < 0).all() and bar[-1] > 0
    np.testing.assert_array_equal(table["alpha_bar_prev"], bar[:-1])
    # alpha_bar is the product of 1 - beta: step by step, and as a sum of logarithms
    np.testing.assert_allclose(bar[1:] / bar[:-1], 1 - table["betas"], rtol=1e-12)
    np.testing.assert_allclose(np.log(bar[-1]), np.log1p(-table["betas"]).sum(), rtol=1e-10)
    c1, c2 = table["posterior_mean_coef1"], table["posterior_mean_coef2"]
    # the noise-free path x_t = sqrt(alpha_bar_t) x_0 steps to sqrt(alpha_bar_{t-1}) x_0 ...
    np.testing.assert_allclose(c1 + c2 * np.sqrt(bar[1:]), np.sqrt(bar[:-1]), rtol=1e-10)
    # ... and x_{t-1} given x_0 keeps the forward variance
    np.testing.assert_allclose(c2**2 * (1 - bar[1:]) + table["posterior_variance"], 1 - bar[:-1], atol=1e-12)
    # the last reverse step returns the denoiser's output
    assert c1[0] == pytest.approx(1.0, abs=1e-12) and schedule.posterior_mean_coef1[0].item() == 1.0
    assert c2[0] == 0.0 and table["posterior_variance"][0] == 0.0
    # and signal and noise together have unit power
    np.testing.assert_allclose(table["sqrt_alpha_bar"] ** 2 + table["sqrt_one_minus_alpha_bar"] ** 2, 1, rtol=1e-14)


def test_the_weight_printed_in_equation_5_breaks_the_noise_free_path() -> None:
    table = built("trunc_lin", 32).tables
    printed = np.sqrt(table["alpha_bar"]) * (1 - table["alpha_bar_prev"]) / (1 - table["alpha_bar"])
    gap = table["posterior_mean_coef1"] + printed * table["sqrt_alpha_bar"] - np.sqrt(table["alpha_bar_prev"])
    assert np.abs(gap).max() > 0.05


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_regression_values_of_trunc_lin() -> None:
    table = built("trunc_lin", 32).tables
    beta, bar = table["betas"], table["alpha_bar"]
    assert beta[[0, 1, 31]] == pytest.approx([0.013125, 0.03318548, 0.635], abs=5e-9)
    assert bar[[0, 15, 31]] == pytest.approx([0.986875, 0.0519829095, 9.9013e-07], rel=5e-6)
    assert table["posterior_mean_coef1"][[1, 31]] == pytest.approx([0.71862756, 0.00104586], abs=5e-9)
    assert table["posterior_mean_coef2"][[1, 31]] == pytest.approx([0.28131671, 0.60415126], abs=5e-9)
    assert table["posterior_variance"][1] == pytest.approx(0.00949450, abs=5e-9)


def test_regression_values_of_exp_and_linear() -> None:
    table = built("exp", 200).tables
    assert table["betas"][[0, -1]] == pytest.approx([0.00062356, 0.04888828], abs=5e-9)
    assert table["alpha_bar"][-1] == pytest.approx(0.0062526, abs=5e-8)
    bar = built("linear", 20).tables["alpha_bar"]
    assert bar[[0, 9, 19]] == pytest.approx([0.9999, 0.952854, 0.816777], abs=5e-7)


def test_regression_values_of_linear_var() -> None:
    table = build_schedule("linear_var", 10, variance_min=1e-4, variance_max=0.004, variance_scale=1.0).tables
    assert table["betas"][1] == pytest.approx(4.33377e-4, rel=5e-6)
    assert table["posterior_mean_coef1"][[1, 9]] == pytest.approx([0.812541, 0.108527], abs=5e-7)
    assert table["posterior_mean_coef2"][[1, 9]] == pytest.approx([0.187459, 0.891473], abs=5e-7)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_linear_var_grows_the_variance_in_equal_increments(scale: float | None) -> None:
    schedule = build_schedule("linear_var", 8, variance_min=0.01, variance_max=0.08, variance_scale=scale)
    factor = 1.0 if scale is None else scale
    variance = 1 - schedule.tables["alpha_bar"]
    np.testing.assert_allclose(variance, factor * np.linspace(0.01, 0.08, 8), rtol=1e-12)
    single = build_schedule("linear_var", 1, variance_min=0.01, variance_max=0.08, variance_scale=scale)
    np.testing.assert_allclose(single.tables["betas"], [factor * 0.08], rtol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "sqrt", "trunc_cos"])
def test_curves_of_alpha_bar_are_followed(name: str) -> None:
    """alpha_bar_t = curve(t/T) / curve(0), as long as no beta is cut to 0.999; trunc_cos: curve((t-1)/T)."""
    curve, first = {
        "cosine": (lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2, 1),
        "sqrt": (lambda u: 1 - np.sqrt(u + 1e-4), 1),
        "trunc_cos": (lambda u: np.cos((u + 0.1) / 1.1 * np.pi / 2) ** 2, 0),
    }[name]
    num_steps = 50
    table = built(name, num_steps).tables
    expected = curve((np.arange(num_steps) + first) / num_steps) / (curve(0.0) if first else 1.0)
    free = slice(None) if name == "trunc_cos" else slice(0, -1)
    np.testing.assert_allclose(table["alpha_bar"][free], expected[free], rtol=1e-11)
    if name != "trunc_cos":
        assert table["betas"][-1] == 0.999


def test_the_clipped_cosine_differs_from_the_cosine_at_its_ends_alone() -> None:
    """DreamRec's code clips to 0.0001 and 0.9999: seen below at T = 2000, above wherever the cosine is cut."""
    clipped, plain = (built(name, 2000).tables["betas"] for name in ("cosine_clipped", "cosine"))
    assert clipped[0] == 1e-4 > plain[0] and clipped[-1] == 0.9999 > plain[-1] == 0.999
    inside = (plain > 1e-4) & (plain < 0.999)
    assert inside.sum() > 1900
    np.testing.assert_allclose(clipped[inside], plain[inside], rtol=1e-9)


def test_exp_samples_a_straight_line_of_rates() -> None:
    """-log(1 - beta_i) T = 0.1 + x_i 4.95 / T runs in a straight line from about 0.1 to about 10."""
    rate = -np.log1p(-built("exp", 400).tables["betas"]) * 400
    np.testing.assert_allclose(np.diff(rate), (rate[-1] - rate[0]) / 399, rtol=1e-9)
    assert rate[[0, -1]] == pytest.approx([0.1 + 4.95 / 400, 0.1 + 801 * 4.95 / 400], rel=1e-12)


def test_trunc_lin_falls_back_where_the_end_exceeds_one() -> None:
    # T = 21: 20/21 + 0.01 < 1 stays; T = 20: 1.01 > 1 becomes 1/20 + 0.01
    assert built("trunc_lin", 21).tables["betas"][-1] == pytest.approx(20 / 21 + 0.01, rel=1e-12)
    assert built("trunc_lin", 20).tables["betas"][-1] == pytest.approx(0.06, rel=1e-12)
    np.testing.assert_allclose(built("trunc_lin", 2).tables["betas"], [0.06, 0.51], rtol=1e-12)
    for num_steps in range(10, 21):
        assert 0.45 < built("trunc_lin", num_steps).tables["alpha_bar"][-1] < 0.53


def test_pw_lin_has_ten_falling_steps() -> None:
    beta = built("pw_lin", 32).tables["betas"]
    assert beta[[0, 9, 10, 31]] == pytest.approx([0.1 / 32 + 0.01, 0.1 / 32, 0.1 / 32, 20 / 32], rel=1e-12)
    assert (np.diff(beta)[:9] < 0).all() and (np.diff(beta)[10:] > 0).all()


def test_eq14_cuts_entries_above_one_to_a_tenth() -> None:
    # a = 2, b = 0.3, T = 4: s/2 + 0.3/s = 0.8, 1.15, 1.6, 2.075
    schedule = build_schedule("eq14", 4, eq14_a=2.0, eq14_b=0.3)
    np.testing.assert_allclose(schedule.tables["betas"], [0.8, 0.115, 0.16, 0.2075], rtol=1e-12)
    # without an entry above 1 it is the printed line plus hyperbola
    np.testing.assert_allclose(built("eq14", 3).tables["betas"], [0.11, 0.205, 0.3 + 0.01 / 3], rtol=1e-12)


def test_eq14_refuses_what_the_cut_does_not_bring_below_one() -> None:
    with pytest.raises(
        ValueError, match=r"beta is 1\.2 in slot 3.*change noise_schedule or num_steps or eq14_a or eq14_b"
    ):
        build_schedule("eq14", 4, eq14_a=12.0, eq14_b=0.1e-9)
    with pytest.raises(ValueError, match="beta is 1 in slot 0"):  # exactly 1 is not above the threshold
        build_schedule("eq14", 2, eq14_a=1.0, eq14_b=0.5)


# --- against the published code ---------------------------------------------------------------------------------------

PUBLISHED = {
    "betas": "betas",
    "alphas_cumprod": "alpha_bar",
    "alphas_cumprod_prev": "alpha_bar_prev",
    "sqrt_alphas_cumprod": "sqrt_alpha_bar",
    "sqrt_one_minus_alphas_cumprod": "sqrt_one_minus_alpha_bar",
    "posterior_mean_coef1": "posterior_mean_coef1",
    "posterior_mean_coef2": "posterior_mean_coef2",
    "posterior_variance": "posterior_variance",
}


def test_tables_equal_those_of_the_published_code(shared) -> None:
    """Golden numbers: DiffuRec's released code, its schedule `linear` is linear_scaled here."""
    golden = np.load(shared / "golden" / "schedules.npz")
    compared = 0
    for key in golden.files:
        name, rest = key.split("_T", 1)
        steps, array = rest.split("_", 1)
        if array not in PUBLISHED:
            assert array in ("p_sample_log_variance", "t_scaled")  # test_process, test_step_embedding
            continue
        schedule = built("linear_scaled" if name == "linear" else name, int(steps))
        ours = schedule.tables[PUBLISHED[array]]
        np.testing.assert_allclose(ours, golden[key], rtol=1e-12, atol=1e-12, err_msg=key)
        compared += 1
    assert compared == 17 * len(PUBLISHED)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear_scaled", "pw_lin"])
def test_schedules_ending_at_20_over_T_refuse_few_steps(name: str) -> None:
    for num_steps in (1, 10, 20):
        with pytest.raises(ValueError, match=f"num_steps is {num_steps}, allowed are 21 and more"):
            built(name, num_steps)
    assert built(name, 21).tables["betas"][-1] == pytest.approx(20 / 21)


@pytest.mark.parametrize(("wrong", "near"), [("cosin", "cosine"), ("Trunc_Lin", "trunc_lin"), ("eq_14", "eq14")])
def test_unknown_name_is_refused_with_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown noise_schedule '{wrong}'; did you mean '{near}'") as caught:
        build_schedule(wrong, 32)
    assert all(name in str(caught.value) for name in SCHEDULES)


def test_unknown_name_without_a_near_one_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"unknown noise_schedule 'zzz' \(allowed: trunc_lin, linear, "):
        build_schedule("zzz", 32)


@pytest.mark.parametrize(
    ("name", "given", "missing"),
    [
        ("eq14", {}, "eq14_a"),
        ("eq14", {"eq14_a": 1.0, "eq14_b": None}, "eq14_b"),
        ("linear", {"beta_end": 0.02}, "beta_start"),
        ("linear_var", {"variance_min": 0.1}, "variance_max"),
    ],
)
def test_missing_parameter_is_named(name: str, given: dict, missing: str) -> None:
    with pytest.raises(ValueError, match=rf"noise_schedule '{name}' needs '{missing}'.*set the key {missing}"):
        build_schedule(name, 32, **given)


def test_a_schedule_that_needs_a_key_which_the_model_lacks_is_refused() -> None:
    keys = ("beta_start", "beta_end")
    np.testing.assert_array_equal(
        build_schedule("linear", 8, keys=keys, beta_start=0.1, beta_end=0.2).tables["betas"], np.linspace(0.1, 0.2, 8)
    )
    with pytest.raises(ValueError, match=r"'eq14' needs eq14_a, eq14_b, for which this model has no key \(allowed: "):
        build_schedule("eq14", 8, keys=keys)
    with pytest.raises(ValueError, match=r"needs slope, for which this model has no key.*function of num_steps\)"):
        build_schedule(lambda num_steps, slope: [slope] * num_steps, 8, keys=())


def test_parameter_of_another_schedule_is_named_and_none_is_not_given() -> None:
    with pytest.raises(ValueError, match=r"'trunc_lin' does not take 'eq14_a': it takes no parameters \(remove eq14_a"):
        build_schedule("trunc_lin", 32, eq14_a=0.5)
    with pytest.raises(ValueError, match="'linear' does not take 'eq14_b': it takes beta_start, beta_end"):
        build_schedule("linear", 32, beta_start=1e-4, beta_end=0.02, eq14_b=1.0)
    schedule = build_schedule("trunc_lin", 32, eq14_a=None, beta_start=None)
    np.testing.assert_array_equal(schedule.tables["betas"], built("trunc_lin", 32).tables["betas"])


@pytest.mark.parametrize("num_steps", [0, -3, 2.5, True, None, "32"])
def test_num_steps_must_be_a_positive_whole_number(num_steps: object) -> None:
    with pytest.raises(ValueError, match="num_steps is"):
        build_schedule("trunc_lin", num_steps)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"variance_min": 0.2, "variance_max": 0.1}, "from 0.2 to 0.1"),
        ({"variance_min": 0.0, "variance_max": 0.1}, "from 0 to 0.1"),
        ({"variance_min": 0.1, "variance_max": 0.5, "variance_scale": 2}, "from 0.2 to 1;"),
    ],
)
def test_linear_var_refuses_a_variance_that_does_not_grow_below_one(given: dict, said: str) -> None:
    with pytest.raises(ValueError, match=f"the variance runs {said}"):
        build_schedule("linear_var", 5, **given)


@pytest.mark.parametrize(
    ("betas", "said"),
    [
        ([0.1, 0.0], "beta is 0 in slot 1"),
        ([0.1, 0.2, 1.0], "beta is 1 in slot 2"),
        ([-0.1, 2.0], r"beta is -0\.1 in slot 0"),
        ([0.1, math.nan], "beta is nan in slot 1"),
        ([], r"shape \(0,\)"),
        ([[0.1, 0.2]], r"shape \(1, 2\)"),
        ([0.1, 1e-20], r"alpha_bar goes from 0\.9 to 0\.9 in slot 1"),
        ([1 - 1e-16] * 21, r"to 0 in slot 20; .* stay above 0"),  # underflow
    ],
)
def test_betas_that_are_no_schedule_are_refused(betas: list, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        NoiseSchedule(betas)


# --- a user's own -----------------------------------------------------------------------------------------------------


def constant(num_steps: int, *, level: float = 0.1) -> list[float]:
    return [level] * num_steps


def test_a_users_own_function() -> None:
    np.testing.assert_allclose(build_schedule(constant, 3).tables["alpha_bar"], [0.9, 0.81, 0.729], rtol=1e-14)
    schedule = build_schedule(constant, 3, level=0.5, eq14_a=None)
    np.testing.assert_array_equal(schedule.tables["alpha_bar"], [0.5, 0.25, 0.125])
    anything = build_schedule(lambda num_steps, **given: torch.full((num_steps,), given["level"]), 2, level=0.25)
    np.testing.assert_array_equal(anything.tables["alpha_bar"], [0.75, 0.5625])


def test_a_users_own_function_is_checked_as_the_named_ones() -> None:
    with pytest.raises(ValueError, match="noise_schedule constant does not take 'levle': it takes level"):
        build_schedule(constant, 3, levle=0.5)
    with pytest.raises(ValueError, match=r"constant with num_steps=3, level=1\.5: beta is 1\.5 in slot 0.*or level\)"):
        build_schedule(constant, 3, level=1.5)
    with pytest.raises(ValueError, match=r"returned betas of shape \(2,\); num_steps asks for \(3,\)"):
        build_schedule(lambda num_steps: [0.1, 0.2], 3)


# --- buffers ----------------------------------------------------------------------------------------------------------


def test_buffers_are_float32_follow_the_device_and_stay_out_of_the_state_dict() -> None:
    schedule = built("trunc_lin", 32)
    names = set(schedule.tables)
    assert dict(schedule.named_buffers()).keys() == names
    assert schedule.state_dict() == {}
    for name in names:
        buffer = getattr(schedule, name)
        assert buffer.dtype == torch.float32
        np.testing.assert_array_equal(buffer.numpy(), schedule.tables[name].astype(np.float32))
    moved = torch.nn.Sequential(schedule).to("meta")[0]
    assert all(getattr(moved, name).device.type == "meta" for name in names)
    assert all(isinstance(table, np.ndarray) for table in moved.tables.values())


def pickled(schedule: NoiseSchedule) -> NoiseSchedule:
    return pickle.loads(pickle.dumps(schedule))  # noqa: S301 (our own bytes)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_copies_are_equal_and_independent(copied) -> None:
    schedule = built("cosine", 16)
    twin = copied(schedule)
    for name, table in schedule.tables.items():
        np.testing.assert_array_equal(twin.tables[name], table)
        assert torch.equal(getattr(twin, name), getattr(schedule, name))
    twin.betas.zero_()
    twin.tables["betas"][:] = 0
    assert schedule.betas.min() > 0 and schedule.tables["betas"].min() > 0


def test_the_callers_array_is_not_kept() -> None:
    betas = np.array([0.1, 0.2])
    schedule = NoiseSchedule(betas)
    betas[:] = 0.9
    np.testing.assert_array_equal(schedule.tables["betas"], [0.1, 0.2])


@pytest.mark.gpu
def test_buffers_follow_to_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    schedule = built("trunc_lin", 32).cuda()
    assert all(getattr(schedule, name).is_cuda for name in schedule.tables)
    assert isinstance(schedule.tables["betas"], np.ndarray)
