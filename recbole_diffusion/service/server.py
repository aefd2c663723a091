"""A service on a socket: one process, one event loop, and an end that finishes what was begun.

The first SIGINT or SIGTERM: requests are refused (503) and /health says `stopping`, while those that were taken are
answered, within `stop_timeout`; then the socket is closed. The second ends the process at once.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from recbole_diffusion.errors import UserError
from recbole_diffusion.service.application import create_app
from recbole_diffusion.service.limits import Limits
from recbole_diffusion.service.service import Service

if TYPE_CHECKING:
    from recbole_diffusion.recommendation.recommender import Recommender

logger = logging.getLogger(__name__)

_BACKLOG = 2048  # connections that are not accepted yet
_KEEP_ALIVE = 30  # seconds that a connection may idle
_LAST_WORDS = 2  # seconds in which answers that are there must be taken


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 is a free one. Who connects waits until the service accepts.

    Raises:
        UserError: the port is taken or not allowed, or the host is no address of this machine.
    """
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}; it must be from 0, for a free one, to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"host is {host!r}, which is no address ({error}); 127.0.0.1 is this machine alone") from error
    opened = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # where it would let two programs share a port
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)  # now, because two that are only bound may have the same port
    except OSError as error:
        opened.close()
        remedies = {
            errno.EADDRINUSE: "another program has it; give another with --port, or 0 for a free one",
            errno.EACCES: "it takes more rights; give one from 1024 with --port",
            errno.EADDRNOTAVAIL: "the host is no address of this machine; give one with --host",
        }
        remedy = remedies.get(error.errno or 0, error.strerror or str(error))
        raise UserError(f"cannot listen on port {port} of {host}: {remedy}") from error
    return opened


def is_loopback(bound: socket.socket) -> bool:
    """Whether an address is reached from this machine alone."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    load: Callable[[], Recommender],
    bound: socket.socket,
    limits: Limits,
    announce: Callable[[str], None],
    access_log: bool = False,
) -> Service:
    """Serve until a signal comes.

    Args:
        load: loads the model, while /health answers already.
        bound: the socket, which is closed at the end.
        limits: what is taken at most.
        announce: told, in a line, when and where requests are taken.
        access_log: whether each request is a line in the log.

    Returns:
        the service; where its `working` is true, its thread is still at something that took longer than `stop_timeout`.

    Raises:
        UserError: the model cannot be loaded.
    """
    app = create_app(load, limits)
    service: Service = app.state.service
    config = uvicorn.Config(
        app,
        access_log=access_log,
        log_config=None,
        log_level="info" if access_log else "warning",
        ws="none",
        backlog=_BACKLOG,
        lifespan="on",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_LAST_WORDS,
    )
    url = url_of(bound)
    if not is_loopback(bound):
        logger.warning(
            "%s is reached from other machines, and the service asks nobody who he is: put a proxy before it that does",
            url,
        )
    try:
        asyncio.run(_serve(_Server(config, service), bound, url, announce))
    finally:
        bound.close()
    return service


async def _serve(server: _Server, bound: socket.socket, url: str, announce: Callable[[str], None]) -> None:
    """Run the server; an error of loading ends it, and is raised."""
    service = server.service
    server.loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    loaded = asyncio.ensure_future(service.loaded())
    try:
        await asyncio.wait({serving, loaded}, return_when=asyncio.FIRST_COMPLETED)
        if loaded.done():
            if loaded.exception() is None:
                facts = service.facts
                announce(f"serving {facts['model']} on {facts['dataset']}, {facts['items']:,} items, at {url}")
            else:
                server.should_exit = True
        await serving
        if loaded.done():
            loaded.result()
    finally:
        loaded.cancel()


class _Server(uvicorn.Server):
    """uvicorn's, whose first signal finishes what was begun, and whose process then ends as one that succeeded."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0
        self._stopping: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come, in the main thread."""
        self._signals += 1
        if self._signals > 1 or self.loop is None:
            sys.stderr.write("ended at once\n")
            sys.stderr.flush()
            os._exit(128 + sig)  # nothing is waited for: neither the thread that computes nor the event loop
        self.loop.call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        self._stopping = asyncio.get_running_loop().create_task(self._stop())

    async def _stop(self) -> None:
        seconds = self.service.limits.stop_timeout
        if self.service.in_service:
            logger.info(
                "stopping: %d requests are finished first, within %g s; another signal ends at once",
                self.service.in_service,
                seconds,
            )
        left = await self.service.stop()
        if left:
            logger.warning("%d requests were not answered within %g s (stop_timeout), and refused", left, seconds)
        self.should_exit = True
