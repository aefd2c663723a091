"""Spread over seeds, paired tests, corrections and intervals: by hand, against scipy, and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import scipy.special
import scipy.stats

from recbole_diffusion.benchmarking.bootstrap import bootstrap_interval, bootstrap_intervals, resampled_parts
from recbole_diffusion.benchmarking.statistics import (
    Interval,
    corrected,
    paired_differences,
    paired_test,
    row_shares,
    summarise,
    user_parts,
)
from recbole_diffusion.errors import UserError


def users(**values: float) -> pd.Series:
    return pd.Series(values, dtype="float64").rename_axis("user")


def frame(names: list[str], **metrics: list[float]) -> pd.DataFrame:
    return pd.DataFrame(metrics, index=pd.Index(names, name="user"), dtype="float64")


# Seeds


def test_deviation_is_that_of_a_sample() -> None:
    summary = summarise([1.0, 2.0, 6.0])
    assert (summary.mean, summary.number) == (3.0, 3)
    assert summary.deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_equal_values_have_no_deviation() -> None:
    values = [0.1, 0.1, 0.1]
    assert float(np.std(values, ddof=1)) > 0  # the mean is rounded
    assert summarise(values).deviation == 0.0 and summarise(np.array(values)).deviation == 0.0


def test_one_run_has_no_deviation_and_none_is_an_error() -> None:
    assert summarise([0.5]).deviation is None
    with pytest.raises(ValueError, match="at least one run"):
        summarise([])


# Users


def test_seeds_are_averaged_for_each_user_whatever_their_order() -> None:
    first = frame(["a", "b"], hit=[1.0, 0.0], ndcg=[0.5, 0.0])
    second = frame(["b", "a"], hit=[1.0, 0.0], ndcg=[0.25, 0.0])
    means = user_parts([first, second])
    assert means.index.tolist() == ["a", "b"]
    assert means["hit"].tolist() == [0.5, 0.5]
    assert means["ndcg"].tolist() == [0.25, 0.125]


def test_a_users_part_in_a_mean_over_rows_by_hand() -> None:
    runs = [frame(["a", "b", "a"], hit=[1.0, 1.0, 0.0]), frame(["a", "a", "b"], hit=[0.0, 0.0, 1.0])]
    parts = user_parts(runs)["hit"]  # 2 users, 3 rows: the sums (1 + 0) / 2 and (1 + 1) / 2, times 2 / 3
    assert parts.to_dict() == pytest.approx({"a": 1 / 3, "b": 2 / 3})
    assert parts.mean() == pytest.approx(np.mean([run["hit"].mean() for run in runs]))
    assert row_shares(runs[0].index).tolist() == pytest.approx([2 / 1.5 - 1, 1 / 1.5 - 1])  # type: ignore[union-attr]
    assert row_shares(pd.Index(["a", "b"])) is None


def test_an_interval_of_a_mean_over_rows_covers_it() -> None:
    """Of a ratio: numbers of rows vary, and users with many rows have higher values."""
    draw = np.random.default_rng(0)
    counts = draw.integers(1, 40, size=(200, 80))
    inside = width = plain = 0.0
    chance = 0.3 + 0.01 * np.arange(1, 40)
    truth = (np.arange(1, 40) * chance).sum() / np.arange(1, 40).sum()
    for sample in counts:
        index = pd.Index(np.repeat(np.arange(80), sample), name="user")
        hit = draw.random(len(index)) < np.repeat(chance[sample - 1], sample)
        hits = pd.DataFrame({"hit": hit.astype(float)}, index)
        parts = user_parts([hits])["hit"].to_numpy()
        assert parts.mean() == pytest.approx(hits["hit"].mean())
        ends = bootstrap_interval(resampled_parts(parts, row_shares(index)), resamples=400)
        wide = bootstrap_interval(parts, resamples=400)
        assert ends is not None and wide is not None and ends.low < hits["hit"].mean() < ends.high
        inside += ends.low < truth < ends.high
        width, plain = width + ends.high - ends.low, plain + wide.high - wide.low
    assert 0.9 <= inside / len(counts) <= 0.98
    assert width < 0.6 * plain  # parts alone vary with the numbers of rows, which says nothing of the metric


def test_wilcoxon_says_which_way_its_ranks_point() -> None:
    values = np.concatenate((-np.linspace(0.009, 0.011, 80), np.linspace(0.09, 0.11, 20)))
    result = paired_test(values, "wilcoxon")
    assert result.difference > 0 and result.direction == -1 and result.p_value < 0.05  # type: ignore[operator]
    assert paired_test(values).direction == 1 and paired_test(-values, "wilcoxon").direction == 1


def test_other_users_are_refused() -> None:
    with pytest.raises(UserError, match=r"other users: 2 and 2, 1 in both"):
        user_parts([frame(["a", "b"], hit=[1, 0]), frame(["a", "c"], hit=[1, 0])])
    with pytest.raises(UserError, match="other users: 2 and 3, 2 in both"):
        paired_differences(users(a=1, b=2), users(a=1, b=2, c=3))
    rows = pd.Series([1.0, 2.0], index=pd.Index(["a", "b"], name="row"))
    with pytest.raises(UserError, match="other users"):
        paired_differences(users(b=1, a=2), rows)


def test_differences_are_matched_by_user() -> None:
    assert paired_differences(users(a=1.0, b=2.0), users(b=0.5, a=3.0)).tolist() == [-2.0, 1.5]


def test_the_order_of_a_sum_makes_no_difference() -> None:
    one, other = 0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1
    assert one != other
    assert paired_differences(users(a=one, b=1.0), users(a=other, b=1.0)).tolist() == [0.0, 0.0]
    large = paired_differences(users(a=1e6 + 1e-4), users(a=1e6))
    assert large == pytest.approx(np.array([1e-4]), rel=1e-2)


def test_t_by_hand() -> None:
    # differences 1, 2, 3, 6: mean 3, s^2 = (4 + 1 + 0 + 9) / 3, t = 3 / (s / 2)
    result = paired_test(np.array([1.0, 2.0, 3.0, 6.0]))
    t = 3 / (math.sqrt(14 / 3) / 2)
    assert (result.users, result.difference) == (4, 3.0)
    assert result.statistic == pytest.approx(t)
    assert result.p_value == pytest.approx(2 * scipy.special.stdtr(3, -t))


def test_signed_ranks_by_hand() -> None:
    # |d| 1, 2, 3, 4 have the ranks 1 to 4; the negative one has rank 2. Of the 16 equally likely signings, those whose
    # smaller sum of ranks is at most 2 are {}, {1}, {2} and their mirror images: p = 6 / 16. The zero is left out.
    result = paired_test(np.array([1.0, -2.0, 3.0, 4.0, 0.0]), "wilcoxon")
    assert (result.statistic, result.p_value) == (2.0, pytest.approx(6 / 16))
    assert result.users == 5
    assert result.difference == pytest.approx(6 / 5)


@pytest.mark.parametrize("seed", range(3))
def test_tests_are_scipys_on_the_two_models(seed: int) -> None:
    draw = np.random.default_rng(seed)
    names = [f"u{number}" for number in range(200)]
    first = pd.Series(draw.random(200) * (draw.random(200) < 0.4), index=pd.Index(names, name="user"))
    second = pd.Series(draw.random(200) * (draw.random(200) < 0.5), index=first.index)
    differences = paired_differences(first, second.sample(frac=1, random_state=seed))
    expected = scipy.stats.ttest_rel(first, second)
    result = paired_test(differences)
    assert (result.statistic, result.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)
    expected = scipy.stats.wilcoxon(first, second, zero_method="wilcox")
    result = paired_test(differences, "wilcoxon")
    assert (result.statistic, result.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-9)


@pytest.mark.parametrize("test", ["t-test", "wilcoxon"])
def test_without_a_difference_nothing_is_significant(test: str) -> None:
    result = paired_test(np.zeros(50), test)
    assert (result.p_value, result.statistic, result.difference) == (1.0, None, 0.0)
    assert result.reason == "no user has a difference"


@pytest.mark.parametrize("test", ["t-test", "wilcoxon"])
@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_users_say_nothing(test: str, number: int) -> None:
    result = paired_test(np.full(number, 0.5), test)
    assert (result.p_value, result.reason, result.users) == (None, "fewer than 2 users", number)


def test_equal_differences_have_no_t_but_ranks() -> None:
    result = paired_test(np.full(3, 0.5))
    assert (result.p_value, result.statistic, result.reason) == (None, None, "every user has the same difference")
    assert result.difference == 0.5
    assert paired_test(np.full(3, 0.5), "wilcoxon").p_value is not None


def test_unknown_words_name_the_allowed_ones() -> None:
    with pytest.raises(UserError, match="test: 'sign' is unknown; allowed: t-test, wilcoxon"):
        paired_test(np.ones(3), "sign")
    with pytest.raises(UserError, match="correction: 'bonferroni' is unknown; allowed: holm, benjamini-hochberg, none"):
        corrected([0.1], "bonferroni")


# Several tests


def test_holm_by_hand() -> None:
    # smallest first: 3 x 0.01 = 0.03, 2 x 0.03 = 0.06, 1 x 0.04 raised to 0.06
    assert corrected([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert corrected([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def test_benjamini_hochberg_by_hand() -> None:
    # largest first: 0.04 x 3/3, min(0.04, 0.03 x 3/2), min(0.04, 0.01 x 3)
    assert corrected([0.04, 0.01, 0.03], "benjamini-hochberg") == pytest.approx([0.04, 0.03, 0.04])


@pytest.mark.parametrize("correction", ["holm", "benjamini-hochberg", "none"])
def test_what_was_not_tested_does_not_count(correction: str) -> None:
    without = corrected([0.04, 0.01, 0.03], correction)
    result = corrected([None, 0.04, 0.01, None, 0.03], correction)
    assert [result[1], result[2], result[4]] == without
    assert result[0] is result[3] is None
    assert corrected([None], correction) == [None]
    assert corrected([], correction) == []


# Intervals


def test_ends_are_scipys_from_the_same_means() -> None:
    """scipy takes a bootstrap distribution of its own; given ours, its bias and acceleration must give our ends."""
    draw = np.random.default_rng(5)
    values = draw.random(60) ** 3
    number, seed = 2_000, 7
    places = np.random.default_rng(seed).integers(60, size=(number, 60))

    class Drawn(np.random.Generator):
        """A generator whose draws of users are ours."""

        def integers(self, *arguments: object, **keywords: object) -> np.ndarray:
            return places

    ordered = np.sort(values)
    generator = Drawn(np.random.PCG64(0))
    for level in (0.9, 0.95):
        expected = scipy.stats.bootstrap(
            (ordered,),
            np.mean,
            confidence_level=level,
            n_resamples=number,
            method="BCa",
            random_state=generator,
            vectorized=True,
        ).confidence_interval
        interval = bootstrap_interval(values, level=level, resamples=number, seed=seed)
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_drawing_counts_is_drawing_users(share: float) -> None:
    """Few different values are drawn by count: the same interval as scipy's, which draws users, up to chance."""
    values = (np.random.default_rng(3).random(400) < share).astype(float)
    ours = bootstrap_interval(values, resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", batch=500, random_state=np.random.default_rng(1)
    ).confidence_interval
    assert ours is not None
    step = 1 / 400  # means of hits lie on a lattice
    assert ours.low == pytest.approx(theirs.low, abs=1.01 * step)
    assert ours.high == pytest.approx(theirs.high, abs=1.01 * step)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).random(40)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole_diffusion.benchmarking import bootstrap

    cases = [np.random.default_rng(0).random(40), (np.arange(400) % 10 == 0).astype(float)]
    whole = [bootstrap_interval(values) for values in cases]
    monkeypatch.setattr(bootstrap, "_DRAWS", 1_000)
    for values, expected in zip(cases, whole, strict=True):
        assert bootstrap_interval(values) == expected


