"""Candidates of sampled evaluation (`eval_args.mode: uni100`, `pop100`) that belong to a user and not to a moment.

RecBole draws them from NumPy's global state, anew at every evaluation: each epoch is judged by other candidates, a
checkpoint has no one result, and an evaluation changes which negatives training draws next. Here a user's candidates
are RecBole's for a state that is seeded by

    (`eval_seed`, split, user)

so they are the same in every validation, in a later evaluation, for any batch and any number of loader processes; and
NumPy's global state is afterwards as it was. `eval_seed: ~` leaves RecBole's draws as they are. Decision 012.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor

_SPLITS = ("valid", "test")
_WORD = 2**32  # NumPy's seeds are lists of 32-bit words


@contextlib.contextmanager
def numpy_seeded(*words: int) -> Iterator[None]:
    """Let NumPy's global state be one seeded by these numbers for a while; afterwards it is what it was.

    Args:
        words: not negative, of up to 64 bits each.
    """
    state = np.random.get_state()  # noqa: NPY002 (RecBole draws from it)
    np.random.seed([part for word in words for part in (word % _WORD, word // _WORD % _WORD)])  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


class CandidateSampler:
    """A sampler of RecBole's for evaluation whose draws for a user depend on nothing but seed, split and user.

    Args:
        sampler: RecBole's, of the split.
        seed: `eval_seed`.
        split: valid or test.
    """

    def __init__(self, sampler: Any, seed: int, split: str) -> None:
        self.sampler = sampler
        self.seed = seed
        self.split = _SPLITS.index(split)

    @property
    def phase(self) -> str | None:
        """What RecBole calls the split."""
        phase: str | None = self.sampler.phase
        return phase

    @property
    def used_ids(self) -> Any:
        """Items that are never drawn, by user."""
        return self.sampler.used_ids

    def sample_by_user_ids(self, user_ids: np.ndarray, item_ids: np.ndarray, num: int) -> Tensor:
        """`num` candidates beside each line of one user, in RecBole's order; (lines x num,).

        Args:
            user_ids: (lines,) the user, in every line.
            item_ids: (lines,) the user's targets.
            num: how many for each.

        Raises:
            ValueError: the lines are of several users, whose draws would depend on each other.
        """
        user = int(user_ids[0])
        if not (np.asarray(user_ids) == user).all():
            raise ValueError("candidates are drawn for one user at a time, got lines of several")
        with numpy_seeded(self.seed, self.split, user):
            found: Tensor = self.sampler.sample_by_user_ids(user_ids, item_ids, num)
        return found


def keep_candidates(loader: Any, seed: int | None, split: str) -> None:
    """Let a loader of sampled evaluation draw the same candidates each time.

    Args:
        loader: RecBole's `NegSampleEvalDataLoader`, changed; one of labelled lines, which draws nothing, is left alone.
        seed: `eval_seed`; None leaves the loader as it is.
        split: valid or test.
    """
    drawn = loader.neg_sample_args
    if seed is not None and drawn["distribution"] != "none" and drawn["sample_num"] != "none":
        loader._sampler = CandidateSampler(loader._sampler, seed, split)
