"""What a request may hold, and the one line that says what is wrong with another."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("pydantic")

from recbole_diffusion.errors import UserError
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.queries import QueryOptions, read_query
from recbole_diffusion.service.refusals import Refusal

LIMITS = Limits(max_histories=3, max_k=50)


def read(values: Any, n_items: int = 40) -> Any:
    body = values if isinstance(values, bytes) else json.dumps(values).encode()
    return read_query(body, LIMITS, n_items)


def test_one_history_and_several() -> None:
    query = read({"history": ["a", 7, "a"]})
    assert (query.histories, query.k, query.single) == ([["a", "7", "a"]], 10, True)
    assert query.options == QueryOptions(filter_seen=None) and not query.refuse_unknown
    query = read({"histories": [["a"], ["b", "c"]], "k": 40, "filter_seen": False, "unknown": "refuse"})
    assert (query.histories, query.k, query.single) == ([["a"], ["b", "c"]], 40, False)
    assert query.options == QueryOptions(filter_seen=False) and query.refuse_unknown


@pytest.mark.parametrize(
    ("values", "status", "message"),
    [
        (b"", 400, "the body is no JSON: EOF while parsing a value"),
        (b'{"history": ["a"', 400, "the body is no JSON: EOF while parsing a list"),
        (b'{"history": ["\xff"]}', 400, "the body is no JSON"),
        (b'{"history": ["\\ud800"]}', 400, "the body is no JSON"),
        (b'{"history": ["a"], "k": NaN}', 400, "the body is no JSON"),
        (b'{"history": ["a"], "k": 1e999}', 422, "k is Infinity; it must be a whole number"),
        (b"[" * 10_000, 400, "the body is no JSON: recursion limit exceeded"),
        (b'{"history": [' + b"1" * 5_000 + b"]}", 400, "the body is no JSON: number out of range"),
        ([["a"]], 422, "the body is a list of 1; it must be an object"),
        ({"history": ["a"], "K": 3}, 422, """unknown key "K"; did you mean 'k'?"""),
        (
            {"history": ["a"], "z" * 90: 3},
            422,
            "z...; there are history, histories, k, filter_seen, exclude, n_samples, diversity, seed, unknown",
        ),
        ({}, 422, "there is neither of history and histories"),
        ({"history": ["a"], "histories": [["a"]]}, 422, "there is both of history and histories"),
        ({"history": "a"}, 422, 'history is "a"; it must be a list'),
        ({"history": [1.5]}, 422, "history[0] is 1.5; an item is text or a whole number"),
        ({"history": ["a", None]}, 422, "history[1] is null; an item is text or a whole number"),
        ({"history": ["a", True]}, 422, "history[1] is true; an item is text or a whole number"),
        ({"histories": [["a"], ["b", {"c": 1}]]}, 422, "histories[1][1] is an object of 1; an item is text"),
        ({"histories": ["a"]}, 422, 'histories[0] is "a"; it must be a list'),
        ({"history": []}, 422, "history is empty; give at least one item"),
        ({"histories": []}, 422, "histories is empty; give at least one history"),
        ({"histories": [["a"], []]}, 422, "histories[1] is empty; give at least one item"),
        ({"histories": [["a"]] * 4}, 422, "histories has 4 of them; at most 3 go in a request"),
        ({"history": ["a"], "k": "5"}, 422, 'k is "5"; it must be a whole number'),
        ({"history": ["a"], "k": 5.0}, 422, "k is 5.0; it must be a whole number"),
        ({"history": ["a"], "k": True}, 422, "k is true; it must be a whole number"),
        ({"history": ["a"], "k": 0}, 422, "k is 0; it must be 1 or more"),
        ({"history": ["a"], "k": 41}, 422, "k is 41; it must be from 1 to 40, the items of the run"),
        ({"history": ["a"], "k": 10**40}, 422, "it must be from 1 to 40"),
        ({"history": ["a"], "n_samples": 33}, 422, "n_samples is 33; it must be from 1 to 32"),
        ({"history": ["a"], "diversity": 0.5}, 422, "diversity merges several chains, and n_samples is 1"),
        (
            {"history": ["a"], "n_samples": 2, "diversity": 1.5},
            422,
            "diversity is 1.5; it must be a number from 0 to 1",
        ),
        ({"history": ["a"], "diversity": "x"}, 422, 'diversity is "x"; it must be a number from 0 to 1'),
        ({"history": ["a"], "seed": -1}, 422, "seed is -1; it must be from 0 to"),
        ({"history": ["a"], "exclude": "b"}, 422, 'exclude is "b"; it must be a list'),
        ({"history": ["a"], "exclude": [None]}, 422, "exclude[0] is null; an item is text or a whole number"),
        ({"history": ["a"], "filter_seen": 1}, 422, "filter_seen is 1; it must be true or false"),
        ({"history": ["a"], "unknown": "drop"}, 422, """unknown is "drop"; it must be 'skip' or 'refuse'"""),
    ],
)
def test_what_is_wrong_is_said_in_a_line(values: Any, status: int, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(values)
    assert caught.value.status == status and message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_the_services_own_bound_of_k_is_named() -> None:
    with pytest.raises(Refusal, match="k is 51; it must be from 1 to 50, the service's max_k"):
        read({"history": ["a"], "k": 51}, n_items=1000)


def test_a_body_of_mistakes_costs_one_of_them() -> None:
    """An error is made for the first wrong item, not for each: a million of them would fill the memory."""
    with pytest.raises(Refusal, match=r"history\[0\] is null"):
        read(b'{"history": [' + b"null," * 200_000 + b"null]}")
    with pytest.raises(Refusal, match=r'unknown key "0"'):
        read({str(key): 0 for key in range(100_000)})


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_batch": 0}, "max_batch is 0; it must be a whole number, 1 or more"),
        ({"max_k": True}, "max_k is True; it must be a whole number"),
        ({"batch_wait_ms": -1}, "batch_wait_ms is -1; it must be a number of milliseconds, 0 to 1000"),
        ({"batch_wait_ms": float("nan")}, "batch_wait_ms is nan"),
        ({"request_timeout": 0}, "request_timeout is 0; it must be a number of seconds above 0"),
        ({"stop_timeout": float("inf")}, "stop_timeout is inf; it must be a number of seconds, 0 to 86400"),
    ],
)
def test_limits_have_limits(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Limits(**limits)
