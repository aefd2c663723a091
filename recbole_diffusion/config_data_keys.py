"""What values RecBole's keys of data may have: columns to load and to leave out, filters by value, labels by threshold.

Which columns a file has is known when it is read; what can be said of these keys without the files is said here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_diffusion.config_values import Check, NotAllowedError, integer, interval, mapping, number, sequence

_INTERVALS = '"[3,inf)", or several with semicolons "[0,1];[3,4)", in quotes, lower end first'
_COLUMNS = "{inter: [user_id, item_id, timestamp]}"


def value_filters(value: Any) -> dict[str, Any] | None:
    """RecBole's ``val_interval``: the numbers that a column may have as an interval, or its tokens as a list."""
    if value is None:
        return None
    filters = mapping()(value)
    for column, accepted in filters.items():
        if isinstance(accepted, (list, tuple)):
            filters[column] = list(accepted)
            continue
        try:
            if not isinstance(accepted, str):
                raise NotAllowedError
            filters[column] = ";".join(str(interval(part)) for part in accepted.split(";"))
        except NotAllowedError:
            raise NotAllowedError(
                f"a mapping whose '{column}' is an interval of numbers such as {_INTERVALS}, or a list of tokens "
                "such as [a, b]"
            ) from None
    return filters


def thresholds(value: Any) -> dict[str, Any] | None:
    """RecBole's ``threshold``: one column of numbers, and the least number whose label is 1."""
    if value is None:
        return None
    given = mapping()(value)
    try:
        ((_, least),) = given.items()
        number()(least)
    except (ValueError, NotAllowedError):
        raise NotAllowedError("a mapping of one column to a number such as {rating: 4}, or ~") from None
    return given


def lengths_by_column(value: Any) -> dict[str, Any] | None:
    """RecBole's ``seq_len``: how many elements columns of sequences keep."""
    if value is None:
        return None
    given = mapping()(value)
    try:
        return {column: integer(1)(length) for column, length in given.items()}
    except NotAllowedError:
        raise NotAllowedError("a mapping of columns to integers of at least 1 such as {genres: 5}, or ~") from None


def columns_by_file(*, every: bool = False, needs: str | None = None) -> Check:
    """Lists of columns by the suffix of their file.

    Args:
        every: whether ``"*"`` may stand for all of a file's columns.
        needs: a suffix that must be there.
    """
    allowed = f"a mapping of files to lists of columns such as {_COLUMNS}" + (
        ' ("*" for every column)' if every else ""
    )

    def check(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise NotAllowedError(f"{allowed}, or ~")
        if needs is not None and needs not in value:
            raise NotAllowedError(f"{allowed}, with '{needs}' in it: nothing of the .{needs} file would be read")
        given = dict(value)
        for suffix, columns in given.items():
            if every and columns == "*":
                continue
            try:
                given[suffix] = sequence()(columns)
            except NotAllowedError:
                raise NotAllowedError(f"{allowed}, or ~") from None
        return given

    return check


DATA_CHECKS: dict[str, Check] = {
    "load_col": columns_by_file(every=True, needs="inter"),
    "unload_col": columns_by_file(),
    "unused_col": columns_by_file(),
    "seq_len": lengths_by_column,
    "val_interval": value_filters,
    "threshold": thresholds,
}


def contradiction_of_columns(values: Mapping[str, Any]) -> tuple[str, str] | None:
    """A key that leaves users or items without a column of their own, and what it must be; None where none does.

    Args:
        values: the configuration's final values.
    """
    user, item = values["USER_ID_FIELD"], values["ITEM_ID_FIELD"]
    if user == item:
        return "ITEM_ID_FIELD", f"another column than USER_ID_FIELD, which is {user!r} too"
    unused = (values.get("unused_col") or {}).get("inter", [])
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD"):
        if values[key] in unused:
            return "unused_col", f"a mapping without {values[key]!r} in 'inter', which is {key} and always used"
    return None
