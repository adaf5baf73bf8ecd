"""What a client's bytes may say, in both encodings, and that nothing else gets through."""

import json
import math
from time import process_time
from timeit import repeat
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from presence_server.errors import RequestError
from presence_server.protocol.codec import (
    CODECS,
    JSON,
    MSGPACK,
    Codec,
    check_document,
    document,
    has_more_items,
)
from presence_server.protocol.codes import ErrorCode
from presence_server.protocol.messages import (
    REQUEST_ID_MAX,
    ClientMessage,
    Join,
    Members,
    Ping,
    Publish,
    Published,
    SendSignal,
    Update,
)

NESTING_MAX = 32
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
codecs = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=["json", "msgpack"])


def written(codec: Codec, value: object) -> bytes:
    """Encode as a client does, with a library of its own."""
    if codec is JSON:
        return json.dumps(value, ensure_ascii=False).encode()
    packed = msgpack.packb(value)
    assert isinstance(packed, bytes)
    return packed


def read(codec: Codec, payload: bytes) -> Any:
    """Decode as a client does."""
    return json.loads(payload) if codec is JSON else msgpack.unpackb(payload)


def refusal(codec: Codec, payload: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        codec.decode(payload)
    assert caught.value.message
    return caught.value


def nested(depth: int, kind: str = "list") -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value] if kind == "list" else {"a": value}
    return value