def test_several_columns_have_the_ends_of_each_alone() -> None:
    draw = np.random.default_rng(0)
    columns = [draw.random(30), draw.random(3_000), np.zeros(30), draw.random(30) ** 4, np.array([0.5])]
    columns += [(draw.random(size) < 0.1).astype(float) for size in (30, 3_000)]
    for ends, values in zip(bootstrap_intervals(columns), columns, strict=True):
        alone = bootstrap_interval(values)
        assert (ends is None) == (alone is None) == (len(values) < 2)
        if ends and alone:
            assert (ends.low, ends.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
            assert ends.low <= values.mean() <= ends.high


def test_ends_of_users_who_are_all_alike_and_of_too_few() -> None:
    assert bootstrap_interval(np.zeros(30)) == Interval(0.0, 0.0)
    assert bootstrap_interval(np.array([0.3])) is None
    assert bootstrap_interval(np.array([])) is None


def test_levels_and_resamples_that_cannot_be() -> None:
    with pytest.raises(UserError, match="level: 95 is no confidence level"):
        bootstrap_interval(np.ones(3), level=95)
    with pytest.raises(UserError, match="resamples: 10 are too few"):
        bootstrap_interval(np.ones(3), resamples=10)


@pytest.mark.parametrize("kind", ["hits", "difference"])
def test_95_of_100_intervals_hold_the_truth(kind: str) -> None:
    """400 samples of 300 users: the share of intervals with the true mean has a standard error of 1.1 points."""
    draw = np.random.default_rng(11)
    held = 0
    for number in range(400):
        first = (draw.random(300) < 0.1).astype(float)
        if kind == "hits":
            values, truth = first, 0.1
        else:  # of two models with hits in common, the second one's discounted by its rank
            second = np.where(draw.random(300) < 0.5, first, draw.random(300) < 0.2) / np.log2(
                draw.integers(2, 12, 300)
            )
            values = first - second
            truth = 0.1 - 0.15 * float(np.mean(1 / np.log2(np.arange(2, 12))))
        interval = bootstrap_interval(values, resamples=1_000, seed=number)
        assert interval is not None
        held += interval.low <= truth <= interval.high
    assert 0.92 <= held / 400 <= 0.975
