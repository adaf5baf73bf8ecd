"""Frames, read as websockets reads them, whatever comes and in whatever pieces."""

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from presence_server.edge.frame_reader import FrameReader
from tests.support.rawclient import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame

MESSAGE_BYTES_MAX = 1_000
PAYLOADS = st.one_of(
    st.binary(max_size=8),
    st.sampled_from([0, 125, 126, 127, MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX + 1, 65_535, 65_536]).map(bytes),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Return frames, most of them as clients send them, with a few bytes changed now and then."""
    plain = st.builds(frame, st.sampled_from([TEXT, BINARY, PING, PONG]), PAYLOADS)
    odd = st.builds(
        frame,
        st.sampled_from([TEXT, BINARY, CONT, PING, PONG, CLOSE, 3, 11]),
        PAYLOADS,
        fin=st.booleans(),
        masked=st.sampled_from([True, True, True, False]),
        rsv=st.sampled_from([0, 0, 0, 4, 1]),
    )
    stream = bytearray(b"".join(draw(st.lists(st.one_of(plain, plain, odd), max_size=6))))
    if stream and draw(st.booleans()):
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))
    return bytes(stream)


def protocol() -> ServerProtocol:
    return ServerProtocol(state=OPEN, max_size=MESSAGE_BYTES_MAX)


def seen(frames: Sequence[object]) -> list[tuple[int, bytes, bool]]:
    return [(each.opcode, bytes(each.data), each.fin) for each in frames if isinstance(each, Frame)]


@given(streams(), st.lists(st.integers(1, 300), max_size=8), st.booleans())
@example(frame(TEXT, b"{}", masked=True), [1, 1, 1, 1, 1, 1, 1], False)
@example(frame(TEXT, bytes(126)) + frame(PING, b"hello"), [3, 1, 1, 1], True)
def test_frames_are_read_as_the_library_reads_them(stream: bytes, pieces: list[int], closes: bool) -> None:
    reader, library = FrameReader(protocol, MESSAGE_BYTES_MAX), protocol()
    start = 0
    for size in (*pieces, len(stream)):
        piece = stream[start : start + size]
        library.receive_data(piece)
        assert seen(reader.read(piece)) == seen(library.events_received())
        assert b"".join(reader.data_to_send()) == b"".join(library.data_to_send())
        start += size
    if closes:
        reader.close(1000, "bye")
        if library.state is OPEN:
            library.send_close(1000, "bye")
        assert b"".join(reader.data_to_send()) == b"".join(library.data_to_send())
    assert reader.close_sent is (library.close_sent is not None)
    if reader.protocol is not None:
        assert (reader.protocol.close_rcvd, reader.protocol.close_sent) == (
            library.close_rcvd,
            library.close_sent,
        )


def test_plain_frames_need_no_library() -> None:
    reader = FrameReader(protocol, MESSAGE_BYTES_MAX)
    plain = [(TEXT, b"{}"), (BINARY, b""), (PING, b"x" * 125), (PONG, b""), (TEXT, bytes(MESSAGE_BYTES_MAX))]
    assert seen(reader.read(b"".join(frame(*each) for each in plain))) == [(*each, True) for each in plain]
    assert reader.protocol is None


def test_a_ping_is_what_the_library_sends() -> None:
    reader, library = FrameReader(protocol, MESSAGE_BYTES_MAX), protocol()
    for _ in range(2):
        reader.ping()
        library.send_ping(b"")
        assert [*reader.data_to_send()] == library.data_to_send()
        reader.start_protocol()
