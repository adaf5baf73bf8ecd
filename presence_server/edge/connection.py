"""One client's socket: bytes in, frames out. The only place that writes to a transport.

Around the Sans-I/O `ServerProtocol` there is no task for a connection: what comes in is handled in the callback that
brings it or, where this turn of the loop has no time left, in a later one, and nothing more is read meanwhile. A client
that does not read is not read from.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import structlog
from websockets.frames import CLOSE, CONT, PING, PONG, TEXT, Frame
from websockets.http11 import Request, Response
from websockets.protocol import CONNECTING, OPEN, SEND_EOF, Event
from websockets.typing import BytesLike

from presence_server.auth.identity import Identity
from presence_server.edge.assembly import Assembly
from presence_server.edge.handshake import HandshakeError, check_lists, read_offer, split_target
from presence_server.edge.opening import Opening, note_refusal
from presence_server.edge.pending import EXEMPT
from presence_server.edge.proxy_protocol import ProxyHeaderError, read_proxy_header
from presence_server.edge.turns import Queue
from presence_server.errors import RequestError
from presence_server.logs import FloodLog
from presence_server.protocol import codes
from presence_server.protocol.codec import Codec
from presence_server.protocol.codes import CloseCode, Ending
from presence_server.throttle.address import Address, parse_address

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

    from presence_server.edge.frames import FrameEncoding
    from presence_server.edge.listener import Listener
    from presence_server.hub.outbox import Outbox
    from presence_server.session.session import Session

SPENT_BYTES_MAX: Final = 65_536
"""What is read of a client after the server's close frame."""
SLICE_BYTES: Final = 1_024
"""Parsed at a time: the shortest frames that fit take about a millisecond to parse."""
HEAD_BYTES_MAX: Final = 16_384
"""The longest request, with its line and all its headers."""
HEAD_REFUSED: Final = -1

MALFORMED: Final = HandshakeError(400, "this is not an HTTP/1.1 request")
HEAD_TOO_LONG: Final = HandshakeError(431, f"the request is longer than {HEAD_BYTES_MAX} bytes")

log = structlog.get_logger()
_not_proxied = FloodLog(__name__, "a trusted proxy does not speak the PROXY protocol", "warning")


