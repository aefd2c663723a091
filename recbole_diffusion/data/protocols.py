"""Which rows train, validate and test: the protocols of the papers, and RecBole's own splits, by name.

    leave_one_out      each user's last item tests, the one before validates (RecBole's LS; DiffuRec, DiffuRecSys)
    user_split_multi   users apart; an evaluation user's first 80 % of items ask for all the rest (ComiRec, REMI, DMI)
    user_split_next    users apart; one next item at a time (DreamRec, DimeRec)
    global_time        train before a date, validate and test after it
    eval_args          RecBole's eval_args.split as it stands: LS, RS, TS

A split is positions in the histories (:mod:`.histories`); nothing is copied and nothing loops over users or rows. Rows
of leave_one_out and eval_args stand in RecBole's order (:mod:`.recbole_splits`), those of the others by user id and time.
docs/protocols.md works all of them out by hand.

Shapes: N interactions, U users, R rows.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from logging import getLogger
from typing import Any

import numpy as np
import torch

from recbole_diffusion.data.histories import Histories, Rows, Split
from recbole_diffusion.data.recbole_splits import (
    by_ratio,
    by_time_ratio,
    leave_one_out,
    normalised_shares,
    positions_of,
    refuse_empty,
    runs,
)
from recbole_diffusion.errors import UserError

__all__ = [
    "PROTOCOLS",
    "by_ratio",
    "by_time_ratio",
    "leave_one_out",
    "one_row_per_user",
    "split_rows",
    "split_users",
    "user_split_multi",
    "user_split_next",
]

logger = getLogger(__name__)

PROTOCOLS = ("leave_one_out", "user_split_multi", "user_split_next", "global_time", "eval_args")
HISTORY_SHARE = 0.8  # of an evaluation user's items, the earliest, is history in user_split_multi


def split_rows(histories: Histories, config: Any, times: np.ndarray | None = None) -> Split:
    """The split that a configuration asks for.

    Args:
        histories: the interactions.
        config: a configuration; read are ``protocol`` (None is eval_args), ``eval_args`` and the protocol's keys.
        times: (N,) exact time of each interaction, in the order of the histories; only splits by time need it.

    Raises:
        UserError: the settings are impossible for these data, in one line.
    """
    protocol = config["protocol"] or "eval_args"
    ratios = config["split_ratio"]
    minimum = config["min_history"]
    if protocol == "user_split_multi":
        split = user_split_multi(histories, ratios, config["split_seed"], min_history=minimum or 4)
    elif protocol == "user_split_next":
        split = user_split_next(
            histories, ratios, config["split_seed"], eval_target=config["eval_target"], min_history=minimum or 1
        )
    else:
        split = _recbole_split(histories, config, times)
    logger.info(
        "protocol %s: %d training, %d validation, %d test rows",
        protocol,
        len(split.train),
        len(split.valid),
        len(split.test),
    )
    return split


def _recbole_split(histories: Histories, config: Any, times: np.ndarray | None) -> Split:
    """RecBole's ``eval_args``."""
    settings = config["eval_args"]
    if settings["order"] != "TO":
        raise UserError(f"eval_args.order must be TO for a sequential model, got {settings['order']!r}")
    ((name, value),) = settings["split"].items()
    if name == "LS":
        return leave_one_out(histories, value)
    if name == "RS":
        return by_ratio(histories, value, group_by_user=str(settings["group_by"]).lower() == "user")
    if name == "TS":
        if times is None:
            raise UserError("eval_args.split {TS: ...} needs the time of each interaction; set TIME_FIELD and load_col")
        return by_time_ratio(histories, value, times)
    raise UserError(f"eval_args.split must be LS, RS or TS, got {name!r}")


