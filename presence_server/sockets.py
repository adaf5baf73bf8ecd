"""Sockets bound to what the settings name, and what to do where that cannot be had."""

import asyncio
import errno
import socket
from pathlib import Path
from typing import Final

from presence_server.errors import ListenError

UNPRIVILEGED_PORT: Final = 1_024
API_BACKLOG: Final = 128


async def bind_client_port(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Return a socket for each address of `host`, all on one port, which do not listen yet.

    Sockets that are `shared` leave the port to those of other processes that are shared, too (SO_REUSEPORT): those
    that listen are given new connections in turn. Raises `ListenError` where an address cannot be had.
    """
    bound: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0 is picked once: all addresses of a name have the same.
            sock.bind((address[0], bound[0].getsockname()[1] or port, *address[2:]))
    except OSError as exc:
        for sock in bound:
            sock.close()
        raise ListenError(why_not(exc, "server.host", "server.port", host, port)) from None
    return bound


async def reserve_client_port(host: str, port: int) -> list[socket.socket]:
    """Return shared sockets for a port that nobody else has. Raises `ListenError` where somebody has it.

    Sockets that are shared would be bound beside those of another supervisor, and clients given to either.
    """
    alone = await bind_client_port(host, port, shared=False)
    picked: int = alone[0].getsockname()[1]
    for sock in alone:
        sock.close()
    return await bind_client_port(host, picked, shared=True)


def listen_for_calls(host: str, port: int) -> socket.socket:
    """Listen on the internal port. Raises `ListenError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=API_BACKLOG)
    except OSError as exc:
        raise ListenError(why_not(exc, "server.api_host", "server.api_port", host, port)) from None


def listen_at(path: Path) -> socket.socket:
    """Listen on a unix socket, in the place of an earlier one. Raises `ListenError` where it cannot be had."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        path.unlink(missing_ok=True)
        sock.bind(str(path))
        sock.listen(API_BACKLOG)
    except OSError as exc:
        sock.close()
        raise ListenError(f"server.socket_dir: {path}: {exc.strerror or exc}") from None
    return sock


def why_not(exc: OSError, host_key: str, port_key: str, host: str, port: int) -> str:
    """Say which setting names an address that cannot be had, why it cannot, and what to try."""
    place = f"{host}, port {port}"
    flag = {"server.port": "--port", "server.api_port": "--api-port"}[port_key]
    if exc.errno == errno.EADDRINUSE:
        return f"{port_key}: {place} is in use; try another with {flag}, or {flag} 0 for a free one"
    if exc.errno in {errno.EACCES, errno.EPERM} and 0 < port < UNPRIVILEGED_PORT:
        return f"{port_key}: {place}: {exc.strerror}; try a port from {UNPRIVILEGED_PORT} on with {flag}"
    return f"{host_key}: {place}: {exc.strerror or exc}"
