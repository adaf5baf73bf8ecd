"""Sockets bound to what the settings name, and what to do where that cannot be had."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from presence_server.errors import ListenError

UNPRIVILEGED_PORT: Final = 1_024
CLIENT_BACKLOG: Final = 4_096
"""The kernel's queue of connections not yet accepted; asyncio's 100 throttles a storm of them."""
API_BACKLOG: Final = 128
CLAIM: Final = "presence-server/"
WILDCARDS: Final = frozenset(("0.0.0.0", "::"))  # noqa: S104 - nothing is bound by it


async def listen_for_clients(host: str, port: int, *, shared: bool, unsent_bytes: int) -> list[socket.socket]:
    """Listen on a port at each address of `host`: alone, or as one of the workers that share it.

    `unsent_bytes`: how much a connection may have in the kernel unsent. Raises `ListenError` where an address cannot
    be had.
    """
    with ExitStack() as until_it_listens:
        bound = await _bind(host, port, shared=shared)
        try:
            if not shared:
                for claim in _claim(bound):
                    until_it_listens.enter_context(claim)
            for sock in bound:
                if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                    # Accepted sockets inherit it: what the kernel has not sent stays here, where it can be conflated.
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent_bytes)
                sock.listen(CLIENT_BACKLOG)
        except OSError as exc:
            _close(bound)
            raise ListenError(why_not(exc, "server.host", "server.port", host, port)) from None
    return bound


async def reserve_client_port(host: str, port: int) -> list[socket.socket]:
    """Return sockets, those of the addresses first, that keep a port for workers as long as they are open.

    They do not listen. Raises `ListenError` where somebody else has the port.
    """
    alone = await _bind(host, port, shared=False)
    try:
        claims = _claim(alone)
    except OSError as exc:
        raise ListenError(why_not(exc, "server.host", "server.port", host, port)) from None
    finally:
        picked: int = alone[0].getsockname()[1]
        _close(alone)
    try:
        return [*await _bind(host, picked, shared=True), *claims]
    except ListenError:
        _close(claims)
        raise


async def _bind(host: str, port: int, *, shared: bool) -> list[socket.socket]:
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
        _close(bound)
        raise ListenError(why_not(exc, "server.host", "server.port", host, port)) from None
    return bound


def _claim(bound: Sequence[socket.socket]) -> list[socket.socket]:
    """Return sockets that nobody else can have for these addresses while they are open. Raises `OSError`: in use.

    With SO_REUSEADDR, without which connections that have ended keep a port for a minute, Linux binds an address
    again as long as nobody listens there: while workers start, or are all dead. So each address is also a name of an
    abstract unix socket, which belongs to the same network namespace and is gone with its process.
    """
    claims: list[socket.socket] = []
    if sys.platform == "linux":
        for sock in bound:
            host, port, *_ = sock.getsockname()
            claim = socket.socket(socket.AF_UNIX)
            claims.append(claim)
            try:
                claim.bind(f"\0{CLAIM}{host}/{port}")
                _check_unclaimed(host, port)
            except OSError:
                _close(claims)
                raise
    return claims


def _check_unclaimed(host: str, port: int) -> None:
    """Raise `OSError` where every address is claimed while this is one of them, or the other way round."""
    try:
        names = Path("/proc/net/unix").read_text(errors="replace").split(f"@{CLAIM}")[1:]
    except OSError:  # then claims of the same address alone exclude each other
        return
    for name in names:
        other, _, its_port = name.split()[0].rpartition("/")
        same_family = (":" in other) == (":" in host)
        if its_port == str(port) and same_family and other != host and {other, host} & WILDCARDS:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _close(sockets: Iterable[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


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
