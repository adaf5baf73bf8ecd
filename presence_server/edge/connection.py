"""One client's socket, from its first byte to its last. The only place that writes to a transport.

There is no task for a connection. Its parts each have one job: `Reader` decides when what comes in is parsed, `Upgrade`
is its handshake, `FrameReader` reads its frames, `FrameDispatch` gives them to its session; this module has the
transport, what is written to it, and the end.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from websockets.frames import CLOSE, Frame
from websockets.http11 import Response
from websockets.protocol import SEND_EOF

from presence_server.auth.identity import Identity
from presence_server.edge.frame_dispatch import PROBE, FrameDispatch
from presence_server.edge.frame_reader import FrameReader
from presence_server.edge.negotiation import Acceptance
from presence_server.edge.pending import EXEMPT
from presence_server.edge.proxy_protocol import ProxyHeaderError, read_proxy_header
from presence_server.edge.reading import Item, Reader
from presence_server.edge.request_parser import Request
from presence_server.edge.turns import Queue
from presence_server.edge.upgrade import Stage, Upgrade
from presence_server.edge.upgrade_refusals import HandshakeError
from presence_server.edge.upgrade_request import SubprotocolOffer
from presence_server.logs import FloodLog
from presence_server.protocol import codes
from presence_server.protocol.codec import Codec
from presence_server.protocol.codes import CloseCode, Ending
from presence_server.throttle.address import Address, parse_address

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

    from presence_server.edge.listener import Listener
    from presence_server.hub.outbox import Outbox
    from presence_server.session.session import Session

SPENT_BYTES_MAX: Final = 65_536
"""The number of bytes read from a client after the server's close frame."""

_not_proxied = FloodLog(__name__, "a trusted proxy does not speak the PROXY protocol", "warning")


