"""Running the server: from an address to listen on to a stop that loses no request."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from diffusionad.errors import InputError, MissingPackage
from diffusionad.files import reason
from diffusionad.serving.limits import Limits

try:
    import python_multipart  # noqa: F401  what starlette reads forms with, if it is there
    import uvicorn

    from diffusionad.serving.app import Service
except ImportError as error:
    raise MissingPackage(error.name or "fastapi", "serve") from error

if TYPE_CHECKING:
    from diffusionad.model import DiffusionAD

log = logging.getLogger(__name__)

STOP_SECONDS = 30  # for the requests that are under way
# Of a connection between two requests. Longer than a line takes from one part to the next, and than
# proxies keep theirs: one that is closed just as a request comes would lose that request.
IDLE_SECONDS = 120
BACKLOG = 2048


def serve(
    model: DiffusionAD,
    name: str,
    limits: Limits,
    host: str,
    port: int,
    ready: Callable[[str], Any],
) -> None:
    """Answer requests until SIGTERM, or SIGINT, which raises KeyboardInterrupt in the end.

    `ready` is called with the server's URL once requests are taken. Either signal lets the requests
    that are under way finish first. Raises InputError for an address that cannot be listened on.
    """
    with listening(host, port) as server_socket:
        if not _is_loopback(server_socket):
            log.warning(
                "--host %s: whoever reaches this address may use the server; it asks for no "
                "password and encrypts nothing, so put a proxy in front that does",
                host,
            )
        config = uvicorn.Config(
            Service(model, name, limits).app(),
            lifespan="on",
            log_config=None,  # errors go to stderr, requests are counted in /metrics
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        ready(_url(server_socket))
        with _sigterm_ends(server):
            server.run(sockets=[server_socket])


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that takes connections; connections wait until the server is there."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host}: no such address") from error
    try:
        made = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen: {reason(error)}") from error
    with made:
        yield made


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _sigterm_ends(server: uvicorn.Server) -> Iterator[None]:
    """SIGTERM is a usual end. uvicorn raises each signal once more when it is done: here."""

    def note(*_: Any) -> None:
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
