"""Queries collected to batches: which go together, which wait, which are skipped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("pydantic")

from recbole_diffusion.service.answers import Outcome
from recbole_diffusion.service.batching import Batcher
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.queries import Query


class Model:
    """Answers a query with its first item, in batches that it remembers, while its gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def __call__(self, queries: Sequence[Query]) -> list[Outcome]:
        names = [query.histories[0][0] for query in queries]
        self.batches.append(names)
        self.threads.add(threading.get_ident())
        assert self.gate.wait(30)
        if "bug" in names:
            raise RuntimeError("a bug")
        return [ValueError(name) if name == "wrong" else {"items": [name]} for name in names]


class Running:
    """A batcher at work."""

    def __init__(self, model: Model, **limits: Any) -> None:
        self.worker = ThreadPoolExecutor(1)
        self.observed: list[int] = []
        self.batcher = Batcher(model, self.worker, Limits(**limits), lambda size, _: self.observed.append(size))

    async def __aenter__(self) -> Batcher:
        self.batcher.start()
        return self.batcher

    async def __aexit__(self, *_: object) -> None:
        self.batcher.close()
        self.worker.shutdown()


def query(name: str, histories: int = 1) -> Query:
    return Query([[name]] * histories)


async def computing(model: Model, batches: int) -> None:
    """Until the model is at its nth batch."""
    while len(model.batches) < batches:
        await asyncio.sleep(0.001)


def test_what_comes_while_the_model_computes_goes_together_up_to_max_batch() -> None:
    async def main() -> None:
        model = Model()
        running = Running(model, max_batch=3, batch_wait_ms=0)
        async with running as batcher:
            model.gate.clear()
            first = batcher.submit(query("a"))
            await computing(model, 1)
            assert batcher.busy and batcher.waiting == 0
            others = [batcher.submit(query(*one)) for one in [("b",), ("c",), ("large", 5), ("d",), ("e", 2), ("f",)]]
            assert batcher.waiting == 6
            model.gate.set()
            answers = await asyncio.gather(first, *others)
        assert [answer["items"] for answer in answers] == [["a"], ["b"], ["c"], ["large"], ["d"], ["e"], ["f"]]
        assert model.batches == [["a"], ["b", "c"], ["large"], ["d", "e"], ["f"]]
        assert running.observed == [1, 2, 5, 3, 1] and len(model.threads) == 1

    asyncio.run(main())


def test_one_client_alone_waits_for_nobody() -> None:
    async def main() -> None:
        model = Model()
        async with Running(model, batch_wait_ms=1000) as batcher:
            began = time.monotonic()
            for _ in range(5):
                await batcher.submit(query("a"))
            assert time.monotonic() - began < 0.9  # one wait would be a second
        assert model.batches == [["a"]] * 5

    asyncio.run(main())


def test_clients_in_a_hurry_share_a_batch_after_the_first() -> None:
    async def main() -> None:
        model = Model()
        async with Running(model, batch_wait_ms=1000) as batcher:

            async def client(name: str) -> None:
                for _ in range(4):
                    await batcher.submit(query(name))
                    await asyncio.sleep(0.002)  # so that nobody is back at once

            model.gate.clear()
            clients = [asyncio.ensure_future(client(name)) for name in "abc"]
            await computing(model, 1)
            model.gate.set()
            began = time.monotonic()
            await asyncio.gather(*clients[:-1])
            assert time.monotonic() - began < 0.9  # nobody has waited for somebody who is there already
            await asyncio.gather(*clients)
        assert sorted(model.batches[0]) == list("abc") and all(sorted(batch) == list("abc") for batch in model.batches)

    asyncio.run(main())


def test_company_that_does_not_come_is_waited_for_once() -> None:
    async def main() -> None:
        model = Model()
        async with Running(model, batch_wait_ms=150) as batcher:
            await asyncio.gather(*(batcher.submit(query(name)) for name in "ab"))
            began = time.monotonic()
            await batcher.submit(query("a"))
            assert time.monotonic() - began > 0.1
            await batcher.submit(query("a"))
            await asyncio.gather(*(batcher.submit(query(name)) for name in "ab"))
            await asyncio.sleep(0.2)  # the model has rested longer than it is patient
            began = time.monotonic()
            await batcher.submit(query("a"))
            assert time.monotonic() - began < 0.1
        assert model.batches == [["a", "b"], ["a"], ["a"], ["a", "b"], ["a"]]

    asyncio.run(main())


def test_queries_that_nobody_waits_for_are_skipped() -> None:
    async def main() -> None:
        model = Model()
        async with Running(model, batch_wait_ms=0) as batcher:
            model.gate.clear()
            first = batcher.submit(query("a"))
            await computing(model, 1)
            gone, late, other = (batcher.submit(query(name)) for name in ("gone", "late", "b"))
            first.cancel()
            gone.cancel()
            late.set_exception(TimeoutError())
            assert batcher.waiting == 1
            model.gate.set()
            assert await other == {"items": ["b"]}
            assert isinstance(late.exception(), TimeoutError)
            only_gone = batcher.submit(query("gone"))
            only_gone.cancel()
            await asyncio.sleep(0)
            assert await batcher.submit(query("c")) == {"items": ["c"]}
        assert model.batches == [["a"], ["b"], ["c"]]

    asyncio.run(main())


def test_an_error_of_one_query_is_its_own_and_a_bug_ends_nothing() -> None:
    async def main() -> None:
        model = Model()
        async with Running(model, batch_wait_ms=0) as batcher:
            wrong, right = await asyncio.gather(
                *(batcher.submit(query(name)) for name in ("wrong", "right")), return_exceptions=True
            )
            assert isinstance(wrong, ValueError) and right == {"items": ["right"]}
            with pytest.raises(RuntimeError, match="a bug"):
                await batcher.submit(query("bug"))
            assert await batcher.submit(query("a")) == {"items": ["a"]}

    asyncio.run(main())


def test_draining_waits_for_all_and_what_is_left_is_refused() -> None:
    async def main() -> None:
        model = Model()
        async with Running(model, batch_wait_ms=0) as batcher:
            model.gate.clear()
            answers = [batcher.submit(query("a"))]
            await computing(model, 1)
            answers.append(batcher.submit(query("b")))
            await batcher.drained(0.05)
            assert batcher.busy and batcher.waiting == 1
            threading.Timer(0.05, model.gate.set).start()
            await batcher.drained(30)
            assert [answer.result()["items"] for answer in answers] == [["a"], ["b"]]
            model.gate.clear()
            answers = [batcher.submit(query("c"))]
            await computing(model, 3)
            answers.append(batcher.submit(query("d")))
            assert batcher.refuse_all(RuntimeError("too late")) == 2
            assert all(isinstance(answer.exception(), RuntimeError) for answer in answers)
            model.gate.set()
        assert model.batches == [["a"], ["b"], ["c"]]

    asyncio.run(main())
