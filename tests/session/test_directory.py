"""Which connections a node has, and what reaches them."""

import pytest

from presence_server.auth.anonymous import Anonymous
from presence_server.auth.identity import Identity
from presence_server.grants import Grant, Grants
from presence_server.protocol import codes
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Join, Publish, Published, Resume, Watch
from presence_server.registry.commands import Command, Disconnect, Kick, Regrant, Remove, Revoke
from presence_server.session import directory
from presence_server.session.directory import SKEW_MS
from tests.support.world import Client, World

TTL_MS = 600_000


class HoldingAuthenticator(Anonymous):
    """Records the opaque sessions that have connections, and after how long unused they end."""

    def __init__(self) -> None:
        super().__init__(1_000)
        self.held: list[tuple[str, int]] = []
        self.let_go_of: list[str] = []

    def hold(self, session: str, ttl_ms: int) -> None:
        self.held.append((session, ttl_ms))

    def let_go(self, session: str) -> None:
        self.let_go_of.append(session)


@pytest.fixture
def world() -> World:
    return World()


def opaque(session: str, user: str = "ann") -> Identity:
    return Identity(user, document({}), session=session, session_ttl_ms=TTL_MS)


def disconnect(user: str, at: int) -> Disconnect:
    return Disconnect(user, at, None)


def now(world: World) -> int:
    return world.clock.wall_ms()


def test_a_connection_that_was_resumed_elsewhere_is_closed(world: World) -> None:
    ann = world.connect("ann")
    world.directory.claims.note_claimed_elsewhere(ann.cid, 2)
    assert ann.closed_with == codes.REPLACED.code


def test_news_of_its_own_resume_leaves_a_connection_open(world: World) -> None:
    ann = world.connect("ann")
    ann.drop()
    again = world.connect("ann", resume=ann.resume)
    assert again.session.participant.epoch == 2
    world.directory.claims.note_claimed_elsewhere(again.cid, 1)
    world.directory.claims.note_claimed_elsewhere(again.cid, 2)
    world.directory.claims.note_claimed_elsewhere("nobody here", 9)
    assert again.is_open


def test_a_store_that_has_lost_the_claim_of_a_connection_without_members_is_told_it_again(
    world: World,
) -> None:
    fresh, ann = world.connect("bob"), world.connect("ann")
    again = world.connect("ann", resume=ann.resume)
    again.ask(Watch("lobby"))
    member = world.connect("ann", resume=world.connect("ann").resume)
    member.ask(Join("lobby"))
    before = again.resume
    world.store._claims.clear()
    world.directory.claims.compare_memberless(lost=False)
    assert [client.session.participant.epoch for client in (fresh, again, member)] == [1, 2, 2]
    found: list[int] = []
    world.store.read_claim(again.cid, lambda claim: found.append(claim.epoch))
    world.store.read_claim(fresh.cid, lambda claim: found.append(claim.epoch))
    assert found == [2, 0]
    assert not [message for message in again.take() if isinstance(message, Resume)]
    world.directory.claims.compare_memberless(lost=False)
    assert again.session.participant.epoch == 2
    assert len(world.directory.claims) == 0
    later = world.connect("ann", resume=before)  # the token that it has is as good as it was
    assert (later.cid, later.session.participant.epoch, again.closed_with) == (
        again.cid,
        3,
        codes.REPLACED.code,
    )


def test_a_connection_without_members_that_another_node_has_claimed_since_is_closed_by_a_comparison(
    world: World,
) -> None:
    ann = world.connect("ann")
    world.store.claim(ann.cid, 1, "n2", "n2", lambda _: None)
    world.directory.claims.compare_memberless(lost=False)
    assert ann.closed_with == codes.REPLACED.code


def test_a_resumed_connection_closes_the_one_that_it_goes_on_with_and_no_other(world: World) -> None:
    ann, other = world.connect("ann"), world.connect("ann")
    again = world.connect("ann", resume=ann.resume)
    assert again.cid == ann.cid
    assert ann.closed_with == codes.REPLACED.code
    assert other.is_open
    assert len(world.directory) == 2
    assert world.directory.find_connection(ann.cid) is not None


def test_the_end_of_an_earlier_life_leaves_the_later_one(world: World) -> None:
    ann = world.connect("ann")
    again = world.connect("ann", resume=ann.resume)
    ann.drop()
    world.settle()
    assert len(world.directory) == 1
    world.directory.deliver_to_user("ann", {"n": 1}, now(world))
    assert [message.data for message in again.take_only(Published)] == [{"n": 1}]
    again.drop()
    assert len(world.directory) == 0
    assert world.directory.find_connection(ann.cid) is None


def test_a_connection_is_found_with_its_rooms_in_order(world: World) -> None:
    ann = world.connect("ann")
    for room in ("zoo", "attic", "lobby"):
        ann.ask(Watch(room))
    present = world.directory.find_connection(ann.cid)
    assert present is not None
    assert (present.user, present.rooms) == ("ann", ["attic", "lobby", "zoo"])
    assert world.directory.find_connection("nobody") is None


