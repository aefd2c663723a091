"""A request for recommendations: what its JSON may hold, and what is wrong with one, in a line.

    {"history": ["a", "b"], "k": 5}                          one history, oldest item first
    {"histories": [["a", "b"], ["c"]], "filter_seen": true}  several

Values are taken as they are: no text becomes a number, no number a truth value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from recbole_diffusion.registry import nearest
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.refusals import Refusal

Token = Annotated[str | int, Field(union_mode="left_to_right")]
History = Annotated[list[Token], Field(fail_fast=True)]
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "greater_than_equal": "1 or more",
    "float_type": "a number from 0 to 1",
}
SHOWN = 60  # characters of a value or a key in a message


class RecommendRequest(BaseModel):
    """The body of POST /recommend."""

    model_config = ConfigDict(extra="forbid", strict=True)

    history: History | None = Field(None, description="item tokens, oldest first; this or histories")
    histories: Annotated[list[History], Field(fail_fast=True)] | None = Field(None, description="several of them")
    k: int = Field(10, ge=1, description="items of each answer")
    filter_seen: bool | None = Field(
        None, description="leave out the items of the history; as the run's evaluation does where it is not given"
    )
    exclude: History | None = Field(None, description="items that are not to be recommended")
    n_samples: int = Field(1, ge=1, description="chains of a diffusion model that are drawn and merged")
    diversity: float | None = Field(None, description="of several chains: from 0, their mean, to 1, their own items")
    seed: int | None = Field(None, description="of a diffusion model's noise; the run's eval_seed if not given")
    unknown: Literal["skip", "refuse"] = Field(
        "skip", description="items of histories that the run does not know: leave them out and count them, or refuse"
    )


@dataclass(frozen=True)
class QueryOptions:
    """What queries that are computed together have in common."""

    filter_seen: bool | None = None
    n_samples: int = 1
    diversity: float | None = None
    seed: int | None = None
    k_of_chains: int | None = None  # with several chains, whose merged list of k is not the beginning of a longer one


@dataclass(frozen=True)
class Query:
    """A checked request.

    Attributes:
        histories: at least one, each with at least one token.
        k: items of each answer.
        single: whether it was one `history`, which is answered without a list around it.
        refuse_unknown: whether an item that the run does not know is a mistake.
        exclude: items that are not to be recommended.
        options: the rest of what was asked.
    """

    histories: list[list[str]]
    k: int = 10
    single: bool = True
    refuse_unknown: bool = False
    exclude: tuple[str, ...] = ()
    options: QueryOptions = QueryOptions()

    def name_of(self, place: int) -> str:
        """How the request calls one of its histories."""
        return "history" if self.single else f"histories[{place}]"


def read_query(body: bytes, limits: Limits, n_items: int) -> Query:
    """The query in a body.

    Args:
        body: as it was sent.
        limits: of the service.
        n_items: how many items the run has.

    Raises:
        Refusal: what is wrong first.
    """
    try:
        values = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise Refusal(422, f"the body is {shown(values)}; it must be an object such as {{'history': ['a', 'b']}}")
    keys = list(RecommendRequest.model_fields)
    for key in values:
        if key not in keys:
            hint = nearest(key, keys) if len(key) <= SHOWN else None
            allowed = f"did you mean '{hint}'?" if hint else f"there are {', '.join(keys)}"
            raise Refusal(422, f"unknown key {shown(key)}; {allowed}")
    try:
        request = RecommendRequest.model_validate(values)
    except ValidationError as error:
        raise Refusal(422, _one_line(error)) from None
    return _checked(request, limits, n_items)


def _checked(request: RecommendRequest, limits: Limits, n_items: int) -> Query:
    """The query of a request whose types are right.

    Raises:
        Refusal: a number out of bounds, a history that is empty or absent.
    """
    if (request.history is None) == (request.histories is None):
        found = "neither" if request.history is None else "both"
        raise Refusal(422, f"there is {found} of history and histories; give history, or a list of such as histories")
    if request.k > min(limits.max_k, n_items):
        most = f"{n_items}, the items of the run" if n_items < limits.max_k else f"{limits.max_k}, the service's max_k"
        raise Refusal(422, f"k is {shown(request.k)}; it must be from 1 to {most}")
    if request.n_samples > limits.max_samples:
        raise Refusal(422, f"n_samples is {shown(request.n_samples)}; it must be from 1 to {limits.max_samples}")
    if request.diversity is not None and not 0 <= request.diversity <= 1:
        raise Refusal(422, f"diversity is {shown(request.diversity)}; it must be a number from 0 to 1")
    if request.diversity is not None and request.n_samples == 1:
        raise Refusal(422, "diversity merges several chains, and n_samples is 1; give n_samples, such as 10")
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise Refusal(422, f"seed is {shown(request.seed)}; it must be from 0 to {2**63 - 1}")
    single = request.history is not None
    histories = [request.history] if request.history is not None else request.histories or []
    if not histories:
        raise Refusal(422, "histories is empty; give at least one history")
    if len(histories) > limits.max_histories:
        raise Refusal(422, f"histories has {len(histories)} of them; at most {limits.max_histories} go in a request")
    query = Query(
        [[str(item) for item in history] for history in histories],
        request.k,
        single,
        request.unknown == "refuse",
        tuple(str(item) for item in request.exclude or ()),
        QueryOptions(
            request.filter_seen,
            request.n_samples,
            request.diversity,
            request.seed,
            request.k if request.n_samples > 1 else None,
        ),
    )
    for place, history in enumerate(histories):
        if not history:
            raise Refusal(422, f"{query.name_of(place)} is empty; give at least one item")
    return query


def _one_line(error: ValidationError) -> str:
    """The first thing that is wrong."""
    found: dict[str, Any] = {**error.errors(include_url=False, include_context=False)[0]}
    location = [part for part in found["loc"] if part not in ("str", "int")]
    name = "".join(f"[{part}]" if isinstance(part, int) else str(part) for part in location)
    if len(location) > 1 and isinstance(location[-1], int) and found["type"] == "string_type":
        return f"{name} is {shown(found['input'])}; an item is text or a whole number"
    wanted = _WANTED.get(found["type"])
    if wanted is None:
        wanted = found["msg"].removeprefix("Input should be ")
    return f"{name} is {shown(found['input'])}; it must be {wanted}"


def shown(value: Any) -> str:
    """A value in a message, as JSON, cut where it is long."""
    if isinstance(value, (list, dict)):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    if isinstance(value, str):
        value = value[: SHOWN + 1]
    text = json.dumps(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