class Connection(asyncio.BufferedProtocol):
    """A socket on the client port."""

    __slots__ = (
        "_congested",
        "_dispatch",
        "_frames",
        "_has_written",
        "_lease",
        "_listener",
        "_outbox",
        "_proxy_header",
        "_spent_bytes",
        "_transport",
        "_upgrade",
        "address",
        "arrived_s",
        "key",
        "ping_slot",
        "reader",
        "unanswered_since_ms",
    )

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self.reader = Reader(self, listener.turns)
        self._upgrade: Upgrade | None = Upgrade(self, listener)
        """Its handshake; None: that is over, and the client was answered with an upgrade, or the socket is gone."""
        self._frames: FrameReader | None = None
        """The reader of its frames; None: it was not answered with an upgrade."""
        self._dispatch: FrameDispatch | None = None
        """The dispatcher of the client's frames; None: there is no session yet, or not any more."""
        self._outbox: Outbox | None = None
        self._has_written = False
        """Whether its outbox has been written for the first time: the answer to its request comes before all else."""
        self._congested = False
        self._lease = ""
        """The place that this connection takes among those of its address."""
        self._proxy_header: bytes | None = None
        """The beginning of a trusted proxy's PROXY header; None: there is none to come, or it is complete."""
        self._spent_bytes: int | None = None
        """The number of bytes received since the close frame was sent; None: it was not sent."""
        self.address: Address | None = None
        """The other end, as far as the transport and a PROXY header say."""
        self.key = EXEMPT
        """The key that the socket is counted under until its handshake is done."""
        self.arrived_s = 0.0
        """The time at which the socket was accepted, by the loop's clock."""
        self.ping_slot: int | None = None
        """The connection's slot on the ping wheel; None: it was never there."""
        self.unanswered_since_ms: int | None = None
        """The time of the first ping after which nothing was received."""

    # --- called by the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake's time."""
        self._transport = cast("asyncio.Transport", transport)
        listener = self._listener
        self.address, self.key = listener.peer(transport)
        if self.key == EXEMPT and listener.gate.proxied:
            self._proxy_header = b""
        listener.note_arrival(self, self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the transport puts what it reads: one place for all connections, since it is copied at once."""
        del sizehint
        return self._listener.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Copy what has come in."""
        self.receive_data(bytes(self._listener.read_buffer[:nbytes]))

    def receive_data(self, data: bytes) -> None:
        """Have what has come in read, unless it is of no interest any more."""
        self.unanswered_since_ms = None
        self._listener.bytes_in += len(data)
        if self._proxy_header is not None:
            data = self._strip_proxy_header(self._proxy_header + data)
        if self._spent_bytes is not None and not self._may_spend(len(data)):
            return
        if data and (self._upgrade is None or self._upgrade.stage is not Stage.REFUSED):
            self.reader.read_or_keep(data)

    def _may_spend(self, size: int) -> bool:
        """Tell whether to look for the client's close frame in what comes after the server's own.

        A client that sends much more than it had under way is not read from any more, until its time is over.
        """
        self._spent_bytes = (self._spent_bytes or 0) + size
        if self._spent_bytes > SPENT_BYTES_MAX and self._transport is not None:
            self._transport.pause_reading()
        return self._spent_bytes <= SPENT_BYTES_MAX

    def _strip_proxy_header(self, data: bytes) -> bytes:
        """Note what a trusted proxy says of its client, and return what follows it."""
        try:
            header = read_proxy_header(data)
        except ProxyHeaderError as exc:
            _not_proxied.note(error=str(exc))
            self.abort()
            return b""
        if header is None:
            self._proxy_header = data
            return b""
        self._proxy_header = None
        if header.source is not None:
            self.address = parse_address(header.source)
            self._listener.recount(self, self.address)
        return data[header.size :]

    def eof_received(self) -> None:
        """Let the transport close: the client sends nothing more."""
        if self._frames is not None and not self.reader.has_held:
            self._frames.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything: the socket is gone."""
        del exc
        self._transport = None
        self._end_session(Ending.LOST)
        self._break_cycles()
        lease, self._lease = self._lease, ""
        self._listener.gate.release_lease(lease)
        self._listener.forget_connection(self)

    def _break_cycles(self) -> None:
        """Let reference counts free the connection: its parts refer to it."""
        self.reader.stop_reading()
        self._upgrade = None
        if self._frames is not None:
            self._frames.stop()

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self._congested = True
        if self._outbox is not None:
            self._outbox.mark_behind()
            self.reader.pause()

    def resume_writing(self) -> None:
        """Let the outbox say whether more may be read."""
        self._congested = False
        if self._outbox is not None:
            self._outbox.check_drained()

    # --- called by the hub, the session and the listener ---

    @property
    def congested(self) -> bool:
        """Whether the transport keeps more than the soft limit."""
        return self._congested

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that the transport keeps."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def resume_reading(self) -> None:
        """Take up reading where it stopped."""
        self.reader.resume()

    def write(self, data: bytes) -> None:
        """Write now; the transport keeps what the socket does not take."""
        self._has_written = True
        if self._transport is not None:
            self._listener.bytes_out += len(data)
            self._transport.write(data)

    def close(self, code: CloseCode, reconnect_ms: int | None = None) -> None:
        """Say `bye` and close; the memberships end as the code says."""
        if self._dispatch is not None:
            self._dispatch.session.say_bye(code, reconnect_ms)
            self._end_session(codes.ending(code.code), code.code)
            if self._frames is not None:
                self._frames.close(code.code, code.reason)
            self.write_protocol()
            self._listener.note_closing(self)

    def ping(self, now_ms: int) -> bool:
        """Ask for a sign of life; return whether one is awaited from now on."""
        if self._dispatch is None or self._frames is None or self.reader.is_paused:
            return False
        first = self.unanswered_since_ms is None
        if first:
            self.unanswered_since_ms = now_ms
        self._frames.ping()
        self.write_protocol()
        self._dispatch.session.renew_token()
        return first

    def probe(self) -> None:
        """Ask the client for a pong that nothing but this ping can bring."""
        if self._dispatch is not None and self._frames is not None:
            self._frames.ping(PROBE)
            self.write_protocol()

    def close_unless_alive(self) -> None:
        """Close if nothing has come since the ping, unless the answer may be among what is not read yet."""
        if self.unanswered_since_ms is not None and not self.reader.is_paused:
            self.close(codes.NO_PONG)

    def close_trickling(self) -> None:
        """Close if a message takes too long, unless the rest may be among what is not read yet."""
        if not self.reader.is_paused:
            self.close(codes.ABUSE)

    def abort(self) -> None:
        """Drop the socket at once."""
        self._end_session(Ending.LOST)
        if self._transport is not None:
            self._transport.abort()

    # --- called by the reader ---

    @property
    def cid(self) -> str:
        """The connection id of its session; "": it has none."""
        return "" if self._dispatch is None else self._dispatch.session.cid

    @property
    def queue(self) -> Queue:
        """The queue of what its client has just sent."""
        return Queue.NEWCOMERS if self._dispatch is None else Queue.FRESH

    def is_blocked(self) -> bool:
        """Tell whether nothing may be handled: its handshake is asked about, or too much waits for it."""
        if self._outbox is not None and self._outbox.behind:
            return True
        return self._upgrade is not None and self._upgrade.stage is Stage.QUESTIONS

    def parse_data(self, data: bytes) -> Sequence[Item]:
        """Return what `data` completes: a request, then frames."""
        if self._upgrade is not None:
            return self._upgrade.parse_request(data)
        return () if self._frames is None else self._frames.read(data)

    def handle_event(self, item: Request | Frame) -> None:
        """Handle one request or frame."""
        if isinstance(item, Frame):
            if self._dispatch is not None and item.opcode is not CLOSE:
                code = self._dispatch.dispatch(item)
                if code is not None:
                    self.close(code)
        elif self._upgrade is not None:
            self._upgrade.answer_request(item)

    def end_slice(self, *, completed: bool) -> None:
        """Time a message that has begun, and stop when there is none."""
        if self._dispatch is None:
            return
        if not completed or self._dispatch.incomplete:
            self._listener.trickling.start(self, self._listener.clock.now_ms())
        elif self._listener.trickling:
            self._listener.trickling.stop(self)

    def pause_transport(self) -> None:
        """Have the transport read nothing more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_transport(self) -> None:
        """Have the transport read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def wait_for_turn(self) -> None:
        """Count a newcomer that waits for this node no longer as one that the node waits for."""
        self._listener.note_waiting(self)

    def wait_for_client(self) -> None:
        """Count it again as one that the node waits for, if it is still to say or to end something."""
        self._listener.note_pending(self)

    # --- called by the handshake ---

    def hold_lease(self, lease: str) -> bool:
        """Keep the place that this connection has among those of its address; False: it is gone already."""
        if self._transport is None:
            self._listener.gate.release_lease(lease)
            return False
        self._lease = lease
        return True

    def respond(self, response: Response) -> None:
        """Answer the request without an upgrade, and say nothing more."""
        self.write_chunks([response.serialize(), SEND_EOF])

    def refuse_after_upgrade(
        self, acceptance: Acceptance, offer: SubprotocolOffer, error: HandshakeError
    ) -> None:
        """Answer with an upgrade a client that is only to be told why it may not stay, and say `bye`."""
        self._upgrade = None
        frames = self._frames = self._new_frame_reader(acceptance)
        encoding = self._listener.encodings.of(offer.codec, acceptance.extensions)
        self.write(acceptance.answer(offer.subprotocol) + encoding.encode(error.bye()))
        frames.close(error.close.code, error.close.reason)
        self.write_protocol()
        self._listener.note_closing(self)
        self.reader.drop_kept()

    def open_session(
        self, acceptance: Acceptance, offer: SubprotocolOffer, identity: Identity, resume: str | None
    ) -> None:
        """Let the client in; nothing of it is read until it is welcomed.

        The answer is written together with the welcome, unless that has to wait for the store.
        """
        listener, codec = self._listener, offer.codec
        self._frames = self._new_frame_reader(acceptance)
        outbox = self._outbox = listener.hub.new_outbox(
            listener.encodings.of(codec, acceptance.extensions), self
        )
        outbox.append_bytes(acceptance.answer(offer.subprotocol))
        listener.directory.open_session(identity, resume, outbox, partial(self._begin_session, codec))
        if self._dispatch is None:
            outbox.flush()

    def _new_frame_reader(self, acceptance: Acceptance) -> FrameReader:
        reader = FrameReader(self._listener.new_protocol, self._listener.message_bytes)
        if acceptance.extensions:
            reader.start_protocol().extensions = list(acceptance.extensions)
        return reader

    def _begin_session(self, codec: Codec, session: "Session") -> None:
        """Read on, with what the client has sent meanwhile."""
        self._upgrade = None
        if self._transport is None:
            session.leave_all_rooms(Ending.LOST)
            return
        listener = self._listener
        self._dispatch = FrameDispatch(session, codec, listener.clock, listener.message_items)
        listener.note_session(self)
        self.reader.restart()

    # --- writing and ending ---

    def write_protocol(self) -> None:
        """Write what the WebSocket protocol itself has to say: pongs, pings, the close frame, the end."""
        frames, transport = self._frames, self._transport
        if frames is None:
            return
        if frames.protocol is not None and self._dispatch is not None and frames.close_sent:
            if self.reader.has_held:
                return  # what came before the close frame is done first
            self._end_by_protocol(frames.protocol)
        data = frames.data_to_send()
        if not data or transport is None or transport.is_closing():
            return
        if not self._has_written and self._outbox is not None:
            self._outbox.flush()
        if self._spent_bytes is not None:
            data = [chunk for chunk in data if not chunk]  # nothing follows a close frame, no pong either
        elif frames.close_sent:
            self._spent_bytes = 0
        self.write_chunks(data)

    def write_chunks(self, data: Iterable[bytes]) -> None:
        """Write chunks, and the end of what is written."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        for chunk in data:
            if chunk is not SEND_EOF and chunk:
                transport.write(chunk)
            elif transport.can_write_eof():
                transport.write_eof()
                self._listener.note_closing(self)
            else:
                transport.close()

    def _end_by_protocol(self, protocol: "ServerProtocol") -> None:
        """End a session whose close frame the protocol has written: the client closed, or broke the rules."""
        if protocol.close_rcvd is not None and protocol.close_sent is protocol.close_rcvd:
            self._end_session(codes.ending_by_client(protocol.close_rcvd.code), protocol.close_rcvd.code)
        elif self._dispatch is not None and protocol.close_sent is not None:
            failure = codes.CLOSE_CODES.get(protocol.close_sent.code, codes.PROTOCOL_ERROR)
            self._dispatch.session.say_bye(failure)
            self._end_session(failure.ending, failure.code)

    def _end_session(self, how: Ending, code: int = codes.ABNORMAL.code) -> None:
        """End the conversation: what was gathered is written, and nothing more."""
        dispatch, self._dispatch = self._dispatch, None
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.flush()
            outbox.detach_wire()
        if dispatch is not None:
            dispatch.session.leave_all_rooms(how)
            self._listener.closes[codes.label(code)] += 1
            self._listener.note_session_end(self)
        self.reader.drop_kept()
