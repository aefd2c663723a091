"""Small atomic files as text, and built datasets as plain rows of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def small_rows(users: int = 4, length: int = 6) -> list[tuple[str, str, str]]:
    """``users`` histories of ``length`` interactions, times rising by one within a user."""
    return [(f"u{u}", f"i{(u + k) % 7}", str(1000 + 10 * u + k)) for u in range(users) for k in range(length)]


def table(rows: Iterable[Iterable[str]], header: str = HEADER, end: str = "\n") -> str:
    """The text of an atomic file."""
    return end.join([header, *("\t".join(row) for row in rows)]) + end


def samples(dataset: Any) -> list[tuple[str, tuple[str, ...], str]]:
    """The rows of a built sequential dataset as (user, history, target) tokens."""
    rows = dataset.inter_feat
    users = dataset.field2id_token["user_id"][rows["user_id"].numpy()]
    tokens = dataset.field2id_token["item_id"]
    targets = tokens[rows["item_id"].numpy()]
    histories = rows["item_id_list"].numpy()
    lengths = rows["item_length"].numpy()
    return [
        (str(user), tuple(tokens[history[:length]].tolist()), str(target))
        for user, history, length, target in zip(users, histories, lengths, targets, strict=True)
    ]
