"""Step samplers: uniform, and the loss-aware one with its weights."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_diffusion.diffusion.steps import STEP_SAMPLERS, LastStep, LossAwareSteps, UniformSteps


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def filled(losses: list[float], history: int = 10, **options: float) -> LossAwareSteps:
    """A warm sampler whose slot i has seen losses[i] all the time."""
    sampler = LossAwareSteps(len(losses), history=history, **options)
    for _ in range(history):
        sampler.update(torch.arange(len(losses)), torch.tensor(losses))
    return sampler


def close_to_multinomial(t: torch.Tensor, probability: torch.Tensor) -> bool:
    """Counts within 5 standard errors of n p."""
    counts = torch.bincount(t, minlength=len(probability)).double()
    expected = len(t) * probability.double()
    return bool(((counts - expected).abs() <= 5 * (expected * (1 - probability)).sqrt() + 1).all())


def test_the_last_step_is_every_rows() -> None:
    t, weight = LastStep(8).sample(5, device="cpu")
    assert t.tolist() == [7] * 5 and weight.tolist() == [1.0] * 5
    assert t.dtype == torch.long


# --- uniform ----------------------------------------------------------------------------------------------------------


def test_uniform_steps_reach_every_slot_equally_with_weight_one() -> None:
    t, weight = UniformSteps(8).sample(40_000, device="cpu", generator=generator())
    assert t.dtype == torch.long and t.shape == weight.shape == (40_000,)
    assert weight.dtype == torch.float32 and (weight == 1).all()
    assert close_to_multinomial(t, torch.full((8,), 1 / 8))


def test_uniform_steps_follow_the_generator_and_learn_nothing() -> None:
    sampler = UniformSteps(100)
    first, _ = sampler.sample(50, device="cpu", generator=generator(3))
    sampler.update(first, torch.full((50,), 1e9))
    again, _ = sampler.sample(50, device="cpu", generator=generator(3))
    assert torch.equal(first, again)
    torch.manual_seed(3)
    assert torch.equal(sampler.sample(50, device="cpu")[0], first)  # without one: torch's own


# --- loss-aware -------------------------------------------------------------------------------------------------------


def test_loss_aware_steps_are_uniform_until_every_slot_is_full() -> None:
    sampler = LossAwareSteps(4, history=3)
    uniform = torch.full((4,), 0.25)
    for _ in range(3):
        assert torch.equal(sampler.probabilities(), uniform)
        sampler.update(torch.tensor([0, 1, 2]), torch.tensor([5.0, 1.0, 1.0]))
    sampler.update(torch.tensor([3, 3]), torch.tensor([1.0, 1.0]))
    assert torch.equal(sampler.probabilities(), uniform)  # slot 3 still lacks one
    t, weight = sampler.sample(20_000, device="cpu", generator=generator())
    assert close_to_multinomial(t, uniform) and torch.equal(weight, torch.ones(20_000))
    sampler.update(torch.tensor([3]), torch.tensor([1.0]))
    assert not torch.allclose(sampler.probabilities(), uniform)


def test_probabilities_are_proportional_to_the_root_second_moment() -> None:
    sampler = LossAwareSteps(3, history=2, uniform_probability=0.1)
    sampler.update(torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([3.0, 4.0, 1.0, 1.0, 0.0, 2.0]))
    root = torch.tensor([math.sqrt(12.5), 1.0, math.sqrt(2.0)])
    torch.testing.assert_close(sampler.probabilities(), 0.9 * root / root.sum() + 0.1 / 3)
    t, weight = sampler.sample(40_000, device="cpu", generator=generator())
    assert close_to_multinomial(t, sampler.probabilities())
    torch.testing.assert_close(weight, 1 / (3 * sampler.probabilities()[t]))
    assert weight.dtype == torch.float32 and t.dtype == torch.long


def test_defaults_are_those_of_improved_ddpm() -> None:
    sampler = LossAwareSteps(2)
    assert sampler.losses.shape == (2, 10)
    probability = filled([1.0, 0.0]).probabilities()
    torch.testing.assert_close(probability, torch.tensor([0.9995, 0.0005]))


def test_weighted_loss_has_the_uniform_mean() -> None:
    losses = [0.3, 2.0, 5.0, 0.01, 1.0]
    sampler = filled(losses)
    loss, probability = torch.tensor(losses), sampler.probabilities()
    assert probability.sum().item() == pytest.approx(1, abs=1e-6)
    # exactly, summing over the slots with the weights that sample() returns
    t, weight = sampler.sample(4_000, device="cpu", generator=generator(1))
    weight_of_slot = torch.zeros(5)
    weight_of_slot[t] = weight
    assert set(t.tolist()) == set(range(5))
    assert (probability * weight_of_slot * loss).sum().item() == pytest.approx(loss.mean().item(), rel=1e-6)
    # and with drawn slots, within 5 standard errors
    drawn = weight * loss[t]
    assert drawn.mean().item() == pytest.approx(loss.mean().item(), abs=5 * drawn.std().item() / math.sqrt(4_000))
    # its spread is smaller than that of uniform steps, which is what the sampler is for
    assert drawn.std().item() < loss.std().item() / 3


@pytest.mark.parametrize("history", [1, 3, 10])
def test_history_holds_the_latest_losses_of_every_slot(history: int) -> None:
    """Against one Python list per slot, over calls with repeated slots, more of them than the history holds."""
    sampler = LossAwareSteps(5, history=history)
    seen: list[list[float]] = [[] for _ in range(5)]
    source = generator(2)
    for size in (1, 7, 40, 3, 100, 0, 25):
        t = torch.randint(5, (size,), generator=source)
        loss = torch.rand(size, generator=source)
        sampler.update(t, loss)
        for slot, value in zip(t.tolist(), loss.tolist()):
            seen[slot].append(value)
        assert sampler.counts.tolist() == [len(values) for values in seen]
        for slot, values in enumerate(seen):
            kept = values[-history:]
            assert sorted(sampler.losses[slot].tolist()) == sorted(kept + [0.0] * (history - len(kept)))


def test_losses_that_are_not_finite_are_left_out() -> None:
    sampler = LossAwareSteps(2, history=2)
    sampler.update(torch.tensor([0, 0, 1, 1, 1]), torch.tensor([math.nan, 1.0, math.inf, 2.0, -math.inf]))
    assert sampler.counts.tolist() == [1, 1]
    assert sampler.losses.isfinite().all()


def test_all_zero_losses_leave_it_uniform() -> None:
    sampler = filled([0.0, 0.0, 0.0])
    torch.testing.assert_close(sampler.probabilities(), torch.full((3,), 1 / 3))
    assert sampler.sample(5, device="cpu", generator=generator())[1].isfinite().all()


def test_update_keeps_no_graph_and_takes_half_precision() -> None:
    sampler = LossAwareSteps(2, history=1)
    loss = torch.tensor([1.0, 3.0], requires_grad=True)
    sampler.update(torch.tensor([0, 1]), loss * 1.0)
    assert not sampler.losses.requires_grad
    sampler.update(torch.tensor([0, 1]), torch.tensor([2.0, 4.0], dtype=torch.bfloat16))
    assert sampler.losses.squeeze(1).tolist() == [2.0, 4.0]


def test_state_goes_through_the_state_dict() -> None:
    sampler = filled([0.3, 2.0, 5.0])
    sampler.update(torch.tensor([1, 1]), torch.tensor([9.0, 8.0]))
    resumed = LossAwareSteps(3)
    resumed.load_state_dict(sampler.state_dict())
    assert torch.equal(resumed.probabilities(), sampler.probabilities())
    for twin in (sampler, resumed):  # the ring goes on at the same place
        twin.update(torch.tensor([1, 0, 2, 1]), torch.tensor([7.0, 6.0, 5.5, 4.0]))
    assert torch.equal(resumed.losses, sampler.losses) and torch.equal(resumed.counts, sampler.counts)
    a, b = (twin.sample(30, device="cpu", generator=generator(4)) for twin in (sampler, resumed))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_refusals() -> None:
    for build in STEP_SAMPLERS.values():
        with pytest.raises(ValueError, match="num_steps is 0"):
            build(0)
    with pytest.raises(ValueError, match="history is 0"):
        LossAwareSteps(3, history=0)
    with pytest.raises(ValueError, match=r"uniform_probability is 1\.5"):
        LossAwareSteps(3, uniform_probability=1.5)
    with pytest.raises(ValueError, match=r"slots of shape \(2,\) and losses of shape \(\)"):
        LossAwareSteps(3).update(torch.tensor([0, 1]), torch.tensor(1.0))


def test_names() -> None:
    assert {"uniform": UniformSteps, "last": LastStep, "lossaware": LossAwareSteps} == STEP_SAMPLERS
    assert all(build(7).num_steps == 7 for build in STEP_SAMPLERS.values())
