"""Ranking losses over the item catalogue: u a user's vector, e_a the target's, s_i = u . e_i.

Full softmax cross-entropy (DiffuRec, Eq. 18 and 19):  L = -log( exp(s_a) / sum_v exp(s_v) ).

Sampled softmax: the sum goes over the target and M sampled items, each with the weight w_j,

    L = -log( exp(s_a) / (exp(s_a) + sum_j w_j exp(s_j)) ),   w_j = exp(beta s_j) / (1/M sum_m exp(beta s_m)).

beta = 0 is the ordinary sampled softmax (w = 1), beta > 0 the interest-aware hard negatives of REMI (Xie et al., RecSys
2023). With the log-q correction s_i - log q(i) stands for s_i, negatives and target alike (Bengio and Senecal 2008; so
does TensorFlow's `sampled_softmax_loss`, which ComiRec's code calls).

gBCE (gSASRec, Petrov and Macdonald, RecSys 2023):

    L = -(beta log sigma(s_a) + sum_j log(1 - sigma(s_j))) / (M + 1),   beta = alpha (t (1 - 1/alpha) + 1/alpha),

alpha = M / (N - 1) the share of negatives drawn and t the calibration: t = 0 is binary cross-entropy, t = 1 makes the
sigmoid a calibrated probability.

Shapes: B rows, D embedding, M negatives, V items (row 0 is padding), N = V - 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from recbole_diffusion.linear import linear
from recbole_diffusion.losses.negatives import Negatives


def full_softmax(
    user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, *, include_padding: bool = True
) -> Tensor:
    """Cross-entropy of each row over the whole catalogue.

    Args:
        user_vectors: (B, D).
        item_vectors: (V, D), row 0 the padding item.
        targets: (B,) item ids, 1 .. V-1.
        include_padding: whether row 0 competes as a class, as it does in DiffuRec's code and RecBole's SASRec.

    Returns:
        (B,) losses, not averaged.
    """
    if not include_padding:
        item_vectors, targets = item_vectors[1:], targets - 1
    return functional.cross_entropy(linear(user_vectors, item_vectors), targets, reduction="none")


def candidate_scores(
    user_vectors: Tensor, item_vectors: Tensor, targets: Tensor, negatives: Negatives, *, sparse: bool = False
) -> tuple[Tensor, Tensor]:
    """Inner products with the target (B,) and with the negatives (B, M), in float32.

    The table is read once for both, so that its dense gradient is written once. Rows with negatives of their own take
    them from the scores of all items where these (B, V) are no more numbers than the negatives' vectors (B, M, D) would
    be: the same scores by one product, measured 3 times (V = 12,102, M = 256, D = 128) to 100 times (V = 722) as fast.
    With `sparse` the table's gradient is a sparse tensor of the rows that were read, and only these are read.
    """
    ids = negatives.ids
    if not negatives.shared and ids.shape[0] != targets.shape[0]:
        raise ValueError(
            f"got negatives {tuple(ids.shape)} for {targets.shape[0]} targets; they must be (M,) or (B, M)"
        )
    if not (negatives.shared or sparse) and item_vectors.shape[0] <= ids.shape[1] * item_vectors.shape[1]:
        both = torch.cat((targets[:, None], ids), dim=1)
        scores = linear(user_vectors, item_vectors).gather(1, both).float()
        return scores[:, 0], scores[:, 1:]
    rows = functional.embedding(torch.cat((targets, ids.flatten())), item_vectors, sparse=sparse)
    target_rows, negative_rows = rows[: len(targets)], rows[len(targets) :]
    if negatives.shared:
        scores = linear(user_vectors, negative_rows)
    else:
        scores = torch.bmm(negative_rows.view(*ids.shape, -1), user_vectors[:, :, None].to(rows.dtype)).squeeze(2)
    return (user_vectors * target_rows).sum(1).float(), scores.float()


def accidental_hits(targets: Tensor, negatives: Negatives) -> Tensor:
    """Which negatives are the row's target, (B, M) boolean."""
    ids = negatives.ids[None] if negatives.shared else negatives.ids
    return ids == targets[:, None]


