"""Offset noise: its moments, its seeds, its rows."""

from __future__ import annotations

import pytest
import torch

from recbole_diffusion.diffusion.noise import GlobalNoise, RowNoise, ZeroNoise
from recbole_diffusion.diffusion.offset_noise import OffsetKind, OffsetNoise

ROWS, DIM, SCALE = 20_000, 16, 0.5


def draw(kind: OffsetKind, scale: float = SCALE, rows: int = ROWS) -> torch.Tensor:
    source = OffsetNoise(GlobalNoise(torch.Generator().manual_seed(3)), kind, scale)
    return source.normal((rows, DIM), device="cpu")


def test_scalar_shifts_all_entries_of_a_row_alike() -> None:
    drawn = draw("scalar")
    # the mean of a row is c eta + the mean of D normals: variance c^2 + 1/D; an entry has 1 + c^2
    assert float(drawn.mean(1).var()) == pytest.approx(SCALE**2 + 1 / DIM, rel=0.04)
    assert float(drawn.var()) == pytest.approx(1 + SCALE**2, rel=0.03)
    assert float(drawn.mean()) == pytest.approx(0.0, abs=0.02)
    shift = drawn - draw("none")
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-5)


def test_elementwise_is_more_variance_and_no_offset() -> None:
    drawn = draw("elementwise", 0.1)
    assert float(drawn.var()) == pytest.approx(1.01, abs=0.01)
    assert float(drawn.mean(1).var()) == pytest.approx(1.01 / DIM, rel=0.04)


def test_constant_moves_the_mean_alone() -> None:
    torch.testing.assert_close(draw("constant"), draw("none") + SCALE, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["none", "scalar", "elementwise", "constant"])
def test_scale_zero_draws_nothing_more(kind: OffsetKind) -> None:
    torch.manual_seed(1)
    plain = [GlobalNoise().normal((4, DIM), device="cpu") for _ in range(3)]
    torch.manual_seed(1)
    source = OffsetNoise(GlobalNoise(), kind, 0.0)
    for expected in plain:
        assert torch.equal(source.normal((4, DIM), device="cpu"), expected)


@pytest.mark.parametrize("kind", ["scalar", "elementwise"])
def test_a_rows_offset_is_its_own(kind: OffsetKind) -> None:
    keys = torch.arange(5)
    together = OffsetNoise(RowNoise(keys, 7), kind, SCALE)
    assert together.per_row
    drawn = together.normal((5, DIM), device="cpu")
    alone = OffsetNoise(RowNoise(keys, 7), kind, SCALE).select([3]).normal((1, DIM), device="cpu")
    assert torch.equal(alone[0], drawn[3])


def test_ragged_rows_keep_their_draws() -> None:
    lengths = torch.tensor([1, 3])
    wide = OffsetNoise(RowNoise([0, 1], 7), "elementwise", SCALE)
    narrow = OffsetNoise(RowNoise([0, 1], 7), "elementwise", SCALE)
    first = wide.normal((2, 5, DIM), device="cpu", lengths=lengths)
    second = narrow.normal((2, 3, DIM), device="cpu", lengths=lengths)
    assert torch.equal(first[:, :3], second)


def test_zero_noise_stays_zero_unless_the_offset_is_constant() -> None:
    assert float(OffsetNoise(ZeroNoise(), "scalar", SCALE).normal((2, 3), device="cpu").abs().sum()) == 0.0
    assert OffsetNoise(ZeroNoise(), "constant", SCALE).normal((1, 2), device="cpu").tolist() == [[SCALE, SCALE]]


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="offset_noise is 'scaler'"):
        OffsetNoise(GlobalNoise(), "scaler", 0.1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="offset_scale is -1"):
        OffsetNoise(GlobalNoise(), "scalar", -1.0)
