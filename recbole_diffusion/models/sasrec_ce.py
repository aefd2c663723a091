"""SASRecCE: SASRec trained by the cross-entropy over all items (Klenitskiy and Vasilev, RecSys 2023, arXiv 2309.07602).

    L = mean over places j of  -log( exp(h_j . e_{j+1}) / sum_v exp(h_j . e_v) )

h_j is the state of SASRec's causal Transformer after item j (interests/causal_encoder.py); an item scores h_n . e.
SASRec itself (Kang and McAuley, ICDM 2018) has a binary cross-entropy with one negative; this loss is what makes it the
rival that an honest table needs ("SASRec+" in that paper).

The paper trains every place of a user's history, as `train_positions: all` does (causal_recommender.py).

Defaults: properties/model/SASRecCE.yaml. Shapes: B rows, L history, P trained places, D embedding, V items.
"""

from __future__ import annotations

from recbole_diffusion.models.causal_recommender import CausalRecommender


class SASRecCE(CausalRecommender):
    """SASRec with full cross-entropy (`loss: auto`) as a RecBole `SequentialRecommender`."""
