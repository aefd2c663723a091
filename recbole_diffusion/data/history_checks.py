"""What to know of histories before anything is trained on them: repeats, and users with too few to split."""

from __future__ import annotations

from logging import getLogger

import numpy as np

from recbole_diffusion.data.stable_order import repeats, stable_order
from recbole_diffusion.errors import UserError

logger = getLogger(__name__)


def check_histories(
    name: str, users: np.ndarray, items: np.ndarray, *, leave_one_out: str | None = None, filters: str = ""
) -> None:
    """Log repeated interactions and short histories.

    Args:
        name: the dataset, for messages.
        users: (N,) ids, interactions in order of time.
        items: (N,) ids.
        leave_one_out: RecBole's ``valid_and_test``, ``valid_only`` or ``test_only``; None for another split.
        filters: the filters that are set, for messages.

    Raises:
        UserError: nobody has a history long enough for leave-one-out.
    """
    counts = np.bincount(users)
    lengths = counts[counts > 0]
    if leave_one_out is not None:
        _check_lengths(name, lengths, leave_one_out, filters)
    pairs = users.astype(np.int64) * (int(items.max()) + 1)
    pairs += items
    repeated = repeats(pairs)
    if not repeated.any():
        return
    targets = ""
    if leave_one_out is not None:
        by_user = stable_order(users)
        ends = np.cumsum(lengths)
        test = repeated[by_user[ends[lengths >= 3] - 1]]
        valid = repeated[by_user[ends[lengths >= 4] - 2]]
        targets = {
            "valid_and_test": f"; in their own history stand {test.sum()} of {len(test)} test targets and "
            f"{valid.sum()} of {len(valid)} validation targets",
            "test_only": f"; in their own history stand {test.sum()} of {len(test)} test targets",
            "valid_only": f"; in their own history stand {test.sum()} of {len(test)} validation targets",
        }.get(leave_one_out, "")
    logger.warning(
        "%s: %d of %d interactions repeat an earlier (user, item) and are kept (rm_dup_inter drops them)%s",
        name,
        int(repeated.sum()),
        len(repeated),
        targets,
    )


def _check_lengths(name: str, lengths: np.ndarray, mode: str, filters: str) -> None:
    """A sequence of n interactions gives n - 1 samples, of which the last ones are left out while one remains."""
    needed = 4 if mode == "valid_and_test" else 3
    if lengths.max() < needed:
        raise UserError(
            f"dataset {name!r}: the longest history has {lengths.max()} interactions, leave-one-out "
            f"({mode}) needs at least {needed}; change the filters ({filters}) or eval_args.split"
        )
    short = int((lengths < needed).sum())
    if short:
        logger.info(
            "%s: %d of %d users have fewer than %d interactions: leave-one-out has no target of theirs in one part "
            "or more",
            name,
            short,
            len(lengths),
            needed,
        )
