"""Every request counted, whatever becomes of it; a bug answered with an id that the log has, and nothing else of it."""

from __future__ import annotations

import logging
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recbole_diffusion.service.metrics import ABORTED, ServiceMetrics
from recbole_diffusion.service.refusals import ClientGone, error_response

logger = logging.getLogger(__name__)

PATHS = {"/recommend": "POST", "/health": "GET", "/metrics": "GET", "/openapi.json": "GET"}
OTHER = "other"  # paths that are not ours, which would otherwise be as many counters as somebody likes


class Observation:
    """Middleware around everything that answers."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or what else a server says."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else OTHER
        code = ABORTED

        async def observed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except ClientGone:
            pass
        except Exception:
            number = uuid.uuid4().hex[:12]
            logger.exception("error %s in a request for %s", number, path)
            if code == ABORTED:
                message = f"an error of the service; its log says more under {number}"
                await error_response(500, message)(scope, receive, observed)
        finally:
            self.metrics.request(path, code)
