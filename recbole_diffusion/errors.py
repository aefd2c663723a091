"""The one exception type for mistakes a person can correct: a key, a value, a file."""

from __future__ import annotations


class UserError(ValueError):
    """A person's mistake. The message is one line: what was got, what is allowed, which key or file:line to change.

    The command line prints it after ``error:`` on standard error and exits with code 2; no traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class UnknownKeyError(UserError):
    """A key that nothing reads. The command line, which has keys of its own, may know better what was meant.

    Attributes:
        key: what was got.
        origin: where it was given.
        hint: the known key that is nearest; None where none is near.
    """

    def __init__(self, key: str, origin: str, hint: str | None, otherwise: str) -> None:
        """Args: as the attributes; `otherwise` is what the message ends with where no key is near."""
        self.key, self.origin, self.hint = key, origin, hint
        super().__init__(f"unknown key '{key}' ({origin}); " + (f"did you mean '{hint}'?" if hint else otherwise))
