"""SASRecSampled: SASRec and a softmax over sampled items (Klenitskiy and Vasilev, RecSys 2023, arXiv 2309.07602).

    L = mean over places j of  -log( exp(h_j . e_{j+1}) / (exp(h_j . e_{j+1}) + sum_m exp(h_j . e_m)) )

h_j is the state of SASRec's causal Transformer after item j (interests/causal_encoder.py), m runs over `n_negatives`
sampled items; an item scores h_n . e. With thousands of negatives it comes close to the full softmax ("SASRec+ 3000" in
that paper) at a cost that does not grow with the catalogue.

The paper's code draws one set of uniform negatives for each user, among items that are not in the user's history; here
the batch shares one set and a place's own target is left out (docs/decisions/085). What trains: causal_recommender.py.

Defaults: properties/model/SASRecSampled.yaml.

Shapes: B rows, L history, P trained places, M negatives, D embedding, V items.
"""

from __future__ import annotations

from recbole_diffusion.models.causal_recommender import CausalRecommender


class SASRecSampled(CausalRecommender):
    """SASRec with a sampled softmax (`loss: sampled`) as a RecBole `SequentialRecommender`."""
