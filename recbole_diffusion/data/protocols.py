"""Which rows train, validate and test: the protocols of the papers, and RecBole's own splits, by name.

    leave_one_out      each user's last item tests, the one before validates (RecBole's LS; DiffuRec, DiffuRecSys)
    user_split_multi   users apart; an evaluation user's first 80 % of items ask for all the rest (ComiRec, REMI, DMI)
    user_split_next    users apart; one next item at a time (DreamRec, DimeRec)
    global_time        train before a date, validate and test after it
    eval_args          RecBole's eval_args.split as it stands: LS, RS, TS

A split is positions in the histories (:mod:`.histories`); nothing is copied and nothing loops over users or rows. Rows
of leave_one_out and eval_args stand in RecBole's order (:mod:`.recbole_splits`), those of the others in order of user
id and time. docs/protocols.md works all of them out by hand.

Shapes: N interactions, U users, R rows.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any, NamedTuple

import numpy as np
import torch

from recbole_diffusion.data.global_time import global_time
from recbole_diffusion.data.histories import Histories, Rows, Split
from recbole_diffusion.data.recbole_splits import (
    by_ratio,
    by_time_ratio,
    count_by_user,
    cut_points,
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
    "global_time",
    "last_row_per_user",
    "leave_one_out",
    "one_row_per_user",
    "split_rows",
    "split_users",
    "user_split_multi",
    "user_split_next",
]

logger = getLogger(__name__)

PROTOCOLS = ("leave_one_out", "user_split_multi", "user_split_next", "global_time", "eval_args")
DEFAULT_MIN_HISTORY = {"user_split_multi": 4}  # 1 elsewhere
USER_ORDERS = ("shuffled", "first_time")
EVAL_TARGETS = ("last", "all_positions")
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
    minimum = config["min_history"] or DEFAULT_MIN_HISTORY.get(protocol, 1)
    if protocol in ("user_split_multi", "user_split_next"):
        users = split_users(histories, config["split_ratio"], config["split_seed"], config["user_order"])
        if protocol == "user_split_multi":
            split = user_split_multi(histories, users, min_history=minimum)
        else:
            split = user_split_next(histories, users, eval_target=config["eval_target"], min_history=minimum)
        refuse_empty(split, normalised_shares(config["split_ratio"], "split_ratio"), "split_ratio")
    elif protocol == "global_time":
        split = global_time(
            histories,
            _needed(times, "protocol: global_time"),
            split_time=config["split_time"],
            ratios=config["split_ratio"],
            target=config["time_target"],
            min_history=minimum,
        )
    elif protocol in PROTOCOLS:
        split, minimum = _recbole_split(histories, config["eval_args"], times), 1
        protocol = f"{protocol} {config['eval_args']['split']}"
    else:
        raise UserError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    _log_split(histories, split, protocol, config["ITEM_ID_FIELD"], minimum)
    return split


def _needed(times: np.ndarray | None, what: str) -> np.ndarray:
    if times is None:
        raise UserError(f"{what} needs the time of each interaction; set TIME_FIELD and load_col")
    return times


def _recbole_split(histories: Histories, settings: Mapping[str, Any], times: np.ndarray | None) -> Split:
    """RecBole's ``eval_args``."""
    if settings["order"] != "TO":
        raise UserError(f"eval_args.order must be TO for a sequential model, got {settings['order']!r}")
    ((name, value),) = settings["split"].items()
    if name == "LS":
        return leave_one_out(histories, value)
    if name == "RS":
        return by_ratio(histories, value, group_by_user=str(settings["group_by"]).lower() == "user")
    if name == "TS":
        return by_time_ratio(histories, value, _needed(times, "eval_args.split.TS"))
    raise UserError(f"eval_args.split must be LS, RS or TS, got {name!r}")


def _log_split(histories: Histories, split: Split, protocol: str, item_field: str, min_history: int) -> None:
    """Numbers of rows, and how many targets are items that no training row has."""
    rows = (split.train, split.valid, split.test)
    logger.info("protocol %s: %d training, %d validation, %d test rows", protocol, *map(len, rows))
    seen = _items_in_training(histories, split.train, item_field, min_history)
    for name, part in zip(("validation", "test"), rows[1:], strict=True):
        targets = part.target
        if part.stop is not None:
            begin = targets.astype(np.int64)
            targets = runs(begin, part.stop - begin, histories)
        unseen = int((~seen[histories.columns[item_field][targets]]).sum())
        if unseen:
            logger.info("%d of %d %s targets are items that no training row has", unseen, len(targets), name)


def _items_in_training(histories: Histories, train: Rows, item_field: str, min_history: int) -> np.ndarray:
    """Which items are a target of training or in a history of one, (items,) bool.

    A user's training targets are consecutive in all protocols, and `min_history` items come before the first.
    """
    items = histories.columns[item_field]
    target = np.zeros(len(histories), dtype=bool)
    target[train.target] = True
    count = count_by_user(histories, target)
    covered = np.where(count > 0, count + min_history, 0)
    seen = np.zeros(int(items.max(initial=0)) + 1, dtype=bool)
    seen[items[runs(histories.offsets[:-1], covered, histories)]] = True
    return seen


