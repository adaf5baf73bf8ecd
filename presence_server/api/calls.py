"""The calls of the internal port, each beside its route."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import anyio
from msgspec import UnsetType

from presence_server.api import schema
from presence_server.api.dependencies import ApiDependencies
from presence_server.api.etag import if_match
from presence_server.api.overview import OVERVIEW_ROUTES, OverviewCalls
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.api.throttle import THROTTLE_ROUTES, ThrottleCalls
from presence_server.auth.identity import checked_user
from presence_server.errors import BansFullError, StoreAwayError
from presence_server.grants import Grants
from presence_server.opaque_sessions.port import SessionData, VersionConflict, new_token, session_id
from presence_server.presence.room_index.port import RoomCounts
from presence_server.presence.roster import Record
from presence_server.presence.state import BROKEN, FULL, TAKEN, Done, Outcome
from presence_server.protocol.codec import document
from presence_server.protocol.messages import Document
from presence_server.registry.commands import Ban, Disconnect, Kick, Regrant, Remove, Revoke
from presence_server.registry.port import UserStatus

ROOMS_AND_USERS: Final = ApiRoutes()
SESSIONS: Final = ApiRoutes()
NODES: Final = ApiRoutes()
ANSWER_S: Final = 5.0
"""The longest that a call waits for a store that answers by callback."""


class Calls(ThrottleCalls, OverviewCalls):
    """The calls of the internal port. Each works the same on any node, for rooms and users of any other."""

    def __init__(self, node: ApiDependencies) -> None:
        ThrottleCalls.__init__(self, node)
        OverviewCalls.__init__(self, node)

    # --- rooms ---

    @ROOMS_AND_USERS.add_route(
        "GET",
        "/v1/rooms",
        "List the rooms that have members",
        {200: schema.RoomsAnswer},
        query=schema.RoomsQuery,
        quiet=True,
    )
    async def rooms(self, asked: CheckedRequest) -> Reply:
        query: schema.RoomsQuery = asked.query
        found, cursor = await self._node.room_index.rooms(query.prefix, query.cursor or None, query.limit)
        return Reply(200, schema.RoomsAnswer([_room(counts) for counts in found], cursor))

    @ROOMS_AND_USERS.add_route(
        "GET", "/v1/rooms/{room}", "Count a room's members", {200: schema.RoomAnswer}, quiet=True
    )
    async def room(self, asked: CheckedRequest) -> Reply:
        return Reply(200, _room(await self._node.room_index.counts(self._room(asked))))

    @ROOMS_AND_USERS.add_route(
        "GET",
        "/v1/rooms/{room}/members",
        "List a room's members",
        {200: schema.MembersAnswer},
        query=schema.MembersQuery,
        quiet=True,
    )
    async def members(self, asked: CheckedRequest) -> Reply:
        query: schema.MembersQuery = asked.query
        room = self._room(asked)
        records, cursor = await self._node.room_index.members(room, query.cursor or None, query.limit)
        return Reply(200, schema.MembersAnswer([_member(record) for record in records], cursor))

    @ROOMS_AND_USERS.add_route(
        "POST",
        "/v1/rooms/{room}/messages",
        "Send a message to a room",
        {200: schema.SentAnswer},
        problems=(413, 422),
        body=schema.MessageRequest,
        quiet=True,
    )
    async def publish(self, asked: CheckedRequest) -> Reply:
        room, data = self._room(asked), self._data(asked.body.data)
        at = await self._answer(lambda done: self._node.rooms.publish(room, data, done), room)
        return Reply(200, schema.SentAnswer(at))

    @ROOMS_AND_USERS.add_route(
        "PUT",
        "/v1/rooms/{room}/members/{cid}",
        "Enter something that has no socket, or renew it",
        {200: schema.MemberAnswer, 201: schema.MemberAnswer},
        problems=(409, 413, 422),
        body=schema.EnterRequest,
        quiet=True,
    )
    async def enter(self, asked: CheckedRequest) -> Reply:
        body: schema.EnterRequest = asked.body
        room, limits = self._room(asked), self._node.rooms.limits
        info = self._document("info", body.info, limits.info_bytes)
        state = self._document("state", body.state, limits.state_bytes)
        user = checked_user(body.user)

        def enter(done: Callable[[Outcome], None]) -> None:
            cid, ttl_ms = asked.path["cid"], body.ttl_ms
            self._node.rooms.enter(room, cid, user, info=info, state=state, ttl_ms=ttl_ms, done=done)

        outcome = await self._answer(enter, room)
        if isinstance(outcome, Done) and outcome.record is not None:
            self._node.room_index.note_room(room, body.ttl_ms)
            return Reply(201 if outcome.created else 200, _member(outcome.record))
        if outcome is TAKEN:
            raise ProblemError(409, "this cid is a connection's; only it can enter itself", "taken")
        if outcome is FULL:
            raise ProblemError(409, "the room has its greatest number of members", "room_full")
        if outcome is BROKEN:
            raise ProblemError(500, "the room cannot be used; the server's log says why", "internal")
        raise ProblemError(409, "a connection with this cid was removed lately", "taken")

    @ROOMS_AND_USERS.add_route(
        "DELETE",
        "/v1/rooms/{room}/members/{cid}",
        "Take a member out of a room, and ban its user there if asked",
        {204: None},
        problems=(404, 409),
        query=schema.RemoveQuery,
    )
    async def remove(self, asked: CheckedRequest) -> Reply:
        query: schema.RemoveQuery = asked.query
        room, cid, now_ms = self._room(asked), asked.path["cid"], self._node.clock.wall_ms()
        banned_until = None if isinstance(query.ban_ms, UnsetType) else now_ms + query.ban_ms
        outcome = await self._answer(lambda done: self._node.rooms.remove(room, cid, done), room)
        if outcome is BROKEN:
            raise ProblemError(500, "the room cannot be used; the server's log says why", "internal")
        if isinstance(outcome, Done) and outcome.record is not None:
            member = outcome.record.member
            command = Remove(room, cid, member.at, member.user, banned_until)
        else:
            there = isinstance(outcome, Done) or banned_until is not None
            user = await self._user_of_connection(cid, None if there else room)
            command = Remove(room, cid, now_ms, user, banned_until)
        try:
            await self._node.registry.send_command(command)
        except BansFullError:
            await self._node.registry.send_command(Remove(room, cid, command.at))
            raise
        return Reply(204)

    async def _user_of_connection(self, cid: str, room: str | None) -> str:
        """Return whose a connection is; raise 404 where there is none, or it is not in `room`, where one is given.

        A node that does not answer may have it there.
        """
        located = await self._node.registry.locate(cid)
        if located is not None:
            rooms = None if room is None else (await self._node.registry.rooms({cid: located.node}))[cid]
            if rooms is None or room in rooms:
                return located.user
        raise ProblemError(404, "there is no such member")

    @ROOMS_AND_USERS.add_route(
        "POST",
        "/v1/rooms/members",
        "List the members of many rooms",
        {200: schema.ManyMembersAnswer},
        problems=(413,),
        body=schema.ManyMembersRequest,
        quiet=True,
    )
    async def many_members(self, asked: CheckedRequest) -> Reply:
        body: schema.ManyMembersRequest = asked.body
        rooms, left = list(dict.fromkeys(body.rooms)), schema.PAGE_MAX
        pages = {room: schema.MembersAnswer([], FIRST_PAGE) for room in rooms}

        async def read(room: str, limit: int) -> None:
            records, cursor = await self._node.room_index.members(room, None, limit)
            pages[room] = schema.MembersAnswer([_member(record) for record in records], cursor)

        while rooms and left > 0:
            limit = min(body.limit, left)
            some = rooms[: left // limit]
            rooms = rooms[len(some) :]
            await asyncio.gather(*(read(room, limit) for room in some))
            left -= sum(len(pages[room].members) for room in some)
        return Reply(200, schema.ManyMembersAnswer(pages))

    @ROOMS_AND_USERS.add_route(
        "DELETE",
        "/v1/connections/{cid}",
        "Close a connection with 4003; its resume tokens end",
        {204: None},
        problems=(404,),
    )
    async def close(self, asked: CheckedRequest) -> Reply:
        cid = asked.path["cid"]
        located = await self._node.registry.locate(cid)
        await self._answer(lambda done: self._node.rooms.end_tokens([cid], done), cid)
        await self._node.registry.send_command(Kick(cid, self._node.clock.wall_ms()))
        if located is None:
            raise ProblemError(404, "no node has such a connection")
        return Reply(204)

    # --- users ---

    @ROOMS_AND_USERS.add_route(
        "GET", "/v1/users/{user}", "Say where a user is", {200: schema.UserAnswer}, quiet=True
    )
    async def user(self, asked: CheckedRequest) -> Reply:
        user = self._user(asked)
        (status,) = await self._node.registry.users([user])
        nodes = {connection.cid: connection.node for connection in status.connections[: schema.PAGE_MAX]}
        rooms = await self._node.registry.rooms(nodes)
        connections = [
            schema.ConnectionAnswer(c.cid, c.node, c.at, rooms.get(c.cid)) for c in status.connections
        ]
        return Reply(200, schema.UserAnswer(user, bool(connections), connections, status.last_seen))

    @ROOMS_AND_USERS.add_route(
        "POST",
        "/v1/users/status",
        "Say where many users are",
        {200: schema.StatusesAnswer},
        problems=(413,),
        body=schema.StatusRequest,
        quiet=True,
    )
    async def statuses(self, asked: CheckedRequest) -> Reply:
        users: dict[str, str] = {user: checked_user(user) for user in asked.body.users}
        found = await self._node.registry.users(list(users.values()))
        answers = {
            user: schema.StatusAnswer(*_status(status)) for user, status in zip(users, found, strict=True)
        }
        return Reply(200, schema.StatusesAnswer(answers))

    @ROOMS_AND_USERS.add_route(
        "POST",
        "/v1/users/{user}/messages",
        "Send a message to every connection of a user",
        {200: schema.SentAnswer},
        problems=(413, 422),
        body=schema.MessageRequest,
        quiet=True,
    )
    async def message(self, asked: CheckedRequest) -> Reply:
        at = self._node.clock.wall_ms()
        await self._node.registry.message(self._user(asked), self._data(asked.body.data), at)
        return Reply(200, schema.SentAnswer(at))

    @ROOMS_AND_USERS.add_route(
        "POST",
        "/v1/users/{user}/disconnect",
        "Close a user's connections with 4003, and ban the user if asked",
        {200: schema.DisconnectAnswer},
        problems=(409, 413),
        body=schema.DisconnectRequest,
        body_optional=True,
    )
    async def disconnect(self, asked: CheckedRequest) -> Reply:
        body: schema.DisconnectRequest = asked.body
        user, now_ms = self._user(asked), self._node.clock.wall_ms()
        (status,) = await self._node.registry.users([user])
        cids = [connection.cid for connection in status.connections]
        await self._answer(lambda done: self._node.rooms.end_user_tokens(user, now_ms, cids, done))
        banned_until = None if isinstance(body.ban_ms, UnsetType) else now_ms + body.ban_ms
        try:
            await self._node.registry.send_command(Disconnect(user, now_ms, banned_until))
        except BansFullError:
            await self._node.registry.send_command(Disconnect(user, now_ms, None))
            raise
        return Reply(200, schema.DisconnectAnswer(len(cids)))

    @ROOMS_AND_USERS.add_route(
        "GET",
        "/v1/bans",
        "List the bans in force",
        {200: schema.BansAnswer},
        query=schema.BansQuery,
        quiet=True,
    )
    async def bans(self, asked: CheckedRequest) -> Reply:
        query: schema.BansQuery = asked.query
        entries, cursor = await self._node.registry.bans(query.cursor or None, query.limit)
        bans = [schema.BanAnswer(entry.user, entry.room or None, entry.until) for entry in entries]
        return Reply(200, schema.BansAnswer(bans, cursor))

    @ROOMS_AND_USERS.add_route(
        "DELETE", "/v1/bans/{user}", "Lift a ban", {204: None}, problems=(404,), query=schema.LiftQuery
    )
    async def lift_ban(self, asked: CheckedRequest) -> Reply:
        query: schema.LiftQuery = asked.query
        user, now_ms = self._user(asked), self._node.clock.wall_ms()
        if not await self._node.registry.send_command(Ban(user, query.room or "", now_ms, 0)):
            raise ProblemError(404, "there is no such ban")
        return Reply(204)

    # --- sessions ---

    @SESSIONS.add_route(
        "POST",
        "/v1/sessions",
        'Begin a session for auth.mode "session"',
        {201: schema.SessionCreated},
        problems=(413, 422),
        body=schema.SessionRequest,
    )
    async def create_session(self, asked: CheckedRequest) -> Reply:
        token = new_token()
        await self._node.sessions.create(session_id(token), self._session_data(asked.body))
        return Reply(201, schema.SessionCreated(token, 1), NOT_KEPT)

    @SESSIONS.add_route(
        "GET",
        "/v1/sessions/{token}",
        "Read a session, which is a use of it",
        {200: schema.SessionAnswer},
        problems=(404,),
        etag=True,
        quiet=True,
    )
    async def session(self, asked: CheckedRequest) -> Reply:
        stored = await self._node.sessions.read(session_id(asked.path["token"]))
        if stored is None:
            raise ProblemError(404, NO_SESSION)
        data = stored.data
        answer = schema.SessionAnswer(data.user, data.info, data.rooms, data.ttl_ms, stored.version)
        return Reply(200, answer, NOT_KEPT | {"ETag": f'"{stored.version}"'})

    @SESSIONS.add_route(
        "PUT",
        "/v1/sessions/{token}",
        "Change a session that is at the version named",
        {200: schema.VersionAnswer},
        problems=(404, 409, 412, 413, 422, 428),
        body=schema.SessionRequest,
        if_match=True,
        etag=True,
    )
    async def change_session(self, asked: CheckedRequest) -> Reply:
        session, version = session_id(asked.path["token"]), if_match(asked.headers.get("if-match"))
        data = self._session_data(asked.body)
        present = await self._node.sessions.read(session)
        if present is not None and present.data.user != data.user:
            raise ProblemError(409, "a session stays with its user; revoke it and make another", "conflict")
        changed = await self._node.sessions.change(session, version, data)
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
        await self._node.registry.send_command(
            Regrant(session, self._node.clock.wall_ms(), data.rooms, data.ttl_ms)
        )
        return Reply(200, schema.VersionAnswer(changed), {"ETag": f'"{changed}"'})

    @SESSIONS.add_route(
        "DELETE",
        "/v1/sessions/{token}",
        "Revoke a session; its connections are closed with 4001",
        {204: None},
        problems=(404,),
    )
    async def revoke_session(self, asked: CheckedRequest) -> Reply:
        session = session_id(asked.path["token"])
        existed = await self._node.sessions.revoke(session)
        # Also where there was none: an earlier call may have failed between the two.
        await self._node.registry.send_command(Revoke(session, self._node.clock.wall_ms()))
        if not existed:
            raise ProblemError(404, NO_SESSION)
        return Reply(204)

    # --- nodes ---

    @NODES.add_route(
        "GET", "/v1/nodes", "List the nodes that are alive", {200: schema.NodesAnswer}, quiet=True
    )
    async def nodes(self, asked: CheckedRequest) -> Reply:
        del asked
        return Reply(200, schema.NodesAnswer(await self._node.registry.nodes()))

    # --- what they share ---

    @staticmethod
    def _user(asked: CheckedRequest) -> str:
        return checked_user(asked.path["user"])

    def _room(self, asked: CheckedRequest) -> str:
        room = asked.path["room"]
        self._node.rooms.check(room)
        return room

    def _data(self, data: object) -> Document:
        return self._document("data", data, self._node.rooms.limits.message_bytes)

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
        user = checked_user(body.user)
        self._document("info", body.info, self._node.rooms.limits.info_bytes)
        try:
            Grants(body.rooms or [])
        except ValueError as exc:
            raise ProblemError(400, f"in the body: rooms: {exc}") from None
        return SessionData(user, body.ttl_ms, body.info, body.rooms)

    async def _answer(self, ask: Callable[[Callable[[Any], None]], None], tag: str | None = None) -> Any:
        """Return what a store answers by callback.

        Raises `StoreAwayError` where the shared one is not there, or the part of it that has the room or the cid `tag`.
        """
        if self._is_isolated(tag):
            raise StoreAwayError
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ask(lambda value: None if answer.done() else answer.set_result(value))
        with anyio.move_on_after(ANSWER_S):
            answered = await answer
            if not self._is_isolated(tag):
                return answered
        raise StoreAwayError

    def _is_isolated(self, tag: str | None) -> bool:
        return self._node.is_isolated() if tag is None else self._node.is_part_isolated(tag)


FIRST_PAGE: Final = "scan:0"
"""The cursor of a room's first page."""
NO_SESSION: Final = "there is no such session, or it has ended"
NOT_KEPT: Final = {"Cache-Control": "no-store"}


def _room(counts: RoomCounts) -> schema.RoomAnswer:
    return schema.RoomAnswer(counts.room, counts.count, counts.users)


def _member(record: Record) -> schema.MemberAnswer:
    member = record.member
    return schema.MemberAnswer(member.cid, member.user, member.info, member.state, member.v, member.at)


def _status(status: UserStatus) -> tuple[bool, Any, int | None]:
    return bool(status.connections), status.connections, status.last_seen


ROUTES: Final = [*ROOMS_AND_USERS.routes, *THROTTLE_ROUTES, *SESSIONS.routes, *NODES.routes, *OVERVIEW_ROUTES]
"""Every call, in the order of the reference."""
