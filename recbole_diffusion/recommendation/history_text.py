"""Histories written as text: on the command line, or in a column of a text file.

    a,b,c           tokens between separators, a comma where nothing else is said; white space around a token is no part
    ["a,b", "c"]    a JSON list, for tokens that hold the separator or begin with white space

The first character tells which. Oldest item first.
"""

from __future__ import annotations

import json

from recbole_diffusion.errors import UserError

SEPARATOR = ","
SEPARATOR_NAMES = {"comma": ",", "blank": " ", "space": " ", "tab": "\t", "pipe": "|", "semicolon": ";"}


def separator_of(text: str) -> str:
    """The character that a person names: itself, or one of `SEPARATOR_NAMES`.

    Raises:
        UserError: it is none.
    """
    separator = SEPARATOR_NAMES.get(text, text)
    if len(separator) != 1 or separator in '["]\n\r':
        names = ", ".join(SEPARATOR_NAMES)
        raise UserError(f"item_separator is {text!r}; it must be one character, or one of {names}")
    return separator


def read_history(text: str, what: str, separator: str = SEPARATOR) -> list[str]:
    """The tokens of a history.

    Args:
        text: as above; white space alone is a history without items.
        what: where it stands, for messages.
        separator: between tokens.

    Raises:
        UserError: a JSON list that is none, or of anything but text and whole numbers; an empty token.
    """
    if text.lstrip().startswith("["):
        try:
            items = json.loads(text)
        except ValueError as error:
            reason = str(error).split(":")[0]
            raise UserError(
                f"{what} is {_short(text)}, which begins like a JSON list and is none ({reason}); write "
                '["a", "b"], or a,b'
            ) from None
        return json_tokens(items, what)
    if not text.strip():
        return []
    tokens = text.split() if separator == " " else [token.strip() for token in text.split(separator)]
    if not all(tokens):
        raise UserError(f"{what} is {_short(text)}: item {tokens.index('') + 1} is empty; remove one {separator!r}")
    return tokens


def json_tokens(items: object, what: str) -> list[str]:
    """Tokens of a value that was read from JSON.

    Raises:
        UserError: it is no list of text and whole numbers.
    """
    if not isinstance(items, list):
        raise UserError(f"{what} is {_short(json.dumps(items))}; it must be a list of item tokens, oldest first")
    for item in items:
        if not isinstance(item, (str, int)) or isinstance(item, bool) or item == "":
            raise UserError(f"{what} has the item {_short(json.dumps(item))}; items are text or whole numbers")
    return [str(item) for item in items]


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
