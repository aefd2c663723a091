"""The service's paths, asked in this process: what is answered, what is refused and how, what is counted."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.recommendation.recommender import Recommender
from recbole_diffusion.service.answers import RecommendedItems, RecommendedLists, answer_queries
from recbole_diffusion.service.application import create_app
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.queries import Query, QueryOptions

from .conftest import asked, service_of

HISTORIES = [[f"i{(7 * row + 3 * step) % 40}" for step in range(1 + row % 8)] for row in range(40)]


class Gate:
    """Holds back a recommender's work, to see what happens meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, recommender: Recommender) -> None:
        self.open = threading.Event()
        self.at_work = threading.Event()
        self.rows: list[int] = []
        real = recommender.recommend

        def gated(histories: Any, *given: Any, **named: Any) -> Any:
            self.rows.append(len(histories))
            self.at_work.set()
            assert self.open.wait(30)
            return real(histories, *given, **named)

        monkeypatch.setattr(recommender, "recommend", gated)

    async def reached(self) -> None:
        """Until the work has begun."""
        await until(self.at_work.is_set)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, recommender: Recommender) -> Iterator[Gate]:
    """A closed gate; the service's first, own ranking goes through it as well, so tests open it at first."""
    made = Gate(monkeypatch, recommender)
    made.open.set()
    yield made
    made.open.set()


def close(gate: Gate) -> None:
    gate.open.clear()
    gate.at_work.clear()
    gate.rows.clear()


async def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.001)


def samples(text: str) -> dict[str, float]:
    """A page of metrics."""
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


# answers --------------------------------------------------------------------------------------------------------------


def test_the_answer_is_the_recommenders(recommender: Recommender) -> None:
    async def main() -> None:
        async with service_of(recommender) as client:
            expected = recommender.recommend([["i1", "i2"]], 4, filter_seen=True)
            answer = await client.post("/recommend", json={"history": ["i1", "i2"], "k": 4, "filter_seen": True})
            assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
            assert answer.json() == {
                "items": expected.items[0], "scores": pytest.approx(expected.scores[0], rel=1e-5),
                "unknown_items": 0, "unread_items": 0,
            }  # fmt: skip
            RecommendedItems.model_validate_json(answer.content)
            assert len((await client.post("/recommend", json={"history": ["i1"]})).json()["items"]) == 10

            several = {"histories": [["i1", "i2"], ["no"], ["i3", "no", "i3"]], "k": 4, "filter_seen": True}
            answer = await client.post("/recommend", json=several)
            first, second, third = answer.json()["results"]
            RecommendedLists.model_validate_json(answer.content)
            assert first["items"] == expected.items[0] and "error" not in first
            assert second == {
                "items": [], "scores": [], "unknown_items": 1, "unread_items": 0,
                "error": "histories[1] has no item that the run knows",
            }  # fmt: skip
            assert third["unknown_items"] == 1 and len(third["items"]) == 4 and "i3" not in third["items"]

    asyncio.run(main())


def test_of_a_long_history_the_model_reads_the_latest_and_the_answer_says_so(recommender: Recommender) -> None:
    long = [f"i{item % 30}" for item in range(10_000)]

    async def main() -> None:
        async with service_of(recommender) as client:
            answer = (await client.post("/recommend", json={"history": [*long, "no"], "filter_seen": True})).json()
            assert answer["unread_items"] == 10_000 - 6 and answer["unknown_items"] == 1
            assert sorted(answer["items"]) == [f"i{item}" for item in range(30, 40)]  # older ones are left out, too
            latest = (await client.post("/recommend", json={"history": long[-6:], "k": 40})).json()
            whole = (await client.post("/recommend", json={"history": long, "k": 40})).json()
            assert latest["items"] == whole["items"] and latest["unread_items"] == 0
            twice = await client.post("/recommend", json={"history": ["i1", "i1", "i1"]})
            assert twice.status_code == 200

    asyncio.run(main())


