"""One draw of negatives for several losses of the same rows.

DimeRec ranks by two vectors of a row, the guidance and the denoised target (Eq. 19 and 22), with one set of sampled
items. Their rows are laid one after the other, so that the table of items is read, and its gradient written, once.

Shapes: B rows, D embedding, M negatives, L history, V items (row 0 is padding).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from recbole_diffusion.losses.negatives import Negatives
from recbole_diffusion.losses.objective import RankingObjective


def without_history(negatives: Negatives, targets: Tensor, item_seq: Tensor) -> Negatives:
    """Negatives that a row has met before become its target, which a loss with ``remove_hits`` leaves out.

    Args:
        negatives: per row, (B, M).
        targets: (B,).
        item_seq: (B, L) histories, 0 on padding.

    Raises:
        ValueError: the rows share their negatives, so that none can be one row's alone.
    """
    if negatives.shared:
        raise ValueError("negatives that all rows share cannot leave out one row's history")
    met = (negatives.ids[:, :, None] == item_seq[:, None, :]).any(-1)
    return replace(negatives, ids=torch.where(met, targets[:, None], negatives.ids))


def repeated(negatives: Negatives, times: int) -> Negatives:
    """The same negatives for ``times`` copies of a batch, one after the other."""
    if times == 1:
        return negatives
    of_target = None if negatives.target_log_q is None else negatives.target_log_q.repeat(times)
    if negatives.shared:
        return replace(negatives, target_log_q=of_target)
    log_q = None if negatives.log_q is None else negatives.log_q.repeat(times, 1)
    return replace(negatives, ids=negatives.ids.repeat(times, 1), log_q=log_q, target_log_q=of_target)


def losses_of_each(
    user_vectors: Mapping[str, Tensor],
    item_vectors: Tensor,
    targets: Tensor,
    negatives: Negatives | None,
    objective: RankingObjective,
) -> dict[str, Tensor]:
    """Losses (B,) of several user vectors of each row, by name.

    Args:
        user_vectors: name -> (B, D).
        item_vectors: (V, D).
        targets: (B,).
        negatives: what all of them are compared with; None for all items.
        objective: which loss.
    """
    times = len(user_vectors)
    if times == 0:
        return {}
    users, asked = torch.cat(list(user_vectors.values())), targets.repeat(times)
    drawn = None if negatives is None else repeated(negatives, times)
    losses = objective.against(users, item_vectors, asked, drawn)
    return dict(zip(user_vectors, losses.chunk(times), strict=True))
