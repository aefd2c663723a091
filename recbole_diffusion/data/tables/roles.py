"""Which column of a table is the user, the item, the time; and which others are kept, as what type.

A column that is named is taken as named. One that is not is taken by its name only when exactly one can be meant.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from recbole_diffusion.data.atomic_fields import TYPES, shown
from recbole_diffusion.data.tables.files import TableFile
from recbole_diffusion.errors import UserError

ROW = "row"  # as a time: the order of the rows


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Names by role, without anything but letters and digits; a session only where there is no user.
_USERS = _words(
    """
    user userid uid reviewerid customer customerid visitor visitorid member memberid account accountid client clientid
    player playerid viewerid listenerid buyerid profileid
    """
)
_SESSIONS = _words("session sessionid sid")
_ITEMS = _words(
    """
    item itemid iid product productid asin parentasin movie movieid video videoid book bookid isbn song songid track
    trackid artist artistid album albumid business businessid article articleid news newsid game gameid app appid poi
    poiid venue venueid recipe recipeid photoid gmapid sku offerid adid contentid
    """
)
_TIMES = _words(
    """
    time timestamp ts date datetime unixtime unixtimestamp unixreviewtime reviewtime eventtime eventtimestamp createdat
    created interactiontime clicktime ratingtime checkintime timems timestampms
    """
)

_ROLES: dict[str, tuple[tuple[frozenset[str], ...], str]] = {
    "user": ((_USERS, _SESSIONS), "the user"),
    "item": ((_ITEMS,), "the item"),
    "time": ((_TIMES,), "the time"),
}


@dataclass(frozen=True)
class KeptColumn:
    """A further column that goes into the atomic file, and its type there."""

    name: str
    type: str


def is_role_name(role: str, name: str) -> bool:
    """Whether a text is a usual name of the column of a role."""
    return any(_letters(name) in names for names in _ROLES[role][0])


def find_column(table: TableFile, wanted: str, key: str) -> str:
    """The column that a person names, also when case or white space differ and one alone can be meant.

    Raises:
        UserError: there is no such column, or more than one; ``key`` is what names it.
    """
    names = table.names
    found = [name for name in names if name == wanted] or [
        name for name in names if name.strip().lower() == wanted.strip().lower()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise _named_alike(table, len(found), wanted, key)
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise UserError(f"{table.path}: no column {shown(wanted)} ({key}); {listing(table)}{hint}")


def guess_column(table: TableFile, role: str, key: str, taken: Sequence[str] = ()) -> str:
    """The column of a role by its name.

    Args:
        table: the table.
        role: ``user``, ``item`` or ``time``.
        key: what a person sets to name the column.
        taken: columns that are something else already.

    Raises:
        UserError: none has such a name, or several have, perhaps all the same.
    """
    tiers, what = _ROLES[role]
    remedy = f"say which with {key}=COLUMN"
    if role == "time":
        remedy += f", or {key}={ROW} for the order of the rows"
    for names in tiers:
        found = [name for name in table.names if _letters(name) in names and name not in taken]
        if len(found) == 1:
            return found[0]
        if found:
            if len(set(found)) == 1:
                raise _named_alike(table, len(found), found[0], key)
            may = " or ".join(map(shown, dict.fromkeys(found)))
            raise UserError(f"{table.path}: {what} may be {may}; {listing(table)}; {remedy}")
    raise UserError(f"{table.path}: no column is named like {what}; {listing(table)}; {remedy}")


def _named_alike(table: TableFile, count: int, name: str, key: str) -> UserError:
    what = f"{count} columns are named {shown(name)} ({key})"
    return UserError(f"{table.path}: {what}; names must differ: rename one")


def listing(table: TableFile) -> str:
    """The columns of a table, for a message."""
    names = ", ".join(map(shown, table.names[:30])) + ("..." if len(table.names) > 30 else "")
    if table.looks_headless:
        return f"columns are {names}: a row of data? Then {table.key_prefix}columns= gives their names"
    if len(table.names) == 1:
        says = f": {table.key_prefix}separator= says what separates columns" if table.is_text else ""
        return f"the only column is {names}{says}"
    return f"columns are {names}"


def kept_column(table: TableFile, text: str, key: str) -> KeptColumn:
    """``NAME`` or ``NAME:TYPE`` as a column of the table; without a type, what the file says.

    Floating point numbers are ``float``, lists are sequences, anything else (text, ids, categories) is ``token``.

    Raises:
        UserError: no such column; a name that an atomic file cannot have.
    """
    name, colon, kind = text.rpartition(":")
    if not colon or kind not in TYPES:
        if colon and text not in table.names:
            near = difflib.get_close_matches(kind, TYPES, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"{key}={text}: {kind!r} is no type{hint}; allowed: {', '.join(TYPES)}")
        name, kind = text, ""
    found = find_column(table, name, key)
    if not found.strip() or re.search(r"[:\t\n\r]", found) or found != found.strip():
        raise UserError(f"{table.path}: column {shown(found)} cannot keep its name in an atomic file; rename it")
    return KeptColumn(found, kind or _usual_type(table.type_of(found)))


def _usual_type(kind: pa.DataType | None) -> str:
    if kind is None:
        return "token"
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"{_usual_type(kind.value_type)}_seq"
    return "float" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "token"


def _letters(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.lower())