def test_items_do_not_depend_on_the_batch(gate: Gate, recommender: Recommender) -> None:
    """The same requests alone and together, in a run whose model draws noise for every row."""
    wishes = [{"history": history, "k": 1 + row % 9} for row, history in enumerate(HISTORIES)]

    async def main() -> None:
        async with service_of(recommender, max_batch=16) as client:
            alone = [(await client.post("/recommend", json=wish)).json() for wish in wishes]
            assert set(gate.rows) == {1}
            close(gate)
            first = asyncio.ensure_future(client.post("/recommend", json=wishes[0]))
            await gate.reached()
            others = [asyncio.ensure_future(client.post("/recommend", json=wish)) for wish in wishes[1:]]
            await until(lambda: client.service._batcher.waiting == len(others))
            gate.open.set()
            together = [answer.json() for answer in await asyncio.gather(first, *others)]
            assert gate.rows == [1, 16, 16, 7]
        for lone, joint in zip(alone, together, strict=True):
            assert lone["items"] == joint["items"] and len(lone["items"]) > 0
            assert lone["scores"] == pytest.approx(joint["scores"], rel=1e-4, abs=1e-5)

    asyncio.run(main())


def test_noise_would_show_if_it_were_the_batches(recommender: Recommender) -> None:
    """The test above can fail: other noise gives other items."""
    found = [recommender.recommend(HISTORIES, 5, row_keys=[key] * len(HISTORIES)).items for key in (1, 2)]
    assert found[0] != found[1]


def test_different_wishes_of_a_batch_are_kept_apart(gate: Gate, recommender: Recommender) -> None:
    def query(history: list[str], k: int, filter_seen: bool, refuse: bool = False) -> Query:
        return Query([history], k, refuse_unknown=refuse, options=QueryOptions(filter_seen))

    queries = [
        query(["i1"], 3, True),
        query(["i2"], 5, False),
        query(["i3"], 7, True),
        query(["no"], 7, True),
        query(["i3", "no"], 7, True, refuse=True),
    ]
    one, two, three, unknown, refused = answer_queries(recommender, queries)
    assert gate.rows == [4, 1]
    gate.rows.clear()
    for answer, wish in ((one, queries[0]), (two, queries[1]), (three, queries[2])):
        expected = recommender.recommend(wish.histories, wish.k, filter_seen=wish.options.filter_seen)
        assert answer["items"] == expected.items[0] and len(answer["items"]) == wish.k  # type: ignore[index]
    assert isinstance(unknown, UserError) and str(unknown) == "history has no item that the run knows"
    assert isinstance(refused, UserError) and 'history has the item "no", which the run does not know' in str(refused)


def test_an_index_that_may_miss_items_is_asked_for_each_k_apart(gate: Gate, recommender: Recommender) -> None:
    queries = [Query([["i1"]], 3), Query([["i2"]], 5), Query([["i3"]], 3)]
    answer_queries(recommender, queries)
    search = recommender.ranking.search
    assert search is not None and gate.rows == [3]
    gate.rows.clear()
    search.approximate = True
    try:
        answers = answer_queries(recommender, queries)
    finally:
        search.approximate = False
    assert gate.rows == [2, 1] and [len(answer["items"]) for answer in answers] == [3, 5, 3]  # type: ignore[index]


def test_chains_excluded_items_and_seeds_of_a_batch_are_kept_apart(recommender: Recommender) -> None:
    wishes: list[dict[str, Any]] = [
        {"exclude": ("i3", "i4")},
        {"options": QueryOptions()},
        {"options": QueryOptions(seed=5)},
        {"options": QueryOptions(n_samples=4, diversity=0.5, k_of_chains=6)},
        {"options": QueryOptions(n_samples=4, diversity=0.5, k_of_chains=12), "k": 12},
    ]
    queries = [Query([["i1", "i2"]], **{"k": 6, **wish}) for wish in wishes]
    for query, answer in zip(queries, answer_queries(recommender, queries), strict=True):
        options = query.options
        expected = recommender.recommend(
            query.histories, query.k, exclude=query.exclude, n_samples=options.n_samples, diversity=options.diversity,
            seed=options.seed,
        )  # fmt: skip
        assert answer["items"] == expected.items[0] and len(answer["items"]) == query.k  # type: ignore[index]


