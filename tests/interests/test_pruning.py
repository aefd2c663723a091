"""Item pruning: which items stay, by hand and against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_diffusion.interests.pruning import kept_count, kept_items


@pytest.mark.parametrize("ratio", [0.07, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 1.0])
def test_count_is_the_exact_ceiling(ratio: float) -> None:
    """0.07 * 100 is above 7 in floating point; the ceiling is that of the decimal number, and never below one."""
    hundredths = round(100 * ratio)
    lengths = torch.arange(1, 301)
    expected = [max(1, -(-hundredths * n // 100)) for n in lengths.tolist()]
    assert kept_count(lengths, ratio).tolist() == expected


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, math.nan])
def test_a_share_is_above_zero_and_at_most_one(ratio: float) -> None:
    with pytest.raises(ValueError, match="keep_ratio is"):
        kept_items(torch.ones(1, 1, 2), torch.tensor([2]), ratio)


def test_by_hand() -> None:
    weights = torch.tensor([[[0.1, 0.4, 0.3, 0.2, 9.0], [0.4, 0.1, 0.1, 0.4, 9.0]]])  # the fifth place is padding
    kept = kept_items(weights, torch.tensor([4]), 0.5)
    assert kept.tolist() == [[[False, True, True, False, False], [True, False, False, True, False]]]
    kept = kept_items(weights, torch.tensor([4]), 0.6)  # ceil(2.4) = 3; the older of two equal weights ranks first
    assert kept.tolist() == [[[False, True, True, True, False], [True, True, False, True, False]]]


@pytest.mark.parametrize("ratio", [0.2, 0.4, 0.8, 1.0])
def test_as_a_loop_over_rows_and_interests(ratio: float) -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([1, 2, 3, 5, 7, 9])
    weights = torch.rand(6, 4, 9).mul(10).round()  # many equal ones
    kept = kept_items(weights, lengths, ratio)
    for row, n in enumerate(lengths.tolist()):
        for interest in range(4):
            values = weights[row, interest, :n].tolist()
            ranked = sorted(range(n), key=lambda place: (-values[place], place))
            expected = set(ranked[: max(1, math.ceil(ratio * n - 1e-9))])
            assert set(kept[row, interest].nonzero().flatten().tolist()) == expected


def test_everything_real_is_kept_without_pruning() -> None:
    kept = kept_items(torch.rand(3, 2, 5), torch.tensor([1, 3, 5]), 1.0)
    assert kept.sum(-1).tolist() == [[1, 1], [3, 3], [5, 5]]
    assert not kept[0, :, 1:].any()


def test_weights_that_underflow_are_still_items() -> None:
    kept = kept_items(torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]), torch.tensor([3]), 0.6)
    assert kept.tolist() == [[[True, True, False, False]]]
