"""gSASRec: SASRec with many negatives and generalised binary cross-entropy (Petrov and Macdonald, RecSys 2023).

    L = mean over places j of  -( beta log sigma(h_j . e_{j+1}) + sum_m log(1 - sigma(h_j . e_m)) ) / (M + 1)
    beta = alpha (t (1 - 1/alpha) + 1/alpha),   alpha = M / (N - 1)

h_j is the state of SASRec's causal Transformer after item j (interests/causal_encoder.py), m runs over M uniform
negatives of each place. With few negatives the sigmoid is overconfident: each item is seen as a negative alpha times as
often as it should. The power beta of the positive's probability takes that back, in full for the calibration t = 1 (the
sigmoid is then a probability), not at all for t = 0 (with M = 1 SASRec's own loss). An item scores h_n . e.

Defaults are the paper's (arXiv 2308.07192) and its code's (asash/gSASRec-pytorch; docs/decisions/086): every place of a
history is trained (`train_positions: all`), places count from the latest item, attention has no output map, negatives
may be the target.

Shapes: B rows, L history, P trained places, M negatives, D embedding, V items, N = V - 1.
"""

from __future__ import annotations

from recbole_diffusion.models.causal_recommender import CausalRecommender


class gSASRec(CausalRecommender):  # noqa: N801 (the model's name)
    """gSASRec (`loss: gbce`) as a RecBole `SequentialRecommender`."""
