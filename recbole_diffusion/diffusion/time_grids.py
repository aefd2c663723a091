"""Which slots a reverse chain visits: a descending grid, made of a number of steps or given slot by slot.

    even        evenly spaced in t                       (DDIM, Song et al. 2021, appendix D.2, "linear")
    quadratic   t grows with the square of its number    (the same, "quadratic": steps are finer near the clean end)
    log_snr     evenly spaced in lambda_t = log(sqrt(ab_t) / sqrt(1 - ab_t))         (DPM-Solver, Lu et al. 2022, 3.4)

Every grid of two slots or more begins at T - 1 and ends at slot 0; the step from there to the clean end follows. Slots
are whole, so neighbours that fall on one slot move apart. Shapes: T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np

from recbole_diffusion.diffusion.process import CLEAN
from recbole_diffusion.diffusion.schedules import NoiseSchedule

ReverseGrid = Literal["even", "quadratic", "log_snr"]
REVERSE_GRIDS: tuple[str, ...] = get_args(ReverseGrid)


def half_log_snr(alpha_bar: np.ndarray) -> np.ndarray:
    """lambda_t = log(sqrt(ab_t) / sqrt(1 - ab_t)) of alpha_bar (T,), half the logarithm of the signal-to-noise ratio:
    (T,)."""
    return 0.5 * (np.log(alpha_bar) - np.log1p(-alpha_bar))


def time_grid(num_steps: int, reverse_steps: int | None = None, *, key: str = "reverse_steps") -> tuple[int, ...]:
    """The slots a reverse chain visits, descending from T - 1; the step to the clean end is not among them.

    Args:
        num_steps: T.
        reverse_steps: how many slots: None for all T, 1 for (T - 1,), else evenly spaced (rounded to whole slots)
            from T - 1 to 0.
        key: the configuration key that their number stands under, for the message.

    Raises:
        ValueError: ``reverse_steps`` outside 1..T.
    """
    if reverse_steps is None:
        reverse_steps = num_steps
    if not 1 <= reverse_steps <= num_steps:
        raise ValueError(
            f"{key} is {reverse_steps!r}; it must lie in 1..{num_steps} (num_steps), or be left out for all"
        )
    if reverse_steps == 1:
        return (num_steps - 1,)
    gaps = reverse_steps - 1
    return tuple(((gaps - i) * (num_steps - 1) + gaps // 2) // gaps for i in range(reverse_steps))


def checked_grid(slots: Sequence[int], num_steps: int) -> tuple[int, ...]:
    """Slots that a user chose, descending.

    Raises:
        ValueError: they do not descend within 0..T-1, or there is none.
    """
    grid = tuple(int(slot) for slot in slots)
    path = (num_steps, *grid, CLEAN)
    if not grid or any(later >= earlier for earlier, later in pairwise(path)):
        raise ValueError(f"the slots {grid} do not descend within {num_steps - 1}..0, each at most once")
    return grid


def chain_slots(
    grid: ReverseGrid | str | Sequence[int],
    schedule: NoiseSchedule,
    reverse_steps: int | None = None,
    *,
    key: str = "reverse_steps",
) -> int | tuple[int, ...] | None:
    """What a sampler takes as its ``steps``: None or a number for evenly spaced slots, else the slots.

    Args:
        grid: a name of :data:`ReverseGrid`, or the slots themselves (key ``reverse_grid``).
        schedule: T and its alpha_bar.
        reverse_steps: how many slots, None for all T, or for as many as ``grid`` lists.
        key: the configuration key that their number stands under, for the message.

    Raises:
        ValueError: an unknown name, slots that do not descend or are more or fewer than asked for, a number outside
            1..T.
    """
    if not isinstance(grid, str):
        try:
            slots = checked_grid(grid, schedule.num_steps)
        except ValueError as error:
            raise ValueError(f"reverse_grid: {error}") from None
        if reverse_steps not in (None, len(slots)):
            raise ValueError(f"reverse_grid lists {len(slots)} slots, but {key} is {reverse_steps}; change one of them")
        return slots
    if grid not in REVERSE_GRIDS:
        raise ValueError(f"reverse_grid is {grid!r}; it must be one of {', '.join(REVERSE_GRIDS)}, or a list of slots")
    even = time_grid(schedule.num_steps, reverse_steps, key=key)
    if grid == "even" or len(even) < 3:
        return reverse_steps
    fractions = np.linspace(1.0, 0.0, len(even))
    last = schedule.num_steps - 1
    if grid == "quadratic":
        return _apart(last * fractions**2, last)
    snr = half_log_snr(schedule.tables["alpha_bar"])  # descends with t
    return _apart(np.interp(snr[0] + (snr[-1] - snr[0]) * fractions, snr[::-1], np.arange(last, -1, -1.0)), last)


def _apart(places: np.ndarray, last: int) -> tuple[int, ...]:
    """Whole slots near descending places (n,) in 0..last, each once; the first is `last`, the last one 0."""
    slots: list[int] = []
    for number, place in enumerate(places):
        lowest = len(places) - 1 - number  # room for those that follow
        highest = last if not slots else slots[-1] - 1
        slots.append(min(max(int(np.floor(place + 0.5)), lowest), highest))
    return tuple(slots)
