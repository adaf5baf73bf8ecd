"""What credentials allow, and when they end, on a clock that is moved by hand."""

from typing import Any

import anyio
import pytest

from presence_server.auth.identity import Identity
from presence_server.auth.tokens import TokenAuthenticator
from presence_server.config.settings import AuthSettings, RoomSettings
from presence_server.grants import Grant, Grants
from presence_server.protocol.codec import document
from presence_server.protocol.codes import Ending
from presence_server.protocol.messages import (
    Auth,
    Bye,
    Diff,
    Error,
    Join,
    Leave,
    Members,
    Ok,
    Page,
    Publish,
    Published,
    Removed,
    SendSignal,
    Sync,
    Update,
    Watch,
)
from presence_server.registry.commands import Command, Disconnect, Kick, Regrant, Revoke
from presence_server.session.expiry import WARNING_MS
from tests.support.signing import SECRET, token
from tests.support.world import Client, World

HOUR_MS = 3_600_000


class HoldingAuthenticator(TokenAuthenticator):
    """Records the opaque sessions that have connections, and after how long unused they end."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.held: dict[str, int] = {}

    def hold(self, session: str, ttl_ms: int) -> None:
        self.held[session] = ttl_ms

    def let_go(self, session: str) -> None:
        del self.held[session]


class Guarded(World):
    """A node whose clients bring tokens."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        auth = AuthSettings(mode="jwt", secret=SECRET)
        self.gate = self.directory.authenticator = HoldingAuthenticator(auth, self.clock, 1_000, None)

    def identity(self, *, ends_in_ms: int | None = None, **fields: Any) -> Identity:
        expires_ms = None if ends_in_ms is None else self.clock.wall_ms() + ends_in_ms
        return Identity(**({"user": "ann", "info": document({}), "expires_ms": expires_ms} | fields))

    def token(self, *, ends_in_ms: int = HOUR_MS, **claims: Any) -> str:
        claims.setdefault("sub", "ann")
        return token(exp=(self.clock.wall_ms() + ends_in_ms) / 1_000, **claims)

    def command(self, command: Command) -> None:
        anyio.run(self.registry.send_command, command)
        self.settle()


@pytest.fixture
def world() -> Guarded:
    return Guarded()


# --- the end of credentials ---


def warned(client: Client) -> list[str]:
    return [error.code for error in client.take_only(Error)]


def test_a_client_is_warned_and_then_closed(world: Guarded) -> None:
    ann = world.connect(identity=world.identity(ends_in_ms=HOUR_MS))
    bob = world.connect("bob")
    for client in (ann, bob):
        client.ask(Join("lobby"))
    world.pass_ms(HOUR_MS - WARNING_MS - 1_000)
    assert warned(ann) == []
    world.pass_ms(1_250)
    assert warned(ann) == ["token_expired"]
    world.pass_ms(WARNING_MS - 1_000)
    assert ann.is_open
    assert warned(ann) == []
    bob.take()
    world.pass_ms(1_000)
    assert ann.closed_with == 4009
    assert [message.code for message in ann.take() if isinstance(message, Bye)] == [4009]
    assert set(world.roster("lobby")) == {bob.cid}  # gone at once


def test_a_token_that_is_nearly_over_is_warned_of_when_half_is_left(world: Guarded) -> None:
    ann = world.connect(identity=world.identity(ends_in_ms=5_000))
    world.pass_ms(2_250)
    assert warned(ann) == []
    world.pass_ms(500)
    assert warned(ann) == ["token_expired"]
    world.pass_ms(2_500)
    assert ann.closed_with == 4009


def test_fresh_credentials_move_the_end(world: Guarded) -> None:
    ann = world.connect(identity=world.identity(ends_in_ms=60_000))
    world.pass_ms(WARNING_MS + 500)
    assert warned(ann) == ["token_expired"]
    assert isinstance(ann.ask(Auth(world.token(ends_in_ms=120_000))), Ok)
    world.pass_ms(80_000)
    assert ann.is_open
    assert warned(ann) == []
    world.pass_ms(11_000)
    assert warned(ann) == ["token_expired"]
    world.pass_ms(WARNING_MS)
    assert ann.closed_with == 4009


def test_credentials_that_prove_nothing_change_nothing(world: Guarded) -> None:
    ann = world.connect(identity=world.identity(ends_in_ms=60_000))
    for bad, code in (
        ("nonsense", "unauthorized"),
        (world.token(sub="bob"), "unauthorized"),
        (world.token(ends_in_ms=-1_000), "token_expired"),
        ("", "unauthorized"),
    ):
        answer = ann.ask(Auth(bad))
        assert isinstance(answer, Error)
        assert answer.code == code
    world.pass_ms(60_250)
    assert ann.closed_with == 4009


