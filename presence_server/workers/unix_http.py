"""A request to a worker's internal port, over its unix socket: one request, one connection."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import h11

READ_BYTES: Final = 65_536
RawHeaders = Sequence[tuple[bytes, bytes]]


class WorkerAnswer(NamedTuple):
    """The answer of a worker."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class NotSentError(Exception):
    """The worker does not listen: no request was sent."""


async def ask(path: Path, method: str, target: bytes, headers: RawHeaders, body: bytes = b"") -> WorkerAnswer:
    """Send a request and return the answer; the caller has a deadline.

    Raises `NotSentError`, or `OSError` or `h11.ProtocolError` where the worker ended before it had answered.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except OSError as exc:
        raise NotSentError(exc.strerror or str(exc)) from None
    try:
        connection = h11.Connection(h11.CLIENT)
        own = [(b"connection", b"close")]
        if body:
            own.append((b"content-length", str(len(body)).encode()))
        request = h11.Request(method=method, target=target, headers=[*headers, *own])
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        return await _answer(connection, reader)
    finally:
        writer.transport.abort()


async def _answer(connection: h11.Connection, reader: asyncio.StreamReader) -> WorkerAnswer:
    status, headers, body = 0, [], bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            status, headers = event.status_code, list(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return WorkerAnswer(status, headers, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("the worker has closed the connection")