class Connection(asyncio.BufferedProtocol):
    """A socket on the client port, from its first byte to its last."""

    __slots__ = (
        "_address",
        "_assembly",
        "_congested",
        "_encoding",
        "_head_bytes",
        "_held",
        "_lease",
        "_listener",
        "_opening",
        "_outbox",
        "_protocol",
        "_proxy_header",
        "_session",
        "_spent_bytes",
        "_transport",
        "_waits",
        "arrived_s",
        "key",
        "place",
        "unanswered_since_ms",
    )

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._protocol: ServerProtocol = listener.new_protocol()
        self._opening: Opening | None = None
        """Its handshake, while others are asked about it; nothing is read meanwhile."""
        self._session: Session | None = None
        self._encoding: FrameEncoding | None = None
        self._outbox: Outbox | None = None
        self._assembly: Assembly | None = None
        self._address: Address | None = None
        self._proxy_header: bytes | None = None
        """The beginning of what a trusted proxy says first; None: it says nothing, or has said it."""
        self._congested = False
        self._lease = ""
        """The place that this connection takes among those of its address."""
        self._held: deque[bytes | Event] | None = None
        """What has come in and must wait; None: nothing, and more is read."""
        self._waits = False
        """Whether it waits for its turn to read on."""
        self._head_bytes = 0
        """How much of its request has come."""
        self._spent_bytes: int | None = None
        """How much has come since the close frame was sent; None: it has not been."""
        self.key = EXEMPT
        """What it is counted as while its handshake is not done."""
        self.arrived_s = 0.0
        """When it came, by the loop's clock."""
        self.place = -1
        """Where on the ping wheel; -1: it is not."""
        self.unanswered_since_ms: int | None = None
        """When the first ping was sent that nothing has come after."""

    # --- called by the transport ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake's time."""
        self._transport = cast("asyncio.Transport", transport)
        listener = self._listener
        self._address, self.key = listener.peer(transport)
        if self.key == EXEMPT and listener.gate.proxied:
            self._proxy_header = b""
        listener.arrived(self, self._transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the transport puts what it reads: one place for all connections, since it is taken at once."""
        del sizehint
        return self._listener.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come in."""
        self.receive(bytes(self._listener.read_buffer[:nbytes]))

    def receive(self, data: bytes) -> None:
        """Read, or keep what has come in until it is this connection's turn."""
        self.unanswered_since_ms = None
        listener = self._listener
        listener.bytes_in += len(data)
        if self._proxy_header is not None:
            data = self._take_proxy_header(self._proxy_header + data)
        if self._spent_bytes is not None and not self._may_spend(len(data)):
            return
        if not data or self._head_bytes == HEAD_REFUSED:
            return
        if self._held is not None:
            self._held.extend(_slices(data))
        elif not listener.turns.may_begin(self._queue):
            self._hold(_slices(data))
            self._wait(self._queue)
        elif len(data) <= SLICE_BYTES:
            self._guarded(self._read, data)
        else:
            self._hold(_slices(data))
            self._guarded(self._read_on)

    def _may_spend(self, size: int) -> bool:
        """Tell whether to look for the client's close frame in what comes after the server's own.

        A client that sends much more than it had under way is not read from any more, until its time is over.
        """
        self._spent_bytes = (self._spent_bytes or 0) + size
        if self._spent_bytes > SPENT_BYTES_MAX and self._transport is not None:
            self._transport.pause_reading()
        return self._spent_bytes <= SPENT_BYTES_MAX

    def _take_proxy_header(self, data: bytes) -> bytes:
        """Take what a trusted proxy says of its client, and return what follows it."""
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
            self._address = parse_address(header.source)
            self._listener.renamed(self, self._address)
        return data[header.size :]

    def eof_received(self) -> None:
        """Let the transport close: the client sends nothing more."""
        if not self._held:
            self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything: the socket is gone."""
        del exc
        self._transport = None
        self._opening = None
        self._end(Ending.LOST)
        self._break_cycles()
        self._held = None
        lease, self._lease = self._lease, ""
        self._listener.gate.leave(lease)
        self._listener.gone(self)

    def _break_cycles(self) -> None:
        """Let reference counts free the protocol: its generator and what it has raised lead back to it."""
        protocol = self._protocol
        protocol.parser.close()
        protocol.parser_exc = protocol.handshake_exc = None

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read."""
        self._congested = True
        if self._outbox is not None:
            self._outbox.fell_behind()
            self._hold([])

    def resume_writing(self) -> None:
        """Let the outbox say whether more may be read."""
        self._congested = False
        if self._outbox is not None:
            self._outbox.drained()

    # --- called by the hub, the session and the listener ---

    @property
    def congested(self) -> bool:
        """Whether the transport keeps more than the soft limit."""
        return self._congested

    @property
    def unsent_bytes(self) -> int:
        """How much the transport keeps."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def resume_reading(self) -> None:
        """Take up reading where it stopped."""
        if self._held is not None:
            self._wait(Queue.BUSY)

    def write(self, data: bytes) -> None:
        """Write now; the transport keeps what the socket does not take."""
        if self._transport is not None:
            self._listener.bytes_out += len(data)
            self._transport.write(data)

    def close(self, code: CloseCode, reconnect_ms: int | None = None) -> None:
        """Say `bye` and close; the memberships end as the code says."""
        if self._session is not None:
            self._session.say_bye(code, reconnect_ms)
            self._end(codes.ending(code.code), code.code)
            if self._protocol.state is OPEN:
                self._protocol.send_close(code.code, code.reason)
            self._write_protocol()
            self._listener.closing(self)

    def ping(self, now_ms: int) -> bool:
        """Ask for a sign of life; return whether one is awaited from now on."""
        if self._session is None or self._held is not None:
            return False
        first = self.unanswered_since_ms is None
        if first:
            self.unanswered_since_ms = now_ms
        self._protocol.send_ping(b"")
        self._write_protocol()
        self._session.renew()
        return first

    def judge(self) -> None:
        """Close if nothing has come since the ping, unless the answer may be among what is not read yet."""
        if self.unanswered_since_ms is not None and self._held is None:
            self.close(codes.NO_PONG)

    def trickled(self) -> None:
        """Close if a message takes too long, unless the rest may be among what is not read yet."""
        if self._held is None:
            self.close(codes.ABUSE)

    def abort(self) -> None:
        """Drop the socket at once."""
        self._end(Ending.LOST)
        if self._transport is not None:
            self._transport.abort()

    # --- reading ---

    def _guarded(self, work: Callable[..., None], *args: object) -> None:
        """Do some reading; a fault in it ends this connection and no other."""
        try:
            work(*args)
        except Exception:
            log.exception("connection failed", cid="" if self._session is None else self._session.cid)
            self.abort()

    @property
    def _queue(self) -> Queue:
        return Queue.NEWCOMERS if self._session is None else Queue.FRESH

    def _wait(self, queue: Queue) -> None:
        """Read on when it is this connection's turn."""
        if not self._waits:
            self._waits = True
            if queue is Queue.NEWCOMERS:
                self._listener.turns.wait(queue, self.key, partial(self._guarded, self._read_on))
                self._listener.is_waiting(self)
            else:
                self._listener.turns.wait(queue, "", partial(self._guarded, self._read_on))

    def proceed(self, step: Callable[..., None], *args: object) -> None:
        """Take the next step of the handshake, now if this turn has time left."""
        turns = self._listener.turns
        if self._transport is None:
            return
        if not turns.slice_over or turns.may_begin(Queue.NEWCOMERS):
            self._guarded(step, *args)
        else:
            turns.wait(Queue.NEWCOMERS, self.key, partial(self._step, step, *args))

    def _step(self, step: Callable[..., None], *args: object) -> None:
        if self._transport is not None:
            self._guarded(step, *args)

    def _read(self, data: bytes) -> None:
        """Parse and handle what fits one slice of the turn."""
        events = self._parse(data)
        turns = self._listener.turns
        for number, event in enumerate(events):
            if self._held is None and (self._is_blocked() or (number and turns.slice_over)):
                self._hold([])
                self._wait(Queue.BUSY)
            if self._held is not None:
                self._held.append(event)
            elif isinstance(event, bytes):
                self._read(event)
            else:
                self._take(event)
        self._note_progress(completed=bool(events))
        self._write_protocol()
        if self._held is None and self._is_blocked():
            self._hold([])

    def _read_on(self) -> None:
        """Handle what was held for one slice of the turn, and read on when nothing is left."""
        self._waits = False
        held = self._held
        if held is None or self._transport is None or self._is_blocked():
            return
        turns = self._listener.turns
        taken = parsed = 0
        while held and not self._is_blocked() and not (taken + parsed and turns.slice_over):
            item = held.popleft()
            if isinstance(item, bytes):
                parsed += 1
                held.extendleft(reversed(self._parse(item)))
            else:
                taken += 1
                self._take(item)
        if taken or parsed:
            self._note_progress(completed=taken > 0)
        if self._is_blocked():
            return
        if held:
            self._hold(held)  # again, where the session has ended: its close frame may be among the rest
            self._wait(Queue.BUSY if self._session is not None else Queue.NEWCOMERS)
        else:
            self._release()
            self._listener.is_pending(self)
            self._write_protocol()

    def _is_blocked(self) -> bool:
        """Whether nothing may be read until something else has happened, which then reads on."""
        return self._opening is not None or (self._outbox is not None and self._outbox.behind)

    def _parse(self, data: bytes) -> list[bytes | Event]:
        """Return what `data` completes; after a request also the bytes that wait for its answer."""
        if self._protocol.state is CONNECTING and not self._protocol.eof_sent:
            return self._parse_request(data)
        self._protocol.receive_data(data)
        return [*self._protocol.events_received()]

    def _parse_request(self, data: bytes) -> list[bytes | Event]:
        """Feed a request line by line: the protocol would take what comes after it for frames at once."""
        start = 0
        while start < len(data):
            if self._head_bytes == HEAD_REFUSED:
                return []
            end = data.find(b"\n", start) + 1 or len(data)
            self._head_bytes += end - start
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse_head()
                return []
            self._protocol.receive_data(data[start:end])
            events = self._protocol.events_received()
            if events:
                return [*events, data[end:]] if end < len(data) else [*events]
            start = end
        return []

    def _refuse_head(self) -> None:
        """Answer a request that is too long, and take nothing more of it."""
        self._head_bytes = HEAD_REFUSED
        listener = self._listener
        listener.requested(self)
        listener.answered(self)
        listener.handshakes[HEAD_TOO_LONG.status] += 1
        self._put([HEAD_TOO_LONG.response().serialize(), SEND_EOF])

    def _note_progress(self, *, completed: bool) -> None:
        """Time a message that has begun, and stop when there is none."""
        if self._session is None:
            return
        if not completed or (self._assembly is not None and self._assembly.incomplete):
            self._listener.trickling.start(self, self._listener.clock.now_ms())
        elif self._listener.trickling:
            self._listener.trickling.stop(self)

    def _hold(self, items: Iterable[bytes | Event]) -> None:
        """Stop reading, and keep what has come in."""
        if self._held is None and self._transport is not None:
            self._held = deque(items)
            self._transport.pause_reading()

    def _release(self) -> None:
        """Read again."""
        if self._held is not None:
            self._held = None
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()

    def _take(self, event: Event) -> None:
        """Handle one request or frame."""
        if isinstance(event, Request):
            self._answer(event)
        elif self._session is None or not isinstance(event, Frame) or event.opcode is CLOSE:
            return
        elif event.opcode is PING or event.opcode is PONG or (event.opcode is CONT and not event.data):
            self._take_idle(event)
        elif event.fin and event.opcode is not CONT:
            self._take_message(event.data, is_text=event.opcode is TEXT)
        else:
            self._take_fragment(event)

    def _take_idle(self, frame: Frame) -> None:
        """Count a frame that brings nothing: a flood of them is abuse."""
        if self._assembly is None:
            self._assembly = Assembly()
        if self._assembly.floods(self._listener.clock.now_ms()):
            self.close(codes.ABUSE)
        elif frame.opcode is CONT:
            self._take_fragment(frame)

    def _take_fragment(self, frame: Frame) -> None:
        if self._assembly is None:
            self._assembly = Assembly()
        message = self._assembly.add(frame)
        if self._assembly.crumbles(self._listener.clock.now_ms()):
            self.close(codes.ABUSE)
        elif message is not None:
            payload, is_text = message
            self._take_message(payload, is_text=is_text)

    def _take_message(self, payload: BytesLike, *, is_text: bool) -> None:
        session, encoding = self._session, self._encoding
        if session is None or encoding is None:
            return
        codec = encoding.codec
        if is_text is not codec.is_text:
            self.close(codes.UNSUPPORTED)
            return
        if is_text:
            try:
                str(payload, "utf-8")
            except UnicodeDecodeError:
                self.close(codes.INVALID_DATA)
                return
        try:
            message = codec.decode(bytes(payload), self._listener.message_items)
        except RequestError as error:
            session.refuse_unread(error)
        else:
            session.receive(message)

    # --- the handshake ---

    def _answer(self, request: Request) -> None:
        """Answer a request: with a page, a refusal, or an upgrade."""
        self._listener.requested(self)
        try:
            if split_target(request)[0] == "/ws":
                self._upgrade(request)
            else:
                self._respond(self._listener.pages.answer(request))
        except HandshakeError as error:
            self.refused(error)

    def _upgrade(self, request: Request) -> None:
        try:
            response = self._accept(request)
            offer = read_offer(request)
        except HandshakeError as error:
            note_refusal(error, self._address)
            raise
        self._hold([])
        self._opening = Opening(self, self._listener, response)
        self._opening.begin(request, offer, self._address)

    def _accept(self, request: Request) -> Response:
        """Return the upgrade that the request asks for. Raises `HandshakeError`."""
        check_lists(request)
        response = self._protocol.accept(request)
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            return response
        detail = response.body.decode().strip()
        kept = [(name, value) for name, value in response.headers.raw_items() if name in {"Allow", "Upgrade"}]
        # Of a header that cannot be read the detail repeats a part.
        malformed = "a header of the WebSocket handshake cannot be read"
        logged = malformed if response.status_code == HTTPStatus.BAD_REQUEST else detail.partition("\n")[0]
        raise HandshakeError(response.status_code, detail, kept, logged=logged)

    def take_lease(self, lease: str) -> bool:
        """Keep the place that this connection has among those of its address; False: it is gone already."""
        if self._transport is None:
            self._listener.gate.leave(lease)
            return False
        self._lease = lease
        return True

    def refused(self, error: HandshakeError) -> None:
        """Answer with a refusal."""
        self._listener.handshakes[error.status] += 1
        self._opening = None
        self._respond(error.response())
        self._release()

    def refused_openly(self, response: Response, codec: Codec, error: HandshakeError) -> None:
        """Let a client in that cannot read a status, tell it why it may not stay, and nothing else."""
        self._listener.handshakes[error.status] += 1
        self._opening = None
        self._respond(response)
        self.write(self._listener.encodings.of(codec, self._protocol).encode(error.bye()))
        self._protocol.send_close(error.close.code, error.close.reason)
        self._write_protocol()
        self._listener.closing(self)
        self._release()

    def opened(self, response: Response, codec: Codec, identity: Identity, resume: str | None) -> None:
        """Answer with the upgrade, and begin the conversation when the store has been asked if it must."""
        listener = self._listener
        listener.handshakes[response.status_code] += 1
        self._respond(response)
        self._encoding = listener.encodings.of(codec, self._protocol)
        self._outbox = listener.hub.outbox(self._encoding, self)
        listener.directory.open(identity, resume, self._outbox, self._welcomed)

    def _welcomed(self, session: "Session") -> None:
        """Read on, with what the client has sent meanwhile."""
        self._opening = None
        if self._transport is None:
            session.end(Ending.LOST)
            return
        self._session = session
        self._listener.opened(self)
        if self._held:
            self._wait(Queue.FRESH)
        else:
            self._release()

    def _respond(self, response: Response) -> None:
        self._listener.answered(self)
        self._protocol.send_response(response)
        self._write_protocol()

    # --- writing and ending ---

    def _write_protocol(self) -> None:
        """Write what the WebSocket protocol itself has to say: pongs, pings, the close frame, the end."""
        protocol, transport = self._protocol, self._transport
        if protocol.close_sent is not None and self._session is not None:
            if self._held:
                return  # what came before the close frame is done first
            self._end_by_protocol()
        data = protocol.data_to_send()
        if not data or transport is None or transport.is_closing():
            return
        if protocol.handshake_exc is not None and not protocol.accept_called:
            data = [MALFORMED.response().serialize(), SEND_EOF]
        if self._spent_bytes is not None:
            data = [chunk for chunk in data if not chunk]  # nothing follows a close frame, no pong either
        elif protocol.close_sent is not None:
            self._spent_bytes = 0
        self._put(data)

    def _put(self, data: Iterable[bytes]) -> None:
        """Write chunks, and the end of what is written."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        for chunk in data:
            if chunk is not SEND_EOF and chunk:
                transport.write(chunk)
            elif transport.can_write_eof():
                transport.write_eof()
                self._listener.closing(self)
            else:
                transport.close()

    def _end_by_protocol(self) -> None:
        """End a session whose close frame the protocol has written: the client closed, or broke the rules."""
        protocol = self._protocol
        if protocol.close_rcvd is not None and protocol.close_sent is protocol.close_rcvd:
            self._end(codes.ending_by_client(protocol.close_rcvd.code), protocol.close_rcvd.code)
        elif self._session is not None and protocol.close_sent is not None:
            failure = codes.CLOSE_CODES.get(protocol.close_sent.code, codes.PROTOCOL_ERROR)
            self._session.say_bye(failure)
            self._end(failure.ending, failure.code)

    def _end(self, how: Ending, code: int = codes.ABNORMAL.code) -> None:
        """End the conversation: what was gathered is written, and nothing more."""
        session, self._session = self._session, None
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.flush()
            outbox.close()
        if session is not None:
            session.end(how)
            self._listener.closes[codes.label(code)] += 1
            self._listener.ended(self)
        self._release()


def _slices(data: bytes) -> list[bytes]:
    """Cut what was read into what is parsed at a time."""
    return [data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES)]