def test_a_message_to_a_user_says_that_it_is_from_nobody_in_no_room(world: World) -> None:
    ann, second, bob = world.connect("ann"), world.connect("ann"), world.connect("bob")
    world.directory.deliver_to_user("ann", {"n": 1}, 1234)
    for client in (ann, second):
        (message,) = client.take_only(Published)
        assert (message.room, message.cid, message.user, message.data, message.at) == (
            None,
            None,
            None,
            {"n": 1},
            1234,
        )
    assert bob.take() == []


def test_one_message_in_eight_is_timed(world: World) -> None:
    sampled = [world.directory.is_sampled() for _ in range(3 * directory.SAMPLED)]
    assert sampled.count(True) == 3
    assert sampled == sampled[: directory.SAMPLED] * 3


def test_a_command_given_before_a_connection_came_does_not_close_it(world: World) -> None:
    ann = world.connect("ann")
    world.directory.apply_command(disconnect("ann", now(world) - SKEW_MS - 1))
    world.directory.apply_command(Kick(cid=ann.cid, at=now(world) - SKEW_MS - 1))
    assert ann.is_open


@pytest.mark.parametrize("command", ["disconnect", "kick"])
def test_a_command_closes_who_was_there_by_the_clock_of_a_node_that_is_a_little_behind(
    world: World, command: str
) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    at = now(world) - SKEW_MS
    world.directory.apply_command(disconnect("ann", at) if command == "disconnect" else Kick(ann.cid, at=at))
    assert ann.closed_with == codes.KICKED.code
    assert bob.is_open


def test_commands_about_who_is_not_here_are_no_fault(world: World) -> None:
    bob = world.connect("bob")
    bob.ask(Join("lobby"))
    at = now(world)
    for command in (
        disconnect("ann", at),
        Kick("nobody", at=at),
        Remove("lobby", "nobody", at=at),
        Revoke("no session", at),
        Regrant("no session", at, None, TTL_MS),
    ):
        world.directory.apply_command(command)
    assert bob.is_open


