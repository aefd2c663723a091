"""Vectors turned so that short codes of them keep the scores: what a pq or ivfpq index encodes.

A code loses x . (e - e_hat), for the queries x that come; its mean square is (e - e_hat)^T C (e - e_hat) with C the
queries' second moments. So with C = H H, items are encoded as H e and queries asked as H^-1 x: no score changes, and
the Euclidean distance that codes are made for is the error that matters (Guo, Kumar, Choromanski, Simcha, "Quantization
based fast inner product search", AISTATS 2016). Then the items' principal axes are dealt out to the m parts that are
encoded one by one, so that the parts are uncorrelated and their products of variances alike (Ge, He, Ke, Sun,
"Optimized product quantization", CVPR 2013, the parametric solution).

For distances instead of inner products a turn alone is allowed, so H is the identity.

Shapes: n items, Q queries, W numbers of a vector, m parts.
"""

from __future__ import annotations

import numpy as np

RIDGE = 0.01  # share of the mean variance that is added to every direction, since queries are a sample


def code_maps(items: np.ndarray, queries: np.ndarray | None, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps of items and of queries, (W, W) float32 each: a vector v becomes v @ map.

    Args:
        items: (n, W) that the index is of, or a sample of them.
        queries: (Q, W) such as will be asked; None where distances are compared.
        parts: m, a divisor of W.
    """
    width = items.shape[1]
    scale, back = np.eye(width), np.eye(width)
    if queries is not None:
        moments = queries.T.astype(np.float64) @ queries / len(queries)
        mean = max(float(np.trace(moments)) / width, 1e-12)
        values, axes = np.linalg.eigh(moments + RIDGE * mean * np.eye(width))
        scale, back = (axes * np.sqrt(values)) @ axes.T, (axes / np.sqrt(values)) @ axes.T
    scaled = items.astype(np.float64) @ scale
    variances, axes = np.linalg.eigh(np.cov(scaled.T).reshape(width, width))
    turn = axes[:, dealt(variances, parts)]
    return (scale @ turn).astype(np.float32), (back @ turn).astype(np.float32)


def dealt(variances: np.ndarray, parts: int) -> list[int]:
    """Numbers of the axes in the order of the parts that they go to.

    The largest one left always goes to the part, among those with room, whose product of variances is smallest.
    """
    room = len(variances) // parts
    floor = max(float(variances.max()) * 1e-9, 1e-30)
    logarithms = np.log(np.maximum(variances, floor) / floor) + 1e-9  # all positive
    members: list[list[int]] = [[] for _ in range(parts)]
    sums = np.zeros(parts)
    for axis in np.argsort(-variances, kind="stable").tolist():
        part = min((p for p in range(parts) if len(members[p]) < room), key=sums.__getitem__)
        members[part].append(axis)
        sums[part] += logarithms[axis]
    return [axis for part in members for axis in part]
