"""What each call does, and the table of them all."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import anyio
from msgspec import UnsetType

from presence_server.api import schema
from presence_server.api.etag import if_match
from presence_server.api.problems import ProblemError
from presence_server.api.routes import Asked, Reply, Route
from presence_server.api.throttle import THROTTLE_ROUTES, ThrottleCalls
from presence_server.auth.identity import checked_user
from presence_server.errors import StoreAwayError
from presence_server.grants import Grants
from presence_server.presence.census import RoomNumbers
from presence_server.presence.roster import Record
from presence_server.presence.state import BROKEN, FULL, MISSING, TAKEN, Done, Outcome
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Document
from presence_server.registry.orders import Disconnect, Kick, Regrant, Revoke
from presence_server.registry.port import UserStatus
from presence_server.sessions.store import SessionData, VersionConflict, new_token, session_id

ANSWER_S: Final = 5.0
"""The longest that a call waits for a store that answers by callback."""


class Calls(ThrottleCalls):
    """The calls of the internal port. Each works the same on any node, for rooms and users of any other."""

    # --- rooms ---

    async def rooms(self, asked: Asked) -> Reply:
        query: schema.RoomsQuery = asked.query
        found, cursor = await self._on.census.rooms(query.prefix, query.cursor or None, query.limit)
        return Reply(200, schema.RoomsAnswer([_room(numbers) for numbers in found], cursor))

    async def room(self, asked: Asked) -> Reply:
        return Reply(200, _room(await self._on.census.numbers(self._room(asked))))

    async def members(self, asked: Asked) -> Reply:
        query: schema.MembersQuery = asked.query
        room = self._room(asked)
        records, cursor = await self._on.census.members(room, query.cursor or None, query.limit)
        return Reply(200, schema.MembersAnswer([_member(record) for record in records], cursor))

    async def publish(self, asked: Asked) -> Reply:
        room, data = self._room(asked), self._data(asked.body.data)
        at = await self._answer(lambda done: self._on.rooms.publish(room, data, done))
        return Reply(200, schema.SentAnswer(at))

    async def enter(self, asked: Asked) -> Reply:
        body: schema.EnterRequest = asked.body
        room, limits = self._room(asked), self._on.rooms.limits
        info = self._document("info", body.info, limits.info_bytes)
        state = self._document("state", body.state, limits.state_bytes)
        user = checked_user(body.user)

        def enter(done: Callable[[Outcome], None]) -> None:
            cid, ttl_ms = asked.path["cid"], body.ttl_ms
            self._on.rooms.enter(room, cid, user, info=info, state=state, ttl_ms=ttl_ms, done=done)

        outcome = await self._answer(enter)
        if isinstance(outcome, Done) and outcome.record is not None:
            self._on.census.entered(room, body.ttl_ms)
            return Reply(201 if outcome.created else 200, _member(outcome.record))
        if outcome is TAKEN:
            raise ProblemError(409, "this cid is a connection's; only it can enter itself", "taken")
        if outcome is FULL:
            raise ProblemError(409, "the room has its greatest number of members", "room_full")
        if outcome is BROKEN:
            raise ProblemError(500, "the room cannot be used; the server's log says why", "internal")
        raise ProblemError(409, "a connection with this cid was removed lately", "taken")

    async def remove(self, asked: Asked) -> Reply:
        room, cid = self._room(asked), asked.path["cid"]
        outcome = await self._answer(lambda done: self._on.rooms.remove(room, cid, done))
        if outcome is MISSING:
            raise ProblemError(404, "there is no such member")
        if outcome is BROKEN:
            raise ProblemError(500, "the room cannot be used; the server's log says why", "internal")
        await self._on.registry.order(Kick(cid, self._on.clock.wall_ms()))
        return Reply(204)

    # --- users ---

    async def user(self, asked: Asked) -> Reply:
        user = asked.path["user"]
        (status,) = await self._on.registry.users([user])
        return Reply(200, schema.UserAnswer(user, *_status(status)))

    async def statuses(self, asked: Asked) -> Reply:
        users: list[str] = list(dict.fromkeys(asked.body.users))
        found = await self._on.registry.users(users)
        answers = {
            user: schema.StatusAnswer(*_status(status)) for user, status in zip(users, found, strict=True)
        }
        return Reply(200, schema.StatusesAnswer(answers))

    async def message(self, asked: Asked) -> Reply:
        at = self._on.clock.wall_ms()
        await self._on.registry.message(asked.path["user"], self._data(asked.body.data), at)
        return Reply(200, schema.SentAnswer(at))

    async def disconnect(self, asked: Asked) -> Reply:
        body: schema.DisconnectRequest = asked.body
        user, now_ms = asked.path["user"], self._on.clock.wall_ms()
        (status,) = await self._on.registry.users([user])
        banned_until = None if isinstance(body.ban_ms, UnsetType) else now_ms + body.ban_ms
        await self._on.registry.order(Disconnect(user, now_ms, banned_until))
        return Reply(200, schema.DisconnectAnswer(len(status.connections)))

    # --- sessions ---

    async def create_session(self, asked: Asked) -> Reply:
        token = new_token()
        await self._on.sessions.create(session_id(token), self._session_data(asked.body))
        return Reply(201, schema.SessionCreated(token, 1), NOT_KEPT)

    async def session(self, asked: Asked) -> Reply:
        stored = await self._on.sessions.read(session_id(asked.path["token"]))
        if stored is None:
            raise ProblemError(404, NO_SESSION)
        data = stored.data
        answer = schema.SessionAnswer(data.user, data.info, data.rooms, data.ttl_ms, stored.version)
        return Reply(200, answer, NOT_KEPT | {"ETag": f'"{stored.version}"'})

    async def change_session(self, asked: Asked) -> Reply:
        session, version = session_id(asked.path["token"]), if_match(asked.headers.get("if-match"))
        data = self._session_data(asked.body)
        present = await self._on.sessions.read(session)
        if present is not None and present.data.user != data.user:
            raise ProblemError(409, "a session stays with its user; revoke it and make another", "conflict")
        changed = await self._on.sessions.change(session, version, data)
        if changed is None:
            raise ProblemError(404, NO_SESSION)
        if isinstance(changed, VersionConflict):
            raise ProblemError(
                412,
                f"the session is at version {changed.version}, not {version}",
                "conflict",
                {"ETag": f'"{changed.version}"'},
                changed.version,
            )
        await self._on.registry.order(Regrant(session, self._on.clock.wall_ms(), data.rooms, data.ttl_ms))
        return Reply(200, schema.VersionAnswer(changed), {"ETag": f'"{changed}"'})

    async def revoke_session(self, asked: Asked) -> Reply:
        session = session_id(asked.path["token"])
        existed = await self._on.sessions.revoke(session)
        # Also where there was none: an earlier call may have failed between the two.
        await self._on.registry.order(Revoke(session, self._on.clock.wall_ms()))
        if not existed:
            raise ProblemError(404, NO_SESSION)
        return Reply(204)

    # --- nodes ---

    async def nodes(self, asked: Asked) -> Reply:
        del asked
        return Reply(200, schema.NodesAnswer(await self._on.registry.nodes()))

    # --- what they share ---

    def _room(self, asked: Asked) -> str:
        room = asked.path["room"]
        self._on.rooms.check(room)
        return room

    def _data(self, data: object) -> Document:
        return self._document("data", data, self._on.rooms.limits.message_bytes)

    @staticmethod
    def _document(name: str, value: object, bytes_max: int) -> Document:
        try:
            raw = document(value)
        except ValueError as exc:
            raise ProblemError(422, f"in the body: {name}: {exc}", "bad_message") from None
        if len(raw) > bytes_max:
            raise ProblemError(413, f"{name} is {len(raw)} bytes, more than {bytes_max}", "too_large")
        return raw

    def _session_data(self, body: schema.SessionRequest) -> SessionData:
        checked_user(body.user)
        self._document("info", body.info, self._on.rooms.limits.info_bytes)
        try:
            Grants(body.rooms or [])
        except ValueError as exc:
            raise ProblemError(400, f"in the body: rooms: {exc}") from None
        return SessionData(body.user, body.ttl_ms, body.info, body.rooms)

    async def _answer(self, ask: Callable[[Callable[[Any], None]], None]) -> Any:
        """Return what a store answers by callback. Raises `StoreAwayError` where the shared one is not there."""
        if self._on.away():
            raise StoreAwayError
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ask(lambda value: None if answer.done() else answer.set_result(value))
        with anyio.move_on_after(ANSWER_S):
            answered = await answer
            if not self._on.away():
                return answered
        raise StoreAwayError


NO_SESSION: Final = "there is no such session, or it has ended"
NOT_KEPT: Final = {"Cache-Control": "no-store"}


def _room(numbers: RoomNumbers) -> schema.RoomAnswer:
    return schema.RoomAnswer(numbers.room, numbers.count, numbers.users)


def _member(record: Record) -> schema.MemberAnswer:
    member = record.member
    return schema.MemberAnswer(member.cid, member.user, member.info, member.state, member.v, member.at)


def _status(status: UserStatus) -> tuple[bool, Any, int | None]:
    return bool(status.connections), status.connections, status.last_seen


ROUTES: Final = [
    Route("GET", "/v1/rooms", "List the rooms that have members", Calls.rooms,
          {200: schema.RoomsAnswer}, query=schema.RoomsQuery, quiet=True),
    Route("GET", "/v1/rooms/{room}", "Count a room's members", Calls.room,
          {200: schema.RoomAnswer}, quiet=True),
    Route("GET", "/v1/rooms/{room}/members", "List a room's members", Calls.members,
          {200: schema.MembersAnswer}, query=schema.MembersQuery, quiet=True),
    Route("POST", "/v1/rooms/{room}/messages", "Send a message to a room", Calls.publish,
          {200: schema.SentAnswer}, (413, 422), schema.MessageRequest, quiet=True),
    Route("PUT", "/v1/rooms/{room}/members/{cid}", "Enter something that has no socket, or renew it", Calls.enter,
          {200: schema.MemberAnswer, 201: schema.MemberAnswer}, (409, 413, 422), schema.EnterRequest, quiet=True),
    Route("DELETE", "/v1/rooms/{room}/members/{cid}", "Remove a member; a connection is closed with 4003",
          Calls.remove, {204: None}, (404,)),
    Route("GET", "/v1/users/{user}", "Say where a user is", Calls.user, {200: schema.UserAnswer}, quiet=True),
    Route("POST", "/v1/users/status", "Say where many users are", Calls.statuses,
          {200: schema.StatusesAnswer}, (413,), schema.StatusRequest, quiet=True),
    Route("POST", "/v1/users/{user}/messages", "Send a message to every connection of a user", Calls.message,
          {200: schema.SentAnswer}, (413, 422), schema.MessageRequest, quiet=True),
    Route("POST", "/v1/users/{user}/disconnect", "Close a user's connections with 4003, and ban the user if asked",
          Calls.disconnect, {200: schema.DisconnectAnswer}, (413,), schema.DisconnectRequest, body_optional=True),
    *THROTTLE_ROUTES,
    Route("POST", "/v1/sessions", 'Begin a session for auth.mode "session"', Calls.create_session,
          {201: schema.SessionCreated}, (413, 422), schema.SessionRequest),
    Route("GET", "/v1/sessions/{token}", "Read a session, which is a use of it", Calls.session,
          {200: schema.SessionAnswer}, (404,), etag=True, quiet=True),
    Route("PUT", "/v1/sessions/{token}", "Change a session that is at the version named", Calls.change_session,
          {200: schema.VersionAnswer}, (404, 409, 412, 413, 422, 428), schema.SessionRequest, if_match=True,
          etag=True),
    Route("DELETE", "/v1/sessions/{token}", "Revoke a session; its connections are closed with 4001",
          Calls.revoke_session, {204: None}, (404,)),
    Route("GET", "/v1/nodes", "List the nodes that are alive", Calls.nodes, {200: schema.NodesAnswer}, quiet=True),
]  # fmt: skip
"""Every call, in the order of the reference."""