def test_ends_of_connections_that_are_gone_do_not_pile_up(world: Guarded) -> None:
    for _ in range(3_000):
        world.connect(identity=world.identity(ends_in_ms=HOUR_MS)).drop(Ending.CLOSED)
    assert len(world.directory._expiries._timers._heap) <= 100


def test_who_names_itself_cannot_bring_credentials() -> None:
    answer = World().connect("ann").ask(Auth("a token"))
    assert isinstance(answer, Error)
    assert answer.code == "unauthorized"


# --- grants ---


def grants(**allowed: list[Any]) -> Grants:
    return Grants([Grant(pattern, actions) for pattern, actions in allowed.items()])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("join", Join("lobby")),
        ("watch", Watch("lobby")),
        ("publish", Publish("lobby", 1)),
        ("update", Update("lobby", {"n": 1})),
        ("signal", SendSignal("lobby", "k", 1)),
    ],
)
def test_each_action_needs_its_grant(world: Guarded, action: Any, message: Any) -> None:
    others: list[Any] = [name for name in ("join", "watch", "publish", "update", "signal") if name != action]
    ann = world.connect(identity=world.identity(grants=grants(lobby=others)))
    if action not in {"join", "watch"}:
        ann.ask(Join("lobby"))
    refused = ann.ask(message)
    assert isinstance(refused, Error)
    assert (refused.code, refused.room) == ("forbidden", "lobby")
    assert repr(action) in refused.message
    assert "token" in refused.message


def test_both_the_room_and_the_token_must_allow_it() -> None:
    rooms = [RoomSettings(pattern="quiet:*", allow=["join", "watch"]), RoomSettings(pattern="*")]
    world = Guarded(rooms=rooms)
    ann = world.connect(
        identity=world.identity(grants=grants(**{"quiet:*": ["join", "publish"], "x": ["join"]}))
    )
    assert isinstance(ann.ask(Join("quiet:1")), Sync)
    by_room = ann.ask(Publish("quiet:1", 1))
    assert isinstance(by_room, Error)
    assert "'quiet:*'" in by_room.message
    by_token = ann.ask(Watch("quiet:1"))
    assert isinstance(by_token, Error)
    assert "token" in by_token.message
    assert isinstance(ann.ask(Join("x")), Sync)
    assert isinstance(ann.ask(Join("y")), Error)
    # What needs no permission of its own goes with being there.
    assert isinstance(ann.ask(Members("x")), Page)
    assert isinstance(ann.ask(Leave("x")), Ok)


def test_the_first_rule_that_matches_a_room_decides() -> None:
    rooms = [
        RoomSettings(pattern="a:*", mode="count", members_max=1),
        RoomSettings(pattern="a:1", mode="none"),
        RoomSettings(pattern="b*", allow=["watch"]),
    ]
    world = World(rooms=rooms)
    ann, bob = world.connect("ann"), world.connect("bob")
    first = ann.ask(Join("a:1"))
    assert isinstance(first, Sync)
    assert first.mode == "count"
    full = bob.ask(Join("a:1"))
    assert isinstance(full, Error)
    assert full.code == "room_full"
    assert isinstance(ann.ask(Join("b1")), Error)
    assert isinstance(ann.ask(Watch("b1")), Sync)
    assert isinstance(ann.ask(Join("c")), Sync)  # what none matches has the defaults


def test_fresh_credentials_bring_their_grants(world: Guarded) -> None:
    ann = world.connect(identity=world.identity(grants=grants(lobby=["join"])))
    ann.ask(Join("lobby"))
    assert isinstance(ann.ask(Publish("lobby", 1)), Error)
    more = world.token(rooms=[{"pattern": "*", "allow": ["join", "publish"]}])
    assert isinstance(ann.ask(Auth(more)), Ok)
    assert isinstance(ann.ask(Publish("lobby", 1)), Ok)


def test_fresh_credentials_take_a_connection_out_of_the_rooms_that_they_do_not_cover(world: Guarded) -> None:
    ann, bob = world.connect(identity=world.identity()), world.connect("bob")
    for client in (ann, bob):
        client.ask(Join("lobby"))
    ann.ask(Watch("hall"))
    ann.ask(Watch("news"))
    bob.take()
    ann.take()
    allowed = [{"pattern": "lobby", "allow": ["watch"]}, {"pattern": "news", "allow": ["watch"]}]
    ann.ask(Auth(world.token(rooms=allowed)))
    assert ann.take() == [Removed("lobby", "forbidden"), Removed("hall", "forbidden")]
    assert ann.is_open
    assert set(world.roster("lobby")) == {bob.cid}
    (diff,) = bob.take_only(Diff)
    assert [(left.cid, left.reason) for left in diff.leaves] == [(ann.cid, "kicked")]
    bob.ask(Publish("lobby", 1))
    assert ann.take() == []
    assert list(ann.session.participant.memberships) == ["news"]
    assert isinstance(ann.ask(Watch("lobby")), Sync)


# --- commands ---


