"""The one exception type for mistakes a person can correct: a key, a value, a file."""

from __future__ import annotations


class UserError(ValueError):
    """A person's mistake. The message is one line: what was got, what is allowed, which key or file:line to change.

    The command line prints it after ``error:`` on standard error and exits with code 2; no traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))