# refusals -------------------------------------------------------------------------------------------------------------

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "message"),
    [
        ("POST", "/recommend", {"content": b'{"history": ["i1"', "headers": JSON}, 400, "the body is no JSON"),
        ("POST", "/recommend", {"content": b"", "headers": JSON}, 400, "the body is no JSON"),
        ("POST", "/recommend", {"json": {"history": ["i1"], "k": 41}}, 422, "from 1 to 40, the items of the run"),
        ("POST", "/recommend", {"json": {"history": []}}, 422, "history is empty"),
        ("POST", "/recommend", {"json": {"history": ["x", "y"]}}, 422, "history has no item that the run knows"),
        ("POST", "/recommend", {"json": {"histories": [["x"], ["y"]]}}, 422, "none of the histories has an item"),
        ("POST", "/recommend", {"json": {"history": ["i1", "x"], "unknown": "refuse"}}, 422, 'the item "x", which'),
        ("POST", "/recommend", {"content": b'{"history": ["i1"]}'}, 415, "set the header Content-Type"),
        ("POST", "/recommend", {"data": {"history": "i1"}}, 415, "set the header Content-Type"),
        (
            "POST",
            "/recommend",
            {"content": b"{}", "headers": {"content-type": "application/json; charset=latin-1"}},
            415,
            "in UTF-8",
        ),
        (
            "POST",
            "/recommend",
            {"content": b"{}", "headers": {**JSON, "content-encoding": "gzip"}},
            415,
            "must not be compressed",
        ),
        ("POST", "/recommend?k=3", {"json": {"history": ["i1"]}}, 422, "nothing after a question mark"),
        ("GET", "/recommend", {}, 405, "/recommend takes another method; there are POST /recommend"),
        ("POST", "/recommend/", {"json": {"history": ["i1"]}}, 404, "there is no such path; there are POST /recommend"),
        ("GET", "/docs", {}, 404, "there is no such path"),
        ("GET", "/..%2f..%2fetc/passwd", {}, 404, "there is no such path"),
    ],
)
def test_a_mistake_is_one_line_of_json(
    recommender: Recommender, method: str, path: str, given: dict[str, Any], status: int, message: str
) -> None:
    async def main() -> None:
        async with service_of(recommender) as client:
            answer = await client.request(method, path, **given)
            assert answer.status_code == status and list(answer.json()) == ["error"]
            line = answer.json()["error"]
            assert message in line and "\n" not in line and "Traceback" not in line and "passwd" not in line
            assert (await client.post("/recommend", json={"history": ["i1"]})).status_code == 200

    asyncio.run(main())


def test_a_body_is_bounded_while_it_is_read(recommender: Recommender) -> None:
    sent = 0

    async def large() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'{"history": ['
        while sent < 1000:
            sent += 1
            yield b'"i1",' * 100

    async def main() -> None:
        async with service_of(recommender, max_body_bytes=2000) as client:
            answer = await client.post("/recommend", content=large(), headers=JSON)  # no Content-Length
            assert answer.status_code == 413 and answer.json()["error"].startswith("the body has more than 2000 bytes")
            assert sent <= 5
            for length in ("2001", "9" * 5000):  # believed where it says too much, before anything is read
                answer = await client.post("/recommend", content=large(), headers={**JSON, "content-length": length})
                assert answer.status_code == 413 and sent <= 5
            body = json.dumps({"history": ["i1"]}).encode()
            fitting = body[:-1] + b" " * (2000 - len(body)) + b"}"
            assert (await client.post("/recommend", content=fitting, headers=JSON)).status_code == 200
            assert (await client.post("/recommend", content=fitting + b" ", headers=JSON)).status_code == 413

    asyncio.run(main())


def test_a_body_that_does_not_come_is_given_up(recommender: Recommender) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def main() -> None:
        async with service_of(recommender, request_timeout=0.05) as client:
            answer = await client.post("/recommend", content=slow(), headers=JSON)
            assert answer.status_code == 408 and "did not arrive within 0.05 s" in answer.json()["error"]
            assert client.service.in_service == 0

    asyncio.run(main())


