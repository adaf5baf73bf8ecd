"""TLS on the client port, in the node's own turns.

The loop's TLS would answer every ClientHello in the turn that brings it: a signature each, which costs whoever
replays one nothing. Here handshakes wait with the other newcomers, one of each address in turn.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

from presence_server.edge.connection import Connection
from presence_server.edge.turns import Queue

if TYPE_CHECKING:
    from presence_server.edge.listener import Listener

DECRYPTED_BYTES: Final = 16_384
"""Decrypted at a time: a TLS record."""


class TlsSocket(asyncio.Transport, asyncio.BufferedProtocol):
    """A socket with TLS: the protocol of its TCP transport, and the transport of its connection.

    The connection is made when the handshake is done. Until then the listener has this socket among those whose
    handshake goes on.
    """

    def __init__(self, listener: "Listener", context: ssl.SSLContext) -> None:
        super().__init__()
        self.key = ""
        """The key that the socket is counted under until its handshake is done."""
        self._listener = listener
        self._connection: Connection | None = None
        """The connection over this socket; None: the handshake is not done."""
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)
        self._tcp: asyncio.Transport | None = None
        self._waits = False
        """Whether the handshake waits for its turn."""
        self._ended = False
        """Whether nothing more is sent. What comes then is dropped; the client's end is awaited."""

    # --- called by the TCP transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake's time."""
        self._tcp = cast("asyncio.Transport", transport)
        self.key = self._listener.peer(transport)[1]
        self._listener.note_tls_arrival(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the TCP transport puts what it reads: one place for all sockets, since it is taken at once."""
        del sizehint
        return self._listener.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Decrypt what has come in, or go on with the handshake when it is its turn."""
        self._received.write(self._listener.read_buffer[:nbytes])
        if self._connection is not None:
            self._decrypt(self._connection)
        elif not self._waits:
            turns = self._listener.turns
            if turns.may_begin(Queue.NEWCOMERS):
                self._shake_hands()
            else:
                self._waits = True
                self.pause_reading()
                turns.queue_work(Queue.NEWCOMERS, self.key, self._shake_hands)

    def eof_received(self) -> None:
        """Let the TCP transport close: the client sends nothing more."""
        if self._connection is not None:
            self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything: the socket is gone."""
        self._tcp = None
        if self._connection is not None:
            self._connection.connection_lost(exc)
        else:
            self._listener.forget_tls(self)

    def pause_writing(self) -> None:
        """Tell the connection that its client does not read."""
        if self._connection is not None:
            self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Tell the connection that its client reads again."""
        if self._connection is not None:
            self._connection.resume_writing()

    # --- called by the connection ---

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """Encrypt and send."""
        if data and not self._ended and not self.is_closing():
            self._tls.write(data)
            self._send()

    def can_write_eof(self) -> bool:
        """Whether the client can be told that nothing more comes, before the socket is closed."""
        return True

    def write_eof(self) -> None:
        """Say that nothing more comes. A close while the client still sends could cost it what it has not read."""
        if self._tcp is not None and not self._ended and not self.is_closing():
            self._ended = True
            with suppress(ssl.SSLError):  # the client has not said the same yet
                self._tls.unwrap()
            self._send()
            self._tcp.write_eof()

    def close(self) -> None:
        """Say that nothing more comes, and close when everything is sent."""
        self.write_eof()
        if self._tcp is not None:
            self._tcp.close()

    def abort(self) -> None:
        """Drop the socket at once."""
        if self._tcp is not None:
            self._tcp.abort()

    def is_closing(self) -> bool:
        """Whether the socket is closed or about to be."""
        return self._tcp is None or self._tcp.is_closing()

    def pause_reading(self) -> None:
        """Read nothing more."""
        if self._tcp is not None:
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._tcp is not None:
            self._tcp.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Return how many encrypted bytes wait."""
        return 0 if self._tcp is None else self._tcp.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say from when on the client counts as one that does not read."""
        if self._tcp is not None:
            self._tcp.set_write_buffer_limits(high=high, low=low)

    def get_extra_info(self, name: str, default: object = None) -> Any:
        """Return what the TCP transport says."""
        return default if self._tcp is None else self._tcp.get_extra_info(name, default)

    # --- TLS ---

    def _shake_hands(self) -> None:
        """Go on with the handshake as far as the client's bytes allow."""
        self._waits = False
        if self._tcp is None or self.is_closing():
            return
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            self.resume_reading()
            return
        except ssl.SSLError:  # not TLS, or nothing that both ends know: the alert says which
            self._send()
            self._tcp.close()
            return
        self._send()
        connection = self._connection = Connection(self._listener)
        self._listener.forget_tls(self)
        connection.connection_made(self)
        self.resume_reading()
        self._decrypt(connection)

    def _decrypt(self, connection: Connection) -> None:
        """Hand what is complete to the connection."""
        if self._ended:
            self._received.read()
            return
        try:
            while self._may_receive:
                data = self._tls.read(DECRYPTED_BYTES)
                if not data:  # the client has said that nothing more comes
                    connection.eof_received()
                    self.close()
                    return
                connection.receive_data(data)
        except ssl.SSLWantReadError:
            self._send()
        except ssl.SSLError:
            self._send()
            self.abort()

    @property
    def _may_receive(self) -> bool:
        return not self._ended and not self.is_closing()

    def _send(self) -> None:
        if self._to_send.pending and self._tcp is not None:
            self._tcp.write(self._to_send.read())