def test_a_command_takes_a_member_out_of_its_room(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    for client in (ann, bob):
        client.ask(Join("lobby"))
    world.directory.apply_command(Remove("lobby", ann.cid, at=now(world)))
    assert "lobby" not in ann.session.participant.memberships
    assert "lobby" in bob.session.participant.memberships
    assert ann.is_open


@pytest.mark.parametrize("command", ["disconnect", "kick"])
def test_what_was_ended_is_remembered_up_to_a_number_the_oldest_goes_first(
    world: World, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "REVOKED_MAX", 3)
    ended = world.directory._ended_users if command == "disconnect" else world.directory._ended_cids
    for n in (1, 2, 1, 3, 4):
        name = str(n)
        world.directory.apply_command(disconnect(name, n) if command == "disconnect" else Kick(name, at=n))
    assert list(ended.items()) == [("1", 1), ("3", 3), ("4", 4)]


def test_revoked_sessions_are_remembered_up_to_a_number(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "REVOKED_MAX", 2)
    for session in ("first", "second", "third"):
        world.directory.revoke_opaque(session)
    closed = {
        session: world.connect("ann", identity=opaque(session)).closed_with for session in ("second", "third")
    }
    assert closed == dict.fromkeys(("second", "third"), codes.UNAUTHORIZED.code)
    assert world.connect("ann", identity=opaque("first")).is_open


def test_revoking_one_session_leaves_the_others(world: World) -> None:
    one, two, other = (world.connect("ann", identity=opaque(session)) for session in ("a", "a", "b"))
    world.directory.apply_command(Revoke("a", now(world)))
    assert [client.closed_with for client in (one, two)] == [codes.UNAUTHORIZED.code] * 2
    assert other.is_open
    assert list(world.directory._opaque) == ["b"]


def test_a_session_is_held_with_its_time_while_it_has_connections(world: World) -> None:
    holding = HoldingAuthenticator()
    world.directory.authenticator = holding
    held, let_go = holding.held, holding.let_go_of
    one, two = (world.connect("ann", identity=opaque("a")) for _ in range(2))
    assert held == [("a", TTL_MS)] * 2
    one.drop()
    assert let_go == []
    two.drop()
    assert let_go == ["a"]


def test_new_grants_of_a_session_say_how_long_it_lasts_and_take_its_connections_out_of_other_rooms(
    world: World,
) -> None:
    ann, bob = (world.connect("ann", identity=opaque(session)) for session in ("a", "b"))
    holding = HoldingAuthenticator()
    world.directory.authenticator = holding
    held = holding.held
    for client in (ann, bob):
        client.ask(Join("lobby"))
    world.directory.apply_command(Regrant("a", now(world), [Grant("attic", ["join"])], 5_000))
    assert held == [("a", 5_000)]
    assert "lobby" not in ann.session.participant.memberships
    assert "lobby" in bob.session.participant.memberships
    world.directory.apply_command(Regrant("a", now(world), None, 5_000))
    ann.ask(Join("lobby"))
    assert "lobby" in ann.session.participant.memberships


def test_fresh_credentials_of_a_revoked_session_close_the_connection(world: World) -> None:
    ann = world.connect("ann", identity=opaque("a"))
    world.directory.revoke_opaque("b")
    world.directory.take_credentials(ann.session, opaque("c"))
    assert ann.is_open
    assert list(world.directory._opaque) == ["c"]
    world.directory.take_credentials(ann.session, opaque("b"))
    assert ann.closed_with == codes.UNAUTHORIZED.code


def test_fresh_credentials_bring_their_end_and_their_grants(world: World) -> None:
    ann = world.connect("ann", identity=opaque("a"))
    ann.ask(Join("lobby"))
    ends_ms = now(world) + 90_000
    grants = Grants([Grant("attic", ["join"])])
    world.directory.take_credentials(ann.session, Identity("ann", document({}), grants, ends_ms))
    assert (ann.session.opaque, ann.session.expires_ms, ann.session.participant.grants) == (
        "",
        ends_ms,
        grants,
    )
    assert "lobby" not in ann.session.participant.memberships


def lingering(world: World) -> tuple[Client, Client]:
    ann, bob = world.connect("ann", identity=opaque("a")), world.connect("bob")
    for client in (ann, bob):
        client.ask(Join("lobby"))
    ann.drop()
    world.settle()
    bob.take()
    assert ann.cid in world.roster("lobby")
    return ann, bob


@pytest.mark.parametrize("command", ["disconnect", "kick", "revoke"])
def test_members_that_linger_go_with_a_command_given_after_they_came(world: World, command: str) -> None:
    ann, _ = lingering(world)
    at = now(world) - SKEW_MS
    commands: dict[str, Command] = {
        "disconnect": disconnect("ann", at),
        "kick": Kick(ann.cid, at=at),
        "revoke": Revoke("a", at),
    }
    world.directory.apply_command(commands[command])
    assert ann.cid not in world.roster("lobby")
    assert not world.directory.lingers._by_cid


def test_members_that_linger_outlast_a_command_given_before_they_came(world: World) -> None:
    ann, _ = lingering(world)
    for command in (disconnect("ann", now(world) - SKEW_MS - 1), Kick(ann.cid, at=now(world) - SKEW_MS - 1)):
        world.directory.apply_command(command)
    assert ann.cid in world.roster("lobby")


def test_a_linger_is_remembered_for_the_grace_and_no_longer(world: World) -> None:
    lingering(world)
    grace_ms = max(world.presence.grace_clean_ms, world.presence.grace_lost_ms)
    world.clock.move(grace_ms - 1)
    world.directory.sweep_sessions()
    assert world.directory.lingers._by_cid
    world.clock.move(1)
    world.directory.sweep_sessions()
    assert not world.directory.lingers._by_cid


def test_messages_are_counted_by_kind(world: World) -> None:
    ann = world.connect("ann")
    ann.ask(Join("lobby"))
    ann.send(Publish("lobby", data=1), Publish("lobby", data=2))
    assert world.directory.received[Publish] == 2
    assert world.directory.received[Join] == 1


def test_a_resume_token_is_renewed_from_half_its_life_on(world: World) -> None:
    ann = world.connect("ann")
    before = now(world)
    claim = world.directory.claim_of(world.directory.resume_token(ann.session))
    assert claim is not None
    assert (claim.cid, claim.user, claim.epoch, claim.node, claim.iat) == (
        ann.cid,
        "ann",
        1,
        world.node,
        before,
    )
    assert ann.session.renew_at_ms == before + world.presence.resume_ms // 2
    assert world.directory.claim_of(None) is None


def test_tokens_from_before_a_user_was_disconnected_resume_nothing_later_ones_do(world: World) -> None:
    ann = world.connect("ann")
    world.directory.apply_command(disconnect("ann", now(world)))
    world.clock.move(1)
    again = world.connect("ann", resume=ann.resume)
    assert (again.welcome.resumed, again.cid == ann.cid) == (False, False)
    again.drop()
    assert world.connect("ann", resume=again.resume).welcome.resumed


def test_an_earlier_disconnect_that_comes_late_revives_no_token(world: World) -> None:
    ann = world.connect("ann")
    ann.drop()
    world.directory.apply_command(disconnect("ann", now(world)))
    world.directory.apply_command(disconnect("ann", now(world) - 10_000))
    assert not world.connect("ann", resume=ann.resume).welcome.resumed


def test_a_token_of_a_user_who_was_disconnected_while_away_resumes_nothing(world: World) -> None:
    ann, bob = world.connect("ann"), world.connect("bob")
    for client in (ann, bob):
        client.drop()
    world.directory.apply_command(disconnect("ann", now(world)))
    assert not world.connect("ann", resume=ann.resume).welcome.resumed
    assert world.connect("bob", resume=bob.resume).welcome.resumed


def test_who_brings_no_token_is_new_and_no_token_is_read(world: World) -> None:
    assert world.directory.claim_of(None) is None
    assert not world.connect("ann", resume=None).welcome.resumed
