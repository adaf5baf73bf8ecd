"""The internal port's HTTP server, in the node's own loop."""

import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the node has its own."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the process's signals alone."""
        yield


def bind(host: str, port: int) -> socket.socket:
    """Listen on an address. Raises `OSError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)


def make_server(app: ASGIApp) -> HttpServer:
    """Make the server; `await server.serve(sockets=[…])` runs it until `should_exit` is set."""
    return HttpServer(
        uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, lifespan="off", ws="none")
    )
