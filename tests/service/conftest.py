"""A tiny trained run, and a service of it in this process, asked through ASGI without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("prometheus_client")
httpx = pytest.importorskip("httpx")

from fastapi import FastAPI  # noqa: E402

from recbole_diffusion.recommendation.recommender import Recommender  # noqa: E402
from recbole_diffusion.service.application import create_app  # noqa: E402
from recbole_diffusion.service.limits import Limits  # noqa: E402
from tests.recommendation.conftest import Train, trained  # noqa: E402, F401


@pytest.fixture(scope="session")
def recommender(trained: Train) -> Recommender:  # noqa: F811
    """A DiffuRec on 40 items, i0 to i39, that reads the latest 6 of a history."""
    return Recommender.load(trained("DiffuRec").folder, device="cpu")


@asynccontextmanager
async def asked(app: FastAPI) -> AsyncIterator[Any]:
    """A client of an application that runs."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client,
    ):
        yield client


@asynccontextmanager
async def service_of(recommender: Any, **limits: Any) -> AsyncIterator[Any]:
    """A client of a service that is ready, with some limits."""
    app = create_app(recommender, Limits(**limits))
    async with asked(app) as client:
        await app.state.service.loaded()
        client.service = app.state.service
        yield client
