"""The paths of a service as an ASGI application: POST /recommend, GET /health, GET /metrics, GET /openapi.json.

A body is read and checked here and not by FastAPI, which would take all of it, whatever its size, and give each mistake
an answer of its own form.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import Receive

from recbole_diffusion import __version__
from recbole_diffusion.errors import UserError
from recbole_diffusion.service.answers import RecommendedItems, RecommendedLists
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.metrics import CONTENT_TYPE
from recbole_diffusion.service.observation import PATHS, Observation
from recbole_diffusion.service.queries import RecommendRequest, read_query
from recbole_diffusion.service.refusals import ClientGone, Refusal, error_response
from recbole_diffusion.service.service import READY, Service

if TYPE_CHECKING:
    from recbole_diffusion.recommendation.recommender import Recommender

_JSON = "application/json"


def create_app(recommender: Recommender | Callable[[], Recommender], limits: Limits | None = None) -> FastAPI:
    """The application of a recommender.

    Args:
        recommender: one that is loaded, or a function that loads it; meanwhile /health says `loading`.
        limits: what is taken at most.

    Returns:
        an ASGI application for one process; its `state.service` is the :class:`Service`.
    """
    service = Service(recommender, limits or Limits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()

    app = FastAPI(
        title="recbole-diff serve",
        version=__version__,
        description="Items recommended for histories by a trained model.",
        lifespan=lifespan,
        docs_url=None,  # these pages would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_exception_handler(HTTPException, _other_path)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(UserError, _wrong)
    app.add_middleware(Observation, metrics=service.metrics)

    @app.post(
        "/recommend",
        summary="Items for one history or several",
        response_model=None,
        responses={
            200: {"model": RecommendedItems | RecommendedLists},
            422: {"content": {_JSON: {"example": {"error": "k is 0; it must be 1 or more"}}}, "description": "Wrong"},
        },
        openapi_extra={
            "requestBody": {"required": True, "content": {_JSON: {"schema": RecommendRequest.model_json_schema()}}}
        },
    )
    async def recommend(request: Request) -> Response:
        began = time.perf_counter()
        _check_head(request)
        with service.admitted():
            query = read_query(await _read(request, service.limits), service.limits, service.facts["items"])
            answer = service.submit(query)
            watch = asyncio.get_running_loop().create_task(_until_gone(request.receive, answer))
            try:
                response = JSONResponse(await answer)
            finally:
                watch.cancel()
        service.metrics.recommended(time.perf_counter() - began)
        return response

    @app.get("/health", summary="Whether requests are taken, and what is served", response_model=None)
    async def health() -> Response:
        state = service.state
        return JSONResponse({"status": state, **service.facts, "version": __version__}, 200 if state == READY else 503)

    @app.get("/metrics", summary="Counts for Prometheus", response_model=None)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return app


def _check_head(request: Request) -> None:
    """Refuse a request by its line and headers.

    Raises:
        Refusal: it has a query string, or its body is no plain JSON.
    """
    if request.url.query:
        raise Refusal(422, "/recommend takes nothing after a question mark; every key goes into the JSON body")
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != _JSON or charset not in ("", "utf-8", "utf8"):
        raise Refusal(415, f"the body must be {_JSON} in UTF-8; set the header Content-Type: {_JSON}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "the body must not be compressed; leave out the header Content-Encoding")


async def _read(request: Request, limits: Limits) -> bytes:
    """The body of a request, within the limits.

    Raises:
        Refusal: it is too large or too slow.
        ClientGone: it was broken off.
    """
    most = limits.max_body_bytes
    too_large = Refusal(413, f"the body has more than {most} bytes; send fewer or shorter histories")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise too_large

    async def read() -> bytes:
        body = bytearray()
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > most:
                raise too_large
            if not message.get("more_body", False):
                return bytes(body)

    try:
        return await asyncio.wait_for(read(), limits.request_timeout)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the body did not arrive within {limits.request_timeout:g} s") from None


async def _until_gone(receive: Receive, answer: asyncio.Future[Any]) -> None:
    """End a future that nobody waits for any more."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not answer.done():
        answer.set_exception(ClientGone())


async def _refused(_: Request, error: Exception) -> Response:
    headers = error.headers if isinstance(error, Refusal) else {}
    return error_response(error.status if isinstance(error, Refusal) else 500, str(error), headers)


async def _wrong(_: Request, error: Exception) -> Response:
    return error_response(422, str(error))


async def _other_path(request: Request, error: Exception) -> Response:
    """404 and 405, in our words."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict((error.headers if isinstance(error, HTTPException) else None) or {})
    offers = ", ".join(f"{method} {path}" for path, method in PATHS.items())
    if status == 404:
        return error_response(404, f"there is no such path; there are {offers}", headers)
    if status == 405:
        return error_response(405, f"{request.url.path} takes another method; there are {offers}", headers)
    return error_response(status, str(getattr(error, "detail", "")), headers)
