"""One client's socket: bytes in, frames out. The only place that writes to a transport.

Around the Sans-I/O `ServerProtocol` there is no task and no queue for a connection: what comes in is
handled in the callback that brings it. A client that does not read is not read from, and one that sends much
at once is heard in turns with the others.
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

from presence_server.auth.identity import Identity, IdentityError
from presence_server.edge.assembly import Assembly
from presence_server.edge.handshake import HandshakeError, Upgrade, read_upgrade, split_target
from presence_server.edge.proxy_protocol import ProxyHeaderError, read_proxy_header
from presence_server.errors import RequestError
from presence_server.protocol import codes
from presence_server.protocol.codes import CloseCode, Ending
from presence_server.protocol.messages import Bye
from presence_server.throttle.address import Address, parse_address

if TYPE_CHECKING:
    from websockets.server import ServerProtocol

    from presence_server.edge.frames import FrameEncoding
    from presence_server.edge.listener import Listener
    from presence_server.hub.outbox import Outbox
    from presence_server.session.session import Session

SLICE_BYTES: Final = 4_096
"""Read and parsed at a time; the rest of a larger read waits as it came."""
TURN_FRAMES: Final = 64
"""Frames of one connection handled before others have their turn and replies are written."""

MALFORMED: Final = HandshakeError(400, "this is not an HTTP/1.1 request")

log = structlog.get_logger()


class Connection(asyncio.Protocol):
    """A socket on the client port, from its first byte to its last."""

    __slots__ = (
        "_address",
        "_assembly",
        "_congested",
        "_encoding",
        "_held",
        "_lease",
        "_listener",
        "_outbox",
        "_protocol",
        "_proxy_header",
        "_session",
        "_transport",
        "arrived_s",
        "place",
        "unanswered_since_ms",
    )

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._protocol: ServerProtocol = listener.new_protocol()
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
        peer = transport.get_extra_info("peername")
        gate = self._listener.gate
        self._address = parse_address(peer[0]) if isinstance(peer, tuple) and peer else None
        if gate.proxied and self._address is not None and gate.addresses.trusts(self._address):
            self._proxy_header = b""
        self._listener.arrived(self, self._transport)

    def data_received(self, data: bytes) -> None:
        """Take what has come in."""
        self.unanswered_since_ms = None
        self._listener.bytes_in += len(data)
        if self._proxy_header is not None:
            data = self._take_proxy_header(self._proxy_header + data)
        if self._held is None and len(data) <= SLICE_BYTES:
            self._guarded(self._read, data)
        elif self._held is None:
            self._hold([data])
            self._guarded(self._read_on)
        else:
            self._held.append(data)

    def _take_proxy_header(self, data: bytes) -> bytes:
        """Take what a trusted proxy says of its client, and return what follows it."""
        try:
            header = read_proxy_header(data)
        except ProxyHeaderError as exc:
            log.warning("a trusted proxy does not speak the PROXY protocol", error=str(exc))
            self.abort()
            return b""
        if header is None:
            self._proxy_header = data
            return b""
        self._proxy_header = None
        if header.source is not None:
            self._address = parse_address(header.source)
        return data[header.size :]

    def eof_received(self) -> None:
        """Let the transport close: the client sends nothing more."""
        self._protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything: the socket is gone."""
        del exc
        self._transport = None
        self._end(Ending.LOST)
        self._held = None
        lease, self._lease = self._lease, ""
        self._listener.gate.leave(lease)
        self._listener.gone(self)

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
        self._listener.call_soon(self._guarded, self._read_on)

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

    def _read(self, data: bytes) -> None:
        """Parse and handle what fits one turn."""
        events = self._parse(data)
        if len(events) > TURN_FRAMES:
            self._hold(events)
            self._read_on()
            return
        for event in events:
            if self._held is None and self._is_blocked():
                self._hold([])
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
        """Handle one turn of what was held, and read on when nothing is left."""
        held = self._held
        if held is None or self._transport is None:
            return
        if self._is_blocked():
            return
        turn = TURN_FRAMES
        while held and turn > 0 and not self._is_blocked():
            item = held.popleft()
            if isinstance(item, bytes):
                if len(item) > SLICE_BYTES:
                    held.appendleft(item[SLICE_BYTES:])
                held.extendleft(reversed(self._parse(item[:SLICE_BYTES])))
            else:
                turn -= 1
                self._take(item)
        self._note_progress(completed=turn < TURN_FRAMES)
        if self._is_blocked():
            return
        if held:
            self._listener.call_soon(self._guarded, self._read_on)
        else:
            self._release()
            self._write_protocol()

    def _is_blocked(self) -> bool:
        """Whether nothing may be read until something else has happened, which then reads on."""
        return self._outbox is not None and (self._outbox.behind or self._session is None)

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
            end = data.find(b"\n", start) + 1 or len(data)
            self._protocol.receive_data(data[start:end])
            events = self._protocol.events_received()
            if events:
                return [*events, data[end:]] if end < len(data) else [*events]
            start = end
        return []

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
        self._listener.answered(self)
        try:
            if split_target(request)[0] == "/ws":
                self._upgrade(request)
            else:
                self._respond(self._listener.pages.answer(request), handshake=False)
        except HandshakeError as refusal:
            self._respond(refusal.response())

    def _respond(self, response: Response, *, handshake: bool = True) -> None:
        if handshake:
            self._listener.handshakes[response.status_code] += 1
        self._protocol.send_response(response)
        self._write_protocol()

    def _upgrade(self, request: Request) -> None:
        listener = self._listener
        response = self._protocol.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            kept = [
                (name, value) for name, value in response.headers.raw_items() if name in {"Allow", "Upgrade"}
            ]
            raise HandshakeError(response.status_code, response.body.decode().strip(), kept)
        upgrade = read_upgrade(request, listener.origins, same_origin=listener.same_origin)
        listener.check_room_for_one()
        self._hold([])
        self._address = self._client(request)
        listener.gate.admit(
            self._address,
            resumes=listener.directory.resumes(upgrade.resume),
            done=partial(self._admitted, response, upgrade),
        )

    def _client(self, request: Request) -> Address | None:
        """Return the address of the client, which may be behind proxies."""
        addresses = self._listener.gate.addresses
        if self._address is None:
            return None
        return addresses.client(str(self._address), request.headers.get_all(addresses.header))

    def _admitted(
        self, response: Response, upgrade: Upgrade, refusal: HandshakeError | None, lease: str
    ) -> None:
        """Go on with a handshake that the limiter has decided about."""
        if self._transport is None:
            self._listener.gate.leave(lease)
            return
        self._lease = lease
        try:
            if refusal is not None:
                self._refuse(response, upgrade, refusal)
            else:
                self._accept(response, upgrade)
        except HandshakeError as error:
            self._respond(error.response())
            self._release()

    def _refuse(self, response: Response, upgrade: Upgrade, refusal: HandshakeError) -> None:
        """Refuse a client that came too often: with a status, or so that a browser can read it."""
        listener = self._listener
        if not listener.gate.closes:
            raise refusal
        self._respond(self._named(response, upgrade))
        encoding = listener.encodings.of(upgrade.codec, self._protocol)
        code = codes.THROTTLED
        self.write(encoding.encode(Bye(code.code, code.reason)))
        self._protocol.send_close(code.code, code.reason)
        self._write_protocol()
        listener.closing(self)
        self._release()

    @staticmethod
    def _named(response: Response, upgrade: Upgrade) -> Response:
        if upgrade.subprotocol is not None:
            response.headers["Sec-WebSocket-Protocol"] = upgrade.subprotocol
        return response

    def _accept(self, response: Response, upgrade: Upgrade) -> None:
        done = partial(self._identified, response, upgrade)
        self._listener.authenticator.identify(upgrade.credentials, done)

    def _identified(self, response: Response, upgrade: Upgrade, identity: Identity | IdentityError) -> None:
        """Go on with a handshake whose credentials have been checked."""
        if self._transport is None:
            return
        try:
            self._open(response, upgrade, self._listener.welcome(identity))
        except HandshakeError as error:
            log.info(
                "handshake refused", status=error.status, reason=error.detail, address=str(self._address)
            )
            self._respond(error.response())
            self._release()

    def _open(self, response: Response, upgrade: Upgrade, identity: Identity) -> None:
        listener = self._listener
        self._respond(self._named(response, upgrade))
        self._encoding = listener.encodings.of(upgrade.codec, self._protocol)
        self._outbox = listener.hub.outbox(self._encoding, self)
        listener.directory.open(identity, upgrade.resume, self._outbox, self._opened)

    def _opened(self, session: "Session") -> None:
        """Begin the conversation, with what the client has sent meanwhile."""
        if self._transport is None:
            session.end(Ending.LOST)
            return
        self._session = session
        self._listener.opened(self)
        if self._held:
            self._listener.call_soon(self._guarded, self._read_on)
        else:
            self._release()

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