def split_users(histories: Histories, ratios: Sequence[float], seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users with interactions, shuffled and cut into training, validation and test users.

    The shuffle is that of Python's ``random`` on users in the order of their ids, which is that of their first line in
    the file, and the cuts are rounded down: seed 1230 and 8:1:1 give the users of ComiRec's own script on the same file
    (THUDM/ComiRec, preprocess/data.py).

    Args:
        histories: the interactions.
        ratios: shares of the users; their sum need not be 1.
        seed: seed of the shuffle.

    Returns:
        ids of training, validation and test users, each ascending.
    """
    shares = normalised_shares(ratios, "split_ratio")
    users = array("q", np.flatnonzero(histories.lengths).tolist())
    random.Random(seed).shuffle(users)
    order = np.frombuffer(users, dtype=np.int64) if users else np.zeros(0, dtype=np.int64)
    first, second = cut_points(len(order), shares)
    return np.sort(order[:first]), np.sort(order[first:second]), np.sort(order[second:])


def cut_points(n: int, shares: Sequence[float]) -> tuple[int, int]:
    """Where the second and the third part of `n` begin, rounded down; 0.7 + 0.2 counts as 0.9."""
    first, second = (int(round(n * share, 6)) for share in (shares[0], shares[0] + shares[1]))
    return first, second


def user_split_multi(
    histories: Histories, ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 1230, *, min_history: int = 4
) -> Split:
    """Users apart; an evaluation user's first 80 % of items ask for all the others, in one row (ComiRec, REMI, DMI).

    Training rows are all items of training users with at least `min_history` items before them. A validation or test
    user with n items has the history of its first floor(0.8 n) and all the rest as targets.

    Args:
        histories: the interactions.
        ratios: shares of training, validation and test users.
        seed: seed of the users' shuffle.
        min_history: items before a training target, at least.

    Raises:
        UserError: a part gets no row.
    """
    train, valid, test = split_users(histories, ratios, seed)
    split = Split(
        _prefixes(histories, train, min_history),
        _rest_after_share(histories, valid, "validation"),
        _rest_after_share(histories, test, "test"),
    )
    refuse_empty(split, normalised_shares(ratios, "split_ratio"), "split_ratio")
    return split


def user_split_next(
    histories: Histories,
    ratios: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 1230,
    *,
    eval_target: str = "last",
    min_history: int = 1,
) -> Split:
    """Users apart; an evaluation user's last item is asked for, or each of its items after the first in its own row.

    Args:
        histories: the interactions.
        ratios: shares of training, validation and test users.
        seed: seed of the users' shuffle.
        eval_target: ``last`` or ``all_positions``.
        min_history: items before a training target, at least.

    Raises:
        UserError: no such target, or a part gets no row.
    """
    if eval_target not in ("last", "all_positions"):
        raise UserError(f"eval_target must be last or all_positions, got {eval_target!r}")
    train, valid, test = split_users(histories, ratios, seed)

    def evaluation_rows(users: np.ndarray, name: str) -> Rows:
        users = _with_history(histories, users, name)
        if eval_target == "all_positions":
            return _prefixes(histories, users, 1)
        return positions_of(histories.offsets[users + 1] - 1, histories)

    split = Split(
        _prefixes(histories, train, min_history), evaluation_rows(valid, "validation"), evaluation_rows(test, "test")
    )
    refuse_empty(split, normalised_shares(ratios, "split_ratio"), "split_ratio")
    return split


def one_row_per_user(rows: Rows, histories: Histories, generator: torch.Generator) -> np.ndarray:
    """One row of each user who has any, drawn uniformly among the user's: an epoch in which all users weigh the same.

    Args:
        rows: the rows to draw from, in any order.
        histories: what they are positions of.
        generator: on the CPU; draws once for each user, users in the order of their ids.

    Returns:
        (users with rows,) index into `rows`, users in the order of their ids.
    """
    target = rows.target
    order = None if bool((target[:-1] <= target[1:]).all()) else np.argsort(target, kind="stable")
    ends = np.searchsorted(target if order is None else target[order], histories.offsets)
    count = np.diff(ends)
    begin = ends[:-1][count > 0]
    among = count[count > 0]
    drawn = begin + (torch.rand(len(among), generator=generator, dtype=torch.float64).numpy() * among).astype(np.int64)
    return drawn if order is None else order[drawn]


def _prefixes(histories: Histories, users: np.ndarray, min_history: int) -> Rows:
    """Every item of `users` with at least `min_history` items before it."""
    count = np.maximum(histories.lengths[users] - min_history, 0)
    return Rows(runs(histories.offsets[users] + min_history, count, histories))


def _with_history(histories: Histories, users: np.ndarray, name: str) -> np.ndarray:
    """The users who have an item before their last one; the others are counted in the log."""
    kept = users[histories.lengths[users] > 1]
    if len(kept) < len(users):
        logger.info("%d of %d %s users have a single interaction and no row", len(users) - len(kept), len(users), name)
    return kept


def _rest_after_share(histories: Histories, users: np.ndarray, name: str) -> Rows:
    """One row for each of `users`: targets from floor(0.8 n) of its n items to the last."""
    users = _with_history(histories, users, name)
    begin, length = histories.offsets[users], histories.lengths[users]
    target = begin + (length * HISTORY_SHARE).astype(np.int64)
    return Rows(positions_of(target, histories).target, positions_of(begin + length, histories).target)