def sampled_softmax(
    user_vectors: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    negatives: Negatives,
    *,
    log_q_correction: bool = False,
    remove_hits: bool = False,
    hardness: float = 0.0,
    detach_weights: bool = False,
    temperature: float = 1.0,
    sparse: bool = False,
) -> Tensor:
    """Cross-entropy of each row over its target and sampled items.

    Args:
        user_vectors: (B, D).
        item_vectors: (V, D), the whole table.
        targets: (B,) item ids.
        negatives: what a sampler of `losses/negatives.py` drew.
        log_q_correction: subtract log q from the scores.
        remove_hits: leave out negatives that are the row's target (always done for in-batch negatives).
        hardness: beta of the weights w_j, which are of the scores before the correction and have mean 1 over the
            negatives that are not left out.
        detach_weights: no gradient through w_j; REMI's code has it.
        temperature: scores are divided by this first.
        sparse: see `candidate_scores`.

    Returns:
        (B,) losses, not averaged; 0 for a row that has no negative left.

    Raises:
        ValueError: the correction is asked for and the sampler does not know q.
    """
    target_score, scores = candidate_scores(user_vectors, item_vectors, targets, negatives, sparse=sparse)
    if temperature != 1.0:
        target_score, scores = target_score / temperature, scores / temperature
    if remove_hits or negatives.holds_targets:
        scores = scores.masked_fill(accidental_hits(targets, negatives), -math.inf)
    logits = scores
    if hardness:
        weighted = hardness * (scores.detach() if detach_weights else scores)
        count = (scores > -math.inf).sum(1, keepdim=True).clamp_min(1).log()
        # a row without negatives has no largest score either: -inf + inf would be no number
        log_mean = _logsumexp(weighted) - count
        logits = scores + (weighted - log_mean)
    if log_q_correction:
        if negatives.log_q is None or negatives.target_log_q is None:
            raise ValueError(
                "log_q_correction needs the probability of each negative, which this sampler does not know; give it "
                "item_counts or switch the correction off"
            )
        logits = logits - negatives.log_q
        target_score = target_score - negatives.target_log_q
    logits = torch.cat((target_score[:, None], logits), dim=1)
    return torch.logsumexp(logits, dim=1) - target_score


def _logsumexp(scores: Tensor) -> Tensor:
    """log of the sum of exponentials over the last axis, which is kept; 0 where all are -inf."""
    none = (scores == -math.inf).all(-1, keepdim=True)
    return torch.logsumexp(scores.masked_fill(none, -math.log(scores.shape[-1])), dim=-1, keepdim=True)


def gbce_power(n_negatives: int, n_items: int, calibration: float) -> float:
    """beta of gBCE, the power of the positive's probability: 1 for t = 0, alpha for t = 1.

    Args:
        n_negatives: M.
        n_items: V, the padding item included.
        calibration: t in 0 .. 1.

    Raises:
        ValueError: t outside 0 .. 1, or no negatives.
    """
    if n_negatives < 1:
        raise ValueError(f"n_negatives is {n_negatives}; it must be 1 or more")
    if not 0.0 <= calibration <= 1.0:
        raise ValueError(f"gbce calibration t is {calibration}; it must lie in 0 .. 1")
    share = min(1.0, n_negatives / max(n_items - 2, 1))
    return share * (calibration * (1 - 1 / share) + 1 / share)


def gbce(
    user_vectors: Tensor,
    item_vectors: Tensor,
    targets: Tensor,
    negatives: Negatives,
    *,
    calibration: float = 0.75,
    remove_hits: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Generalised binary cross-entropy of each row over its target and sampled items.

    Args:
        user_vectors: (B, D).
        item_vectors: (V, D), the whole table.
        targets: (B,) item ids.
        negatives: what a sampler of `losses/negatives.py` drew.
        calibration: t.
        remove_hits: leave out negatives that are the row's target (always done for in-batch negatives).
        sparse: see `candidate_scores`.

    Returns:
        (B,) losses: the mean over target and negatives, not averaged over rows.
    """
    target_score, scores = candidate_scores(user_vectors, item_vectors, targets, negatives, sparse=sparse)
    power = gbce_power(scores.shape[1], item_vectors.shape[0], calibration)
    terms = functional.softplus(scores)
    kept: Tensor | int = scores.shape[1]
    if remove_hits or negatives.holds_targets:
        hits = accidental_hits(targets, negatives)
        terms = terms.masked_fill(hits, 0.0)
        kept = (~hits).sum(1)
    return (power * functional.softplus(-target_score) + terms.sum(1)) / (kept + 1)