def same(one: object, other: object) -> bool:
    """Whether two documents are equal, integers and floats and booleans told apart."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


# --- documents ---


@given(documents)
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
@example(2**64 - 1)
@example(-(2**63))
@example("\x00\x1f\u2028\U0001f469")
@example({"": {"\x00": []}})
def test_a_document_goes_through_both_encodings_unchanged(value: Any) -> None:
    for inward in (JSON, MSGPACK):
        message = inward.decode(written(inward, {"t": "publish", "room": "a", "data": value}))
        assert isinstance(message, Publish)
        for outward in (JSON, MSGPACK):
            sent = outward.encode(Published("a", "c", "u", message.data, 1))
            assert same(read(outward, sent)["data"], value)


@given(st.dictionaries(texts, documents, max_size=4))
def test_a_state_goes_through_both_encodings_unchanged(state: dict[str, Any]) -> None:
    for codec in (JSON, MSGPACK):
        for kind, expected in (("join", Join), ("update", Update)):
            message = codec.decode(written(codec, {"t": kind, "room": "a", "state": state}))
            assert isinstance(message, expected)
            frozen: Any = message.state
            assert same(json.loads(bytes(frozen)), state)


@given(documents)
def test_a_plain_value_frozen_as_a_document_is_its_json_text(value: Any) -> None:
    assert same(json.loads(bytes(document(value))), value)


@pytest.mark.parametrize("fields", [{"t": "publish"}, {"t": "signal", "key": "k"}], ids=lambda f: str(f["t"]))
@pytest.mark.parametrize("kind", ["list", "dict"])
@codecs
def test_documents_are_nested_at_most_32_deep(codec: Codec, fields: dict[str, str], kind: str) -> None:
    deepest = codec.decode(written(codec, {**fields, "room": "a", "data": nested(NESTING_MAX, kind)}))
    assert isinstance(deepest, Publish | SendSignal)
    assert json.loads(bytes(deepest.data)) == nested(NESTING_MAX, kind)
    for depth in (NESTING_MAX + 1, 100, 400):
        error = refusal(codec, written(codec, {**fields, "room": "a", "data": nested(depth, kind), "id": 7}))
        assert (error.code, error.request_id) == (ErrorCode.BAD_MESSAGE, 7)


@codecs
def test_a_state_is_itself_the_first_level(codec: Codec) -> None:
    state = {"a": nested(NESTING_MAX - 1)}
    assert isinstance(codec.decode(written(codec, {"t": "join", "room": "a", "state": state})), Join)
    state = {"a": nested(NESTING_MAX)}
    assert refusal(codec, written(codec, {"t": "join", "room": "a", "state": state})).code == "bad_message"


def test_brackets_in_a_text_are_no_nesting() -> None:
    brackets = "[{" * 500
    message = JSON.decode(written(JSON, {"t": "publish", "room": "a", "data": brackets}))
    assert isinstance(message, Publish)
    assert json.loads(bytes(message.data)) == brackets


@pytest.mark.parametrize("depth", [1_000, 5_000])
def test_nesting_that_exhausts_a_decoder_is_a_bad_message(depth: int) -> None:
    for deep in (b"[" * depth, b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        assert refusal(JSON, b'{"t":"publish","room":"a","data":%s}' % deep).code == "bad_message"
        assert refused_or_read(JSON, b'{"t":"ping","ignored":%s}' % deep)
    for deep in (b"\x91" * depth, b"\x91" * depth + b"\xc0", b"\x81\xa1a" * depth + b"\xc0"):
        head = b"\x83\xa1t\xa7publish\xa4room\xa1a\xa4data"
        assert refusal(MSGPACK, head + deep).code == "bad_message"
        assert refused_or_read(MSGPACK, b"\x82\xa1t\xa4ping\xa1x" + deep)


def refused_or_read(codec: Codec, payload: bytes) -> bool:
    """Decode; a refusal is fine, and so is a message, but nothing else is."""
    try:
        message = codec.decode(payload)
    except RequestError as error:
        return error.code in {ErrorCode.BAD_MESSAGE, ErrorCode.UNKNOWN_TYPE}
    return isinstance(message, ClientMessage)


@pytest.mark.parametrize(
    "number",
    [
        str(2**64),
        str(-(2**63) - 1),
        "9" * 100,
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-Infinity",
        "01",
        "+1",
        ".5",
    ],
)
@pytest.mark.parametrize("shape", ["%s", "[%s]", '{"a":{"b":[1,%s]}}'])
def test_json_numbers_that_cannot_be_said_are_bad_messages(number: str, shape: str) -> None:
    payload = '{"t":"publish","room":"a","data":%s}'.replace("%s", shape).replace("%s", number)
    assert refusal(JSON, payload.encode()).code == ErrorCode.BAD_MESSAGE


@pytest.mark.parametrize(
    "value",
    [
        b"bytes",
        msgpack.Timestamp(1, 2),
        msgpack.ExtType(5, b"x"),
        math.nan,
        math.inf,
        -math.inf,
        {1: 2},
        {None: 2},
        {True: 2},
        {b"a": 2},
        {"a": {2.5: 1}},
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "wrap", [lambda v: v, lambda v: [1, v], lambda v: {"a": [v]}], ids=["", "list", "map"]
)
def test_what_json_cannot_say_is_a_bad_message_in_msgpack_too(value: object, wrap: Any) -> None:
    payload = msgpack.packb({"t": "publish", "room": "a", "data": wrap(value), "id": 3})
    error = refusal(MSGPACK, payload)
    assert (error.code, error.request_id) == (ErrorCode.BAD_MESSAGE, 3)
    with pytest.raises(ValueError, match=r"."):
        document(wrap(value))


@pytest.mark.parametrize(
    "text", ['"\\ud800"', '"\\udc00\\ud800"', '{"\\ud800":1}', '"\\u12"', '"\\x41"', '"\x01"', "'a'"]
)
def test_texts_that_are_not_unicode_are_bad_messages(text: str) -> None:
    assert refusal(JSON, b'{"t":"publish","room":"a","data":%s}' % text.encode()).code == "bad_message"


def test_a_surrogate_has_no_place_in_a_document() -> None:
    with pytest.raises(ValueError, match=r"."):
        document("\ud800")


@given(scalars | st.dates() | st.binary() | st.tuples(st.integers()) | st.sets(st.integers(), min_size=1))
def test_a_document_is_what_both_encodings_can_say_and_nothing_else(value: Any) -> None:
    plain = value is None or isinstance(value, bool | int | float | str)
    if plain:
        check_document(value)
    else:
        with pytest.raises(ValueError, match=r"."):
            check_document(value)


# --- messages ---


@given(st.integers(0, REQUEST_ID_MAX))
@example(0)
@example(REQUEST_ID_MAX)
def test_an_id_is_up_to_53_bits(number: int) -> None:
    for codec in (JSON, MSGPACK):
        assert codec.decode(written(codec, {"t": "ping", "id": number})) == Ping(number)


@pytest.mark.parametrize("wrong", [-1, REQUEST_ID_MAX + 1, 2**70, 1.5, "1", None, True, [], {}])
@codecs
def test_anything_else_is_no_id(codec: Codec, wrong: object) -> None:
    if codec is MSGPACK and wrong == 2**70:
        return
    error = refusal(codec, written(codec, {"t": "ping", "id": wrong}))
    assert (error.code, error.request_id) == (ErrorCode.BAD_MESSAGE, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"t": "join"},
        {"t": "join", "room": 1},
        {"t": "join", "room": "a", "state": []},
        {"t": "join", "room": "a", "state": None},
        {"t": "join", "room": "a", "mode": "all"},
        {"t": "update", "room": "a"},
        {"t": "update", "room": "a", "state": {}, "if_version": -1},
        {"t": "update", "room": "a", "state": {}, "if_version": "1"},
        {"t": "publish", "room": "a"},
        {"t": "signal", "room": "a", "data": 1},
        {"t": "signal", "room": "a", "key": 1, "data": 1},
        {"t": "members", "room": "a", "limit": 0},
        {"t": "members", "room": "a", "limit": 1001},
        {"t": "members", "room": "a", "cursor": 1},
        {"t": "auth"},
        {"t": None},
        {"t": 1},
        {"room": "a"},
        {},
    ],
    ids=repr,
)
@codecs
def test_a_wrong_message_is_a_bad_message_that_bears_its_id(codec: Codec, fields: dict[str, object]) -> None:
    error = refusal(codec, written(codec, {**fields, "id": 7}))
    assert (error.code, error.request_id) == (ErrorCode.BAD_MESSAGE, 7)
    assert refusal(codec, written(codec, fields)).request_id is None


@pytest.mark.parametrize("kind", ["nonsense", "", "JOIN", "welcome", "sync", "ok", "bye", "x" * 10_000])
@codecs
def test_an_unknown_type_is_said_to_be_one(codec: Codec, kind: str) -> None:
    error = refusal(codec, written(codec, {"t": kind, "id": 7}))
    assert (error.code, error.request_id) == (ErrorCode.UNKNOWN_TYPE, 7)
    assert len(error.message) < 100


@given(
    st.dictionaries(texts.filter(lambda name: name not in {"t", "id", "room", "limit", "cursor"}), documents)
)
def test_unknown_fields_are_ignored(more: dict[str, Any]) -> None:
    for codec in (JSON, MSGPACK):
        assert codec.decode(written(codec, {**more, "t": "ping", "id": 1})) == Ping(1)
        assert codec.decode(written(codec, {"t": "members", "room": "a", **more})) == Members("a")


@pytest.mark.parametrize("fields", [[], [1], "join", 1, None, True, [{"t": "ping"}]])
@codecs
def test_a_message_is_one_map(codec: Codec, fields: object) -> None:
    assert refusal(codec, written(codec, fields)).code == ErrorCode.BAD_MESSAGE
    whole = written(codec, {"t": "ping"})
    for payload in (b"", whole[:-1], whole + whole, whole + b"\x00"):
        assert refusal(codec, payload).code == ErrorCode.BAD_MESSAGE


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(payload: bytes) -> None:
    for codec in (JSON, MSGPACK):
        assert refused_or_read(codec, payload)


@given(documents, st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_no_damaged_message_does_more_than_be_refused(value: Any, place: int, damage: bytes) -> None:
    for codec in (JSON, MSGPACK):
        payload = written(codec, {"t": "publish", "room": "a", "data": value, "id": 1})
        place %= len(payload)
        assert refused_or_read(codec, payload[:place] + damage + payload[place + 1 :])


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
def test_four_billion_elements_announced_take_no_memory(head: bytes) -> None:
    for start in (b"", b"\x83\xa1t\xa7publish\xa4room\xa1a\xa4data", b"\x82\xa1t\xa4ping\xa1x"):
        assert refusal(MSGPACK, start + head + b"\xff\xff\xff\xff").code == ErrorCode.BAD_MESSAGE


def test_there_are_two_encodings_by_name() -> None:
    assert {"presence.v1.json": JSON, "presence.v1.msgpack": MSGPACK} == CODECS
    assert (JSON.is_text, MSGPACK.is_text) == (True, False)


# --- how many items ---

ITEMS_MAX = 4_096
SHAPES = {
    "empty lists": lambda count: [[] for _ in range(count)],
    "empty maps": lambda count: [{} for _ in range(count)],
    "numbers": lambda count: list(range(count)),
    "numbers in a map": lambda count: {str(n): n for n in range(count)},
    "pairs": lambda count: [[n] for n in range(count // 2)] + [0] * (count % 2),
    "nested lists": lambda count: [[[[]]] for _ in range(count // 3)] + [0] * (count % 3),
}
MESSAGE_AND_FIELDS = 5
"""The message itself, its `t`, `room`, `id`, and the list or map in `data`."""


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@codecs
def test_a_message_has_at_most_so_many_items(codec: Codec, shape: Any) -> None:
    fields = {"t": "publish", "room": "a", "id": 7}
    most = ITEMS_MAX - MESSAGE_AND_FIELDS
    message = codec.decode(written(codec, {**fields, "data": shape(most)}), ITEMS_MAX)
    assert isinstance(message, Publish)
    assert json.loads(bytes(message.data)) == shape(most)
    error = refusal(codec, written(codec, {**fields, "data": shape(most + 1)}))
    assert (error.code, error.request_id) == (ErrorCode.BAD_MESSAGE, 7)
    assert str(ITEMS_MAX) in error.message


@codecs
def test_items_count_in_fields_that_are_ignored_too(codec: Codec) -> None:
    error = refusal(codec, written(codec, {"t": "ping", "id": 7, "more": [[]] * ITEMS_MAX}))
    assert (error.code, error.request_id) == (ErrorCode.BAD_MESSAGE, 7)
    assert refusal(codec, written(codec, {"t": "nonsense", "more": [0] * ITEMS_MAX})).code == "bad_message"


@codecs
def test_commas_and_brackets_in_a_text_are_no_items(codec: Codec) -> None:
    data = ",[{" * 5_000
    message = codec.decode(written(codec, {"t": "publish", "room": "a", "data": data}))
    assert isinstance(message, Publish)
    assert json.loads(bytes(message.data)) == data


@given(documents, st.integers(1, 30))
def test_items_are_containers_and_values(value: Any, items_max: int) -> None:
    def count(value: Any) -> int:
        inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        return 1 + sum(count(item) for item in inner)

    assert has_more_items(value, items_max) is (count(value) > items_max)


@pytest.mark.parametrize("inner", [[], {}], ids=repr)
def test_what_has_too_many_items_costs_no_more_than_what_has_as_many_as_it_may(inner: object) -> None:
    def cost_s(data: object) -> float:
        payload = written(MSGPACK, {"t": "publish", "room": "a", "data": data})
        return min(repeat(lambda: refused_or_read(MSGPACK, payload), timer=process_time, number=3, repeat=15))

    assert cost_s([inner] * 16_000) < 2.5 * cost_s([inner] * 4_000)
