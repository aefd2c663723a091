"""What a service takes at most: of one request, of all at a time, of time."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from recbole_diffusion.errors import UserError

LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Limits:
    """Bounds of a service; `serve` has a key of the same name for each.

    Attributes:
        max_batch: histories that are computed at a time; a request with more of them is a batch of its own.
        batch_wait_ms: how long, at most, the model waits for those it has just answered to ask again; 0 for not at all.
        max_queue: requests in the service at a time, the one that is computed among them.
        max_histories: histories of a request.
        max_k: items asked for.
        max_samples: chains of a diffusion model that are merged.
        max_body_bytes: of a request's body.
        request_timeout: seconds in which a request has to be read, and seconds until it is answered.
        stop_timeout: seconds that waiting requests are given when the service stops.

    Raises:
        UserError: a value that is out of range.
    """

    max_batch: int = 64
    batch_wait_ms: float = 2.0
    max_queue: int = 256
    max_histories: int = 64
    max_k: int = 1000
    max_samples: int = 32
    max_body_bytes: int = 2**20
    request_timeout: float = 30.0
    stop_timeout: float = 10.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "int":
                allowed, fits = "a whole number, 1 or more", type(value) is int and 1 <= value <= LARGEST
            elif field.name == "request_timeout":
                allowed, fits = "a number of seconds above 0, at most 86400", 0 < value <= 86400
            elif field.name == "batch_wait_ms":
                allowed, fits = "a number of milliseconds, 0 to 1000", 0 <= value <= 1000
            else:
                allowed, fits = "a number of seconds, 0 to 86400", 0 <= value <= 86400
            if not fits:
                raise UserError(f"{field.name} is {value!r}; it must be {allowed}")