def test_a_user_is_disconnected_but_not_who_comes_later(world: Guarded) -> None:
    early, other = world.connect("ann"), world.connect("bob")
    world.clock.move(10_000)
    at = world.clock.wall_ms()
    world.clock.move(10_000)
    late = world.connect("ann")
    world.command(Disconnect("ann", at, None))
    assert (early.closed_with, late.is_open, other.is_open) == (4003, True, True)


def test_a_ban_lasts_as_long_as_it_says(world: Guarded) -> None:
    at = world.clock.wall_ms()
    world.command(Disconnect("ann", at, at + 60_000))
    assert world.directory.banned_until("ann") == at + 60_000
    world.command(Disconnect("ann", at, None))  # leaves the ban as it is
    assert world.directory.banned_until("ann") == at + 60_000
    assert world.directory.banned_until("bob") == 0
    world.clock.move(60_000)
    assert world.directory.banned_until("ann") == 0


def test_who_was_banned_while_its_handshake_went_on_is_closed(world: Guarded) -> None:
    at = world.clock.wall_ms()
    world.command(Disconnect("ann", at, at + 60_000))
    assert world.connect("ann").closed_with == 4003


def test_a_kick_closes_one_connection(world: Guarded) -> None:
    one, two = world.connect("ann"), world.connect("ann")
    one.ask(Join("lobby"))
    world.command(Kick(one.cid, world.clock.wall_ms()))
    assert (one.closed_with, two.is_open) == (4003, True)
    assert world.roster("lobby") == {}


def test_a_revoked_session_closes_its_connections_and_later_ones(world: Guarded) -> None:
    session = world.identity(session="s", session_ttl_ms=HOUR_MS)
    one, two = world.connect(identity=session), world.connect(identity=session)
    other = world.connect(identity=world.identity(session="t", session_ttl_ms=HOUR_MS))
    world.command(Revoke("s", world.clock.wall_ms()))
    assert (one.closed_with, two.closed_with, other.is_open) == (4001, 4001, True)
    # Its handshake had passed the store before the session was revoked.
    assert world.connect(identity=session).closed_with == 4001


def test_a_revoked_session_ends_the_members_that_linger(world: Guarded) -> None:
    one, other = (
        world.connect(identity=world.identity(session=name, session_ttl_ms=HOUR_MS)) for name in ("s", "t")
    )
    for client in (one, other):
        client.ask(Join("lobby"))
        client.drop()
    world.command(Revoke("s", world.clock.wall_ms()))
    assert set(world.roster("lobby")) == {other.cid}
    world.outlive_everything()
    assert world.leftovers() == {}


def test_sessions_are_held_while_they_have_connections(world: Guarded) -> None:
    held = world.gate.held
    session = world.identity(session="s", session_ttl_ms=HOUR_MS)
    one, two = world.connect(identity=session), world.connect(identity=session)
    assert held == {"s": HOUR_MS}
    one.drop()
    assert held == {"s": HOUR_MS}
    two.drop()
    assert held == {}


def test_a_session_s_new_grants_hold_for_its_connections(world: Guarded) -> None:
    held = world.gate.held
    session = world.identity(session="s", session_ttl_ms=HOUR_MS)
    stays, goes = world.connect(identity=session), world.connect(identity=session)
    stays.ask(Watch("lobby"))
    goes.ask(Join("lobby"))
    now_ms = world.clock.wall_ms()
    world.command(Regrant("s", now_ms, [Grant("*", ["watch", "publish"])], 5_000))
    assert goes.take_only(Removed) == [Removed("lobby", "forbidden")]
    assert stays.take_only(Removed) == []
    assert (stays.is_open, goes.is_open) == (True, True)
    assert held == {"s": 5_000}
    assert isinstance(stays.ask(Publish("lobby", 1)), Ok)
    assert isinstance(stays.ask(Join("lobby")), Error)
    world.command(Regrant("s", now_ms, None, 5_000))
    assert isinstance(stays.ask(Join("lobby")), Sync)


def test_a_message_to_a_user_reaches_all_its_connections(world: Guarded) -> None:
    one, two, other = world.connect("ann"), world.connect("ann"), world.connect("bob")
    anyio.run(world.registry.message, "ann", document({"n": 1}), 7)
    for client in (one, two):
        (message,) = client.take_only(Published)
        assert (message.room, message.cid, message.user, message.data, message.at) == (
            None,
            None,
            None,
            {"n": 1},
            7,
        )
    assert other.take() == []


def test_nothing_is_left_of_who_is_gone(world: Guarded) -> None:
    session = world.identity(session="s", session_ttl_ms=HOUR_MS, ends_in_ms=HOUR_MS)
    clients = [world.connect(identity=session), world.connect("bob")]
    again = world.connect(identity=session, resume=clients[0].resume)
    assert clients[0].closed_with == 4010
    for client in (clients[1], again):
        client.drop()
    world.outlive_everything()
    assert world.leftovers() == {}
