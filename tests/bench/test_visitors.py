from dataclasses import replace

import pytest

from bench import dialects
from bench.load import LoadError
from bench.peer_servers import OURS, PEERS_MEASURED, MissingToolError, Peer
from bench.processes import peer
from bench.visitors import Hall, Visitors

TEXT = "Q" * 50


@pytest.mark.parametrize(
    "kind", [kind for kind in PEERS_MEASURED if not kind.tools], ids=lambda kind: kind.name
)
def test_what_a_client_of_a_peer_says_every_other_of_its_room_hears(kind: Peer) -> None:
    kind.prepare()
    hall = Hall()
    with (
        kind.start(None) as process,
        Visitors(hall, process, kind.dialect) as members,
        Visitors(hall, process, kind.dialect) as publishers,
    ):
        members.come(["room", "room"], 2)
        publishers.come(["room"], 1)
        publishers.send(*[kind.dialect.publish("room", TEXT)] * 3)
        members.count(TEXT.encode(), 3)


def test_a_client_that_is_refused_is_reported_with_its_server() -> None:
    with (
        peer("socketio_python") as process,
        Visitors(Hall(), process, dialects.CHANNELS) as strangers,
        pytest.raises(LoadError, match=r"socketio_python.*no upgrade"),
    ):
        strangers.come(["room"], 1)


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (replace(OURS, tools=("no-such-program",)), "no-such-program is not installed"),
        (replace(OURS, packages=("no_such_package",)), "the Python package no_such_package is not installed"),
    ],
    ids=["program", "package"],
)
def test_a_peer_that_misses_something_says_what(missing: Peer, reason: str) -> None:
    with pytest.raises(MissingToolError, match=reason):
        missing.prepare()