def test_a_full_service_asks_to_come_again(gate: Gate, recommender: Recommender) -> None:
    async def main() -> None:
        async with service_of(recommender, max_queue=3) as client:
            close(gate)
            taken = [asyncio.ensure_future(client.post("/recommend", json={"history": ["i1"]})) for _ in range(3)]
            await gate.reached()
            await until(lambda: client.service.in_service == 3)
            answer = await client.post("/recommend", json={"history": ["i1"]})
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert answer.json() == {"error": "3 requests are in the service, as many as it takes at a time"}
            found = samples((await client.get("/metrics")).text)
            assert found["recbole_diff_requests_in_service"] == 3
            gate.open.set()
            assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200] * 3
            assert (await client.post("/recommend", json={"history": ["i1"]})).status_code == 200
            assert client.service.in_service == 0

    asyncio.run(main())


def test_an_answer_that_takes_too_long_is_given_up_and_not_computed(gate: Gate, recommender: Recommender) -> None:
    async def main() -> None:
        async with service_of(recommender, request_timeout=0.2) as client:
            close(gate)
            computed = asyncio.ensure_future(client.post("/recommend", json={"history": ["i1"]}))
            await gate.reached()
            waiting = await client.post("/recommend", json={"history": ["i2"]})
            assert waiting.status_code == 504 and "no answer within 0.2 s" in waiting.json()["error"]
            assert (await computed).status_code == 504
            gate.open.set()
            await until(lambda: not client.service.working)
            assert (await client.post("/recommend", json={"history": ["i3"]})).status_code == 200
            assert gate.rows == [1, 1]  # the one that waited was skipped

    asyncio.run(main())


def test_a_client_that_leaves_is_not_computed_for(gate: Gate, recommender: Recommender) -> None:
    async def main() -> None:
        async with service_of(recommender) as client:
            close(gate)
            first = asyncio.ensure_future(client.post("/recommend", json={"history": ["i1"]}))
            await gate.reached()
            left = asyncio.Event()
            sent: list[Any] = []
            body = [{"type": "http.request", "body": json.dumps({"history": ["i2"]}).encode()}]

            async def receive() -> Any:
                if body:
                    return body.pop()
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {
                "type": "http", "method": "POST", "path": "/recommend", "raw_path": b"/recommend", "query_string": b"",
                "headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
                "root_path": "", "asgi": {"version": "3.0"},
            }  # fmt: skip
            gone = asyncio.ensure_future(client._transport.app(scope, receive, send))
            await until(lambda: client.service._batcher.waiting == 1)
            left.set()
            await gone
            assert sent == [] and client.service._batcher.waiting == 0 and client.service.in_service == 1
            gate.open.set()
            assert (await first).status_code == 200
            found = samples((await client.get("/metrics")).text)
            assert found['recbole_diff_requests_total{code="aborted",path="/recommend"}'] == 1
            assert gate.rows == [1]

    asyncio.run(main())


def test_a_bug_is_an_id_and_its_traceback_is_in_the_log(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with service_of(recommender) as client:

            def broken(*_: Any, **__: Any) -> Any:
                raise RuntimeError("/secret/path is not for you")

            with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
                patched.setattr(recommender, "recommend", broken)
                answer = await client.post("/recommend", json={"history": ["i1"]})
            assert answer.status_code == 500
            line = answer.json()["error"]
            number = line.rpartition(" ")[2]
            assert "secret" not in line and len(number) == 12
            assert f"error {number} in a request for /recommend" in caplog.text and "/secret/path" in caplog.text
            assert "Traceback" in caplog.text
            assert (await client.post("/recommend", json={"history": ["i1"]})).status_code == 200

    asyncio.run(main())


# life -----------------------------------------------------------------------------------------------------------------


def test_health_says_what_is_served_and_when(gate: Gate, recommender: Recommender) -> None:
    async def main() -> None:
        gate.open.clear()
        app = create_app(lambda: recommender, Limits())
        service = app.state.service
        async with asked(app) as client:
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "loading")
            refused = await client.post("/recommend", json={"history": ["i1"]})
            assert refused.status_code == 503 and "being loaded" in refused.json()["error"]
            gate.open.set()
            await service.loaded()
            health = await client.get("/health")
            assert health.status_code == 200
            facts = {"status": "ready", "model": "DiffuRec", "dataset": "small", "items": 40, "history_length": 6}
            assert facts.items() <= health.json().items()

            close(gate)
            taken = [asyncio.ensure_future(client.post("/recommend", json={"history": ["i1"]})) for _ in range(2)]
            await gate.reached()
            await until(lambda: service.in_service == 2)
            stopping = asyncio.ensure_future(service.stop())
            await asyncio.sleep(0)
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "stopping")
            refused = await client.post("/recommend", json={"history": ["i1"]})
            assert refused.status_code == 503 and refused.json() == {"error": "the service is stopping"}
            assert not stopping.done()
            gate.open.set()
            assert await stopping == 0
            assert [answer.status_code for answer in await asyncio.gather(*taken)] == [200, 200]

    asyncio.run(main())


