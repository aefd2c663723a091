"""What a request is refused with: a status and one line, answered as ``{"error": "..."}``.

400 no JSON, 404 no such path, 405 another method, 408 body too slow, 413 body too large, 415 another type, 422 a wrong
value, 500 a bug, 503 full, loading or stopping, 504 not answered in time.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

RETRY_SECONDS = 1


class Refusal(Exception):
    """A request is not answered.

    Args:
        status: of HTTP.
        message: one line.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.headers = dict(headers or {})


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def later(message: str) -> Refusal:
    """A refusal of what may succeed when asked again."""
    return Refusal(503, message, {"Retry-After": str(RETRY_SECONDS)})


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is refused."""
    return JSONResponse({"error": message}, status, dict(headers or {}))
