"""The calls of `/v1/rooms`: who is in them, messages, members without a socket, removals."""

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import UnsetType

from presence_server.api import schema
from presence_server.api.call_base import CallBase
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.auth.identity import checked_user
from presence_server.errors import BansFullError
from presence_server.presence.operations import BROKEN, FULL, TAKEN, Done, Outcome
from presence_server.presence.room_index.port import RoomCounts
from presence_server.presence.roster import Record
from presence_server.registry.commands import Remove

ROUTES: Final = ApiRoutes()
FIRST_PAGE: Final = "scan:0"
"""The cursor of a room's first page."""


class RoomCalls(CallBase):
    """The calls about rooms."""

    @ROUTES.add_route(
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

    @ROUTES.add_route(
        "GET", "/v1/rooms/{room}", "Count a room's members", {200: schema.RoomAnswer}, quiet=True
    )
    async def room(self, asked: CheckedRequest) -> Reply:
        return Reply(200, _room(await self._node.room_index.counts(self._room(asked))))

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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
            # A join that was under way when its node was asked is carried out by now, or later.
            command = Remove(room, cid, self._node.clock.wall_ms(), user, banned_until)
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

    @ROUTES.add_route(
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


def _room(counts: RoomCounts) -> schema.RoomAnswer:
    return schema.RoomAnswer(counts.room, counts.count, counts.users)


def _member(record: Record) -> schema.MemberAnswer:
    member = record.member
    return schema.MemberAnswer(member.cid, member.user, member.info, member.state, member.v, member.at)


ROOM_ROUTES: Final = ROUTES.routes