def test_stopping_waits_so_long_and_no_longer(gate: Gate, recommender: Recommender) -> None:
    async def main() -> None:
        async with service_of(recommender, stop_timeout=0.05) as client:
            close(gate)
            taken = [asyncio.ensure_future(client.post("/recommend", json={"history": ["i1"]})) for _ in range(2)]
            await gate.reached()
            await until(lambda: client.service.in_service == 2)
            assert await client.service.stop() == 2
            assert [answer.status_code for answer in await asyncio.gather(*taken)] == [503, 503]
            assert client.service.working
            gate.open.set()

    asyncio.run(main())


@pytest.mark.parametrize("error", [UserError("/secret/best is damaged"), RuntimeError("/secret/bug")])
def test_a_checkpoint_that_cannot_be_loaded_is_said_without_its_path(error: Exception) -> None:
    def load() -> Any:
        raise error

    async def main() -> None:
        app = create_app(load)
        async with asked(app) as client:
            with pytest.raises(type(error)):
                await app.state.service.loaded()
            health = await client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "failed") and "secret" not in health.text
            answer = await client.post("/recommend", json={"history": ["i1"]})
            assert answer.status_code == 503 and "secret" not in answer.text

    asyncio.run(main())


def test_metrics_count_what_happened(recommender: Recommender) -> None:
    async def main() -> None:
        async with service_of(recommender) as client:
            await client.post("/recommend", json={"histories": [["i1"], ["i2"], ["i3"]]})
            await client.post("/recommend", json={"history": ["i1"]})
            await client.post("/recommend", json={"history": []})
            for path in ("/a", "/b", "/health"):
                await client.get(path)
            page = await client.get("/metrics")
            assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain; version=")
            found = samples(page.text)
            expected = {
                'recbole_diff_requests_total{code="200",path="/recommend"}': 2,
                'recbole_diff_requests_total{code="422",path="/recommend"}': 1,
                'recbole_diff_requests_total{code="404",path="other"}': 2,
                'recbole_diff_requests_total{code="200",path="/health"}': 1,
                "recbole_diff_request_seconds_count": 2,
                "recbole_diff_batch_histories_sum": 4,
                'recbole_diff_batch_histories_bucket{le="2.0"}': 1,
                "recbole_diff_batch_seconds_count": 2,
                "recbole_diff_requests_in_service": 0,
                "recbole_diff_queue_length": 0,
                "recbole_diff_ready": 1,
            }
            assert {name: found[name] for name in expected} == expected
            assert found["process_resident_memory_bytes"] > 2**20
        async with service_of(recommender) as other:  # another service in this process begins at nothing
            assert "recbole_diff_requests_total{" not in (await other.get("/metrics")).text

    asyncio.run(main())


def test_the_schema_describes_requests_and_answers(recommender: Recommender) -> None:
    async def main() -> None:
        async with service_of(recommender) as client:
            schema = (await client.get("/openapi.json")).json()
        operation = schema["paths"]["/recommend"]["post"]
        keys = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert list(keys) == [
            "history",
            "histories",
            "k",
            "filter_seen",
            "exclude",
            "n_samples",
            "diversity",
            "seed",
            "unknown",
        ]
        assert {"RecommendedItems", "RecommendedLists"} <= set(schema["components"]["schemas"])

    asyncio.run(main())
