"""Numbers keyed by row and step: their law, and that nothing but row, step and draw changes them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from recbole_diffusion.counter_streams import folded, mix
from recbole_diffusion.diffusion.guidance import drop_condition
from recbole_diffusion.diffusion.noise import GlobalNoise
from recbole_diffusion.diffusion.steps import LossAwareSteps, UniformSteps
from recbole_diffusion.keyed_draws import KeyedDraws, current_draws, drawing
from recbole_diffusion.losses.negatives import LogUniformNegatives, UniformNegatives


def draws(places: list[int] | Tensor, seed: int = 1, epoch: int = 0, batch: int = 0) -> KeyedDraws:
    return KeyedDraws(seed, epoch, batch, torch.as_tensor(places))


def test_the_finaliser_is_splitmix64() -> None:
    # the first outputs of SplitMix64 for seed 1234567, published with the algorithm (Vigna's splitmix64.c)
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    gamma = 0x9E3779B97F4A7C15
    states = [(1234567 + (step + 1) * gamma) % 2**64 for step in range(4)]
    signed = torch.tensor([state - 2**64 if state >= 2**63 else state for state in states])
    assert [value % 2**64 for value in mix(signed).tolist()] == outputs
    assert folded(1234567) == outputs[0]


def test_the_laws() -> None:
    source = draws(torch.arange(2000))
    normal = source.normal((2000, 31), device="cpu").numpy()
    assert scipy.stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(normal[:, 0], normal[:, 1])[0, 1]) < 0.1 and abs(np.corrcoef(normal[:2])[0, 1]) < 0.6
    uniform = source.uniform(2000, 31, device="cpu").numpy()
    assert scipy.stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3 and uniform.min() >= 0 and uniform.max() < 1
    shared = source.shared_uniform(5000, device="cpu").numpy()
    assert scipy.stats.kstest(shared, "uniform").pvalue > 1e-3


def test_a_rows_numbers_do_not_depend_on_the_other_rows() -> None:
    whole, part = draws([0, 1, 2, 3]), draws([3, 1])
    assert torch.equal(whole.normal((4, 5), device="cpu")[[3, 1]], part.normal((2, 5), device="cpu"))
    assert torch.equal(whole.uniform(4, 3, device="cpu")[[3, 1]], part.uniform(2, 3, device="cpu"))
    assert torch.equal(whole.shared_uniform(3, device="cpu"), part.shared_uniform(3, device="cpu"))


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}, {"batch": 1}])
def test_seed_epoch_and_batch_change_every_number(other: dict[str, int]) -> None:
    one, two = draws([0, 1]).normal((2, 8), device="cpu"), draws([0, 1], **other).normal((2, 8), device="cpu")
    assert not (one == two).any()
    source = draws([0, 1])
    assert not (source.normal((2, 8), device="cpu") == source.normal((2, 8), device="cpu")).any()


def test_ragged_numbers_do_not_depend_on_the_padding() -> None:
    lengths = torch.tensor([2, 3])
    narrow = draws([5, 6]).normal((2, 3, 4), device="cpu", lengths=lengths)
    wide = draws([5, 6]).normal((2, 7, 4), device="cpu", lengths=lengths)
    assert torch.equal(wide[:, :3], narrow) and not wide[:, 3:].any() and not narrow[0, 2].any()


def test_parts_of_rows_have_numbers_of_their_own() -> None:
    parts = torch.tensor([[0, 0], [0, 1], [1, 0]])
    whole = draws([4, 9]).uniform(3, 2, device="cpu", parts=parts)
    part = draws([9]).uniform(1, 2, device="cpu", parts=torch.tensor([[0, 0]]))
    assert torch.equal(whole[2:], part) and whole.unique().numel() == 6


def test_another_number_of_rows_is_refused() -> None:
    for ask in (lambda d: d.normal((3, 2), device="cpu"), lambda d: d.uniform(3, 2, device="cpu")):
        with pytest.raises(ValueError, match=r"rows in a batch of 2.*train_noise"):
            ask(draws([0, 1]))


def test_what_training_draws_comes_from_the_keys_inside_and_from_torch_outside() -> None:
    counts = torch.arange(50)
    targets = torch.tensor([3, 4, 5])
    steps = LossAwareSteps(4)
    steps.update(torch.arange(4).repeat(10), torch.arange(40.0))

    def everything() -> list[Tensor]:
        return [
            GlobalNoise().normal((3, 4), device="cpu"),
            UniformSteps(100).sample(3, device="cpu")[0],
            steps.sample(3, device="cpu")[0],
            UniformNegatives(6)(targets, 50).ids,
            UniformNegatives(6, per_row=True)(targets, 50).ids,
            LogUniformNegatives(6, counts, unique=True)(targets, 50).ids,
            LogUniformNegatives(6, counts, per_row=True)(targets, 50).ids,
            drop_condition(torch.ones(3, 2), torch.zeros(2), 0.5),
        ]

    state = torch.get_rng_state()
    with drawing(draws([0, 1, 2])):
        first = everything()
    with drawing(draws([0, 1, 2])):
        second = everything()
    assert torch.equal(torch.get_rng_state(), state), "torch's generator was asked"
    assert current_draws() is None
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one, two)
    for ids in first[3:7]:
        assert ids.min() >= 1 and ids.max() < 50
    everything()
    assert not torch.equal(torch.get_rng_state(), state)


def test_loss_aware_steps_follow_their_probabilities() -> None:
    steps = LossAwareSteps(3)
    steps.update(torch.tensor([0, 1, 2]).repeat(10), torch.tensor([1.0, 2.0, 5.0]).repeat(10))
    with drawing(draws(torch.arange(20_000))):
        t, weight = steps.sample(20_000, device="cpu")
    share = torch.bincount(t, minlength=3) / len(t)
    assert share.tolist() == pytest.approx(steps.probabilities().tolist(), abs=0.02)
    assert float(weight.mean()) == pytest.approx(1.0, abs=0.02)


def test_negatives_without_repeats_follow_their_law() -> None:
    sampler = LogUniformNegatives(3, torch.tensor([0, 9, 8, 7, 6, 5]), unique=True)
    found = torch.zeros(6)
    expected = torch.zeros(6)
    for batch in range(3000):
        with drawing(draws([0], batch=batch)):
            negatives = sampler(torch.tensor([1]), 6)
        assert negatives.ids.unique().numel() == 3
        found[negatives.ids] += 1
    for _ in range(3000):
        expected[sampler(torch.tensor([1]), 6).ids] += 1
    assert found.tolist() == pytest.approx(expected.tolist(), abs=250)
