"""Noise sources: above all, that a row's numbers depend on the row alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from recbole_diffusion import counter_streams
from recbole_diffusion.diffusion.noise import GlobalNoise, RowNoise, ZeroNoise


def draws(noise, lengths: list[int], width: int, rounds: int = 3, dim: int = 4) -> list[torch.Tensor]:
    """What an evaluation asks for: a start, then per round a draw per history position and one per row."""
    rows = len(lengths)
    taken = [noise.normal((rows, dim), device="cpu")]
    for _ in range(rounds):
        taken.append(noise.normal((rows, width, dim), device="cpu", lengths=torch.tensor(lengths)))
        taken.append(noise.normal((rows, dim), device="cpu"))
    return taken


LENGTHS = [3, 1, 5, 2, 5, 4, 1, 3]


# --- the row alone decides --------------------------------------------------------------------------------------------


def test_rows_are_the_same_in_every_batch_order_and_padding() -> None:
    together = draws(RowNoise(range(8), seed=7), LENGTHS, width=5)
    for batch, width in [([5], 4), ([0, 1, 2], 5), ([7, 3, 0, 6], 9), ([2, 4], 50), (list(range(7, -1, -1)), 5)]:
        apart = draws(RowNoise(batch, seed=7), [LENGTHS[row] for row in batch], width)
        for whole, part in zip(together, apart):
            expected = whole[batch]
            if whole.dim() == 3:
                expected = torch.zeros(len(batch), width, 4)
                expected[:, : min(5, width)] = whole[batch][:, :width]
            assert torch.equal(part, expected)


def test_sources_that_are_joined_draw_what_each_draws() -> None:
    joined = RowNoise.joined([RowNoise([4, 9], seed=1), RowNoise([4, 9], seed=2), RowNoise(range(5), 1).select([3])])
    apart = [RowNoise([4, 9], seed=1), RowNoise([4, 9], seed=2), RowNoise([3], seed=1)]
    for _ in range(2):
        parts = torch.cat([source.normal((len(source), 4), device="cpu") for source in apart])
        assert torch.equal(joined.normal((5, 4), device="cpu"), parts)


def test_lengths_draw_the_real_positions_and_leave_zeros() -> None:
    drawn = RowNoise(range(8), seed=7).normal((8, 6, 4), device="cpu", lengths=torch.tensor(LENGTHS))
    for row, length in enumerate(LENGTHS):
        assert (drawn[row, :length] != 0).all() and (drawn[row, length:] == 0).all()
        unpadded = RowNoise([row], seed=7).normal((1, length, 4), device="cpu", lengths=torch.tensor([length]))
        assert torch.equal(drawn[row, :length], unpadded[0])


def test_rows_without_any_position_draw_nothing() -> None:
    noise = RowNoise([0, 1], seed=7)
    drawn = noise.normal((2, 3, 4), device="cpu", lengths=torch.tensor([0, 2]))
    assert (drawn[0] == 0).all() and (drawn[1, :2] != 0).all()
    untouched = RowNoise([0], seed=7)
    assert torch.equal(noise.normal((2, 4), device="cpu")[0], untouched.normal((1, 4), device="cpu")[0])
    assert RowNoise([], seed=7).normal((0, 4), device="cpu").shape == (0, 4)


def test_same_seed_repeats_and_further_draws_differ() -> None:
    first, second = RowNoise(range(4), seed=1), RowNoise(torch.arange(4), seed=1)
    a, b = first.normal((4, 32), device="cpu"), first.normal((4, 32), device="cpu")
    assert not torch.equal(a, b)
    assert torch.equal(second.normal((4, 32), device="cpu"), a)
    assert torch.equal(second.normal((4, 32), device="cpu"), b)


def test_select_shares_the_streams() -> None:
    whole, reference = RowNoise(range(6), seed=3), RowNoise(range(6), seed=3)
    expected = [reference.normal((6, 20), device="cpu") for _ in range(3)]
    part = whole.select(torch.tensor([4, 1]))
    assert len(part) == 2 and part.per_row
    assert torch.equal(part.normal((2, 20), device="cpu"), expected[0][[4, 1]])
    # rows 1 and 4 are one draw ahead now, also seen from the whole
    after = whole.normal((6, 20), device="cpu")
    assert torch.equal(after[[1, 4]], expected[1][[1, 4]])
    assert torch.equal(after[[0, 2, 3, 5]], expected[0][[0, 2, 3, 5]])
    assert torch.equal(part.normal((2, 20), device="cpu"), expected[2][[4, 1]])


def test_select_takes_masks_lists_and_parts_of_parts() -> None:
    expected = RowNoise(range(6), seed=3).normal((6, 20), device="cpu")

    def fresh() -> RowNoise:
        return RowNoise(range(6), seed=3)

    mask = torch.tensor([True, False, True, False, False, True])
    assert torch.equal(fresh().select(mask).normal((3, 20), device="cpu"), expected[mask])
    assert torch.equal(fresh().select([5, 0]).normal((2, 20), device="cpu"), expected[[5, 0]])
    assert torch.equal(fresh().select([5, 3, 0]).select([2, 1]).normal((2, 20), device="cpu"), expected[[0, 3]])
    assert len(fresh().select([])) == 0
    with pytest.raises(ValueError, match=r"the mask has shape \(3,\); it must be \(6,\)"):
        fresh().select(torch.tensor([True, False, True]))


def test_numbers_are_drawn_in_float32_whatever_the_precision_asked_for() -> None:
    expected = RowNoise(range(3), seed=1).normal((3, 40), device="cpu")
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        drawn = RowNoise(range(3), seed=1).normal((3, 40), device="cpu", dtype=dtype)
        assert drawn.dtype == dtype and torch.equal(drawn, expected.to(dtype))


def test_global_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    RowNoise(range(3), seed=1).normal((3, 40), device="cpu")
    assert torch.equal(torch.get_rng_state(), before)


# --- streams are different and normal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2023, -1, 2**64 + 5])
def test_no_two_rows_share_a_key(seed: int) -> None:
    rows = torch.cat([torch.arange(1_000_000), torch.arange(1000) + 2**32, torch.arange(1000) - 1000])
    keys = RowNoise(rows, seed)._keys
    assert len(keys.unique()) == len(rows)


def test_keys_spread_over_all_bits_and_differ_between_seeds() -> None:
    some = [RowNoise(range(100_000), seed)._keys for seed in (0, 1, 2, 2023)]
    for keys in some:
        for bit in range(64):
            share = ((keys >> bit) & 1).double().mean().item()
            assert share == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(len(keys)))
        flipped = (keys[:-1] ^ keys[1:]).numpy().view(np.uint8)  # neighbouring rows: half of the bits change
        assert np.unpackbits(flipped).mean() == pytest.approx(0.5, abs=0.01)
    assert len(torch.cat(some).unique()) == 4 * 100_000


def test_positions_and_draws_are_uncorrelated() -> None:
    rows, positions, dim = 500, 12, 16
    noise = RowNoise(range(rows), 2023)
    lengths = torch.full((rows,), positions)
    one, two = (noise.normal((rows, positions, dim), device="cpu", lengths=lengths).double() for _ in range(2))
    error = 1 / math.sqrt(one.numel())
    assert one.mean().item() == pytest.approx(0, abs=5 * error)
    assert one.var().item() == pytest.approx(1, abs=5 * math.sqrt(2) * error)
    assert (one * two).mean().item() == pytest.approx(0, abs=5 * error)
    assert (one[:, 1:] * one[:, :-1]).mean().item() == pytest.approx(0, abs=5 * error)  # neighbouring positions
    assert (one[1:] * one[:-1]).mean().item() == pytest.approx(0, abs=5 * error)  # neighbouring rows
    assert scipy.stats.kstest(one.numpy().ravel(), "norm").pvalue > 1e-3


def test_numbers_are_standard_normal_and_rows_and_seeds_uncorrelated() -> None:
    rows, dim = 2000, 64
    one, two = (RowNoise(range(rows), seed).normal((rows, dim), device="cpu").double() for seed in (2023, 2024))
    error = 1 / math.sqrt(rows * dim)
    assert one.mean().item() == pytest.approx(0, abs=5 * error)
    assert one.var().item() == pytest.approx(1, abs=5 * math.sqrt(2) * error)
    assert one.pow(4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96) * error)
    # between the rows, column by column: the mean over rows of every column is normal with variance 1 / rows
    assert one.mean(dim=0).abs().max().item() < 5 / math.sqrt(rows)
    assert (one[1:] * one[:-1]).mean().item() == pytest.approx(0, abs=5 * error)  # neighbouring rows
    assert (one[:, 1:] * one[:, :-1]).mean().item() == pytest.approx(0, abs=5 * error)  # within a row
    assert (one * two).mean().item() == pytest.approx(0, abs=5 * error)  # the same row under another seed
    assert (one[1:] * two[:-1]).mean().item() == pytest.approx(0, abs=5 * error)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_few_numbers_are_mixed_as_many_are() -> None:
    """SplitMix64's finaliser by Python's integers, for a few numbers and for many at once."""
    z = torch.randint(-(2**63), 2**63 - 1, (counter_streams._FEW + 1,), generator=torch.Generator().manual_seed(4))

    def finalised(number: int) -> int:
        value, mask = number & (2**64 - 1), 2**64 - 1
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
        value ^= value >> 31
        return value - 2**64 if value >> 63 else value

    expected = [finalised(number) for number in z.tolist()]
    assert counter_streams.mix(z.clone()).tolist() == expected
    assert counter_streams.mix(z[:5].clone()).tolist() == expected[:5]
    table = z[:6].clone().view(2, 3)
    assert counter_streams.mix(table[:, ::2]).flatten().tolist() == [expected[i] for i in (0, 2, 3, 5)]


def test_wrong_shapes_are_refused() -> None:
    noise = RowNoise(range(3), seed=0)
    with pytest.raises(ValueError, match=r"noise of shape \(4, 2\); this source has 3 rows"):
        noise.normal((4, 2), device="cpu")
    with pytest.raises(ValueError, match="3 rows"):
        noise.normal((), device="cpu")
    with pytest.raises(ValueError, match=r"lengths has shape \(2,\) for noise of shape \(3, 5, 2\)"):
        noise.normal((3, 5, 2), device="cpu", lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"lengths must lie in 0\.\.5"):
        noise.normal((3, 5, 2), device="cpu", lengths=torch.tensor([1, 2, 6]))
    with pytest.raises(ValueError, match=r"lengths must lie in 0\.\.5"):
        noise.normal((3, 5, 2), device="cpu", lengths=torch.tensor([1, 2, -1]))
    with pytest.raises(ValueError, match=r"row_keys has shape \(2, 2\)"):
        RowNoise(torch.zeros(2, 2, dtype=torch.long), seed=0)


# --- the others -------------------------------------------------------------------------------------------------------


def test_global_noise_is_torch_randn() -> None:
    torch.manual_seed(8)
    expected = torch.randn(3, 5)
    torch.manual_seed(8)
    assert torch.equal(GlobalNoise().normal((3, 5), device="cpu"), expected)
    own = GlobalNoise(torch.Generator().manual_seed(8))
    assert torch.equal(own.normal((3, 5), device="cpu"), expected)
    assert not torch.equal(own.normal((3, 5), device="cpu"), expected)
    assert own.normal((2, 2), device="cpu", dtype=torch.float64).dtype == torch.float64


def test_global_noise_ignores_lengths_and_rows() -> None:
    noise = GlobalNoise(torch.Generator().manual_seed(8))
    drawn = noise.normal((2, 3, 4), device="cpu", lengths=torch.tensor([0, 1]))
    assert (drawn != 0).all()
    assert not noise.per_row and noise.select([1]) is noise


def test_global_noise_draws_on_its_generators_device() -> None:
    noise = GlobalNoise(torch.Generator().manual_seed(8))
    assert noise.normal((2, 3), device="meta").device.type == "meta"


def test_zero_noise() -> None:
    noise = ZeroNoise()
    drawn = noise.normal((2, 3), device="cpu", dtype=torch.float64)
    assert torch.equal(drawn, torch.zeros(2, 3, dtype=torch.float64))
    assert not noise.per_row and noise.select([1]) is noise


@pytest.mark.gpu
def test_row_noise_on_the_gpu_is_that_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu, on_gpu = RowNoise(range(8), seed=7), RowNoise(range(8), seed=7)
    for lengths in (None, torch.tensor(LENGTHS, device="cuda")):
        drawn = on_gpu.normal((8, 5, 4), device="cuda", lengths=lengths)
        assert drawn.is_cuda
        expected = on_cpu.normal((8, 5, 4), device="cpu", lengths=lengths)
        # the same bits; the device's own logarithm, sine and cosine
        torch.testing.assert_close(drawn.cpu(), expected, atol=2e-6, rtol=1e-5)
        assert torch.equal(drawn.cpu() == 0, expected == 0)