class UserParts(NamedTuple):
    """Ids of the users of each part, each ascending."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def split_users(
    histories: Histories, ratios: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 1230, order: str = "shuffled"
) -> UserParts:
    """Users with interactions, in some order, cut into training, validation and test users; cuts are rounded down.

    The shuffle is that of Python's ``random`` on users in the order of their ids, which is that of their first line in
    the file: seed 1230 and 8:1:1 give the users of ComiRec's own script on the same file (THUDM/ComiRec,
    preprocess/data.py).

    Args:
        histories: the interactions.
        ratios: shares of the users; their sum need not be 1.
        seed: seed of the shuffle.
        order: ``shuffled``, or ``first_time``: by the time of a user's first interaction, so that the users who came
            last test (DreamRec's chronological split of sessions).

    Raises:
        UserError: no such order, or not three ratios.
    """
    if order not in USER_ORDERS:
        raise UserError(f"user_order must be one of {', '.join(USER_ORDERS)}, got {order!r}")
    shares = normalised_shares(ratios, "split_ratio")
    users = np.flatnonzero(histories.lengths)
    if order == "shuffled":
        shuffled = array("q", users.astype(np.int64).tobytes())
        random.Random(seed).shuffle(shuffled)
        users = np.array(shuffled, dtype=np.int64)
    else:
        users = users[np.argsort(histories.place[histories.offsets[users]], kind="stable")]
    first, second = cut_points(len(users), shares)
    return UserParts(np.sort(users[:first]), np.sort(users[first:second]), np.sort(users[second:]))


def user_split_multi(histories: Histories, users: UserParts, *, min_history: int = 4) -> Split:
    """An evaluation user's first 80 % of items ask for all the others, in one row (ComiRec, REMI, DMI).

    Training rows are all items of training users with at least `min_history` items before them. A validation or test
    user with n items has the history of its first floor(0.8 n) and all the rest as targets.

    Args:
        histories: the interactions.
        users: who trains, validates and tests.
        min_history: items before a training target, at least.
    """
    return Split(
        _prefixes(histories, users.train, min_history),
        _rest_after_share(histories, users.valid, "validation"),
        _rest_after_share(histories, users.test, "test"),
    )


def user_split_next(
    histories: Histories, users: UserParts, *, eval_target: str = "last", min_history: int = 1
) -> Split:
    """An evaluation user's last item is asked for, or each of its items after the first in a row of its own.

    Args:
        histories: the interactions.
        users: who trains, validates and tests.
        eval_target: ``last`` or ``all_positions``.
        min_history: items before a training target, at least.

    Raises:
        UserError: no such target.
    """
    if eval_target not in EVAL_TARGETS:
        raise UserError(f"eval_target must be one of {', '.join(EVAL_TARGETS)}, got {eval_target!r}")

    def evaluation_rows(ids: np.ndarray, name: str) -> Rows:
        ids = _with_history(histories, ids, name)
        if eval_target == "all_positions":
            return _prefixes(histories, ids, 1)
        return positions_of(histories.offsets[ids + 1] - 1, histories)

    return Split(
        _prefixes(histories, users.train, min_history),
        evaluation_rows(users.valid, "validation"),
        evaluation_rows(users.test, "test"),
    )


def one_row_per_user(rows: Rows, histories: Histories, generator: torch.Generator) -> np.ndarray:
    """One row of each user who has any, drawn uniformly among the user's: an epoch in which all users weigh the same.

    Args:
        rows: the rows to draw from, in any order.
        histories: what they are positions of.
        generator: on the CPU; draws once for each user, users in the order of their ids.

    Returns:
        (users with rows,) index into `rows`, users in the order of their ids.
    """
    begin, among, order = _rows_of_users(rows, histories)
    drawn = begin + (torch.rand(len(among), generator=generator, dtype=torch.float64).numpy() * among).astype(np.int64)
    return drawn if order is None else order[drawn]


def last_row_per_user(rows: Rows, histories: Histories) -> np.ndarray:
    """The row with the latest target of each user who has any: its history has every other target of the user in it.

    Args:
        rows: in any order.
        histories: what they are positions of.

    Returns:
        (users with rows,) index into `rows`, users in the order of their ids.
    """
    begin, among, order = _rows_of_users(rows, histories)
    last = begin + among - 1
    return last if order is None else order[last]


def _rows_of_users(rows: Rows, histories: Histories) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Of users with rows, in the order of their ids: where their rows begin in order of target, how many they are; and
    that order (R,), None where the rows stand in it."""
    target = rows.target
    order = None if bool((target[:-1] <= target[1:]).all()) else np.argsort(target, kind="stable")
    ends = np.searchsorted(target if order is None else target[order], histories.offsets)
    count = np.diff(ends)
    return ends[:-1][count > 0], count[count > 0], order


def _prefixes(histories: Histories, users: np.ndarray, min_history: int) -> Rows:
    """Every item of `users` with at least `min_history` items before it; training users without one are counted."""
    count = np.maximum(histories.lengths[users] - min_history, 0)
    without = int((count == 0).sum())
    if without:
        logger.info(
            "%d of %d training users have no row: no item of theirs has %d before it (min_history)",
            without,
            len(users),
            min_history,
        )
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
