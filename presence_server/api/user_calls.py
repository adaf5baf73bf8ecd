"""The calls of `/v1/users`, `/v1/connections` and `/v1/bans`: where users are, messages to them, bans."""

from typing import Any, Final

from msgspec import UnsetType

from presence_server.api import schema
from presence_server.api.call_base import CallBase
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.auth.identity import checked_user
from presence_server.errors import BansFullError
from presence_server.registry.commands import Ban, Disconnect, Kick
from presence_server.registry.port import UserStatus

ROUTES: Final = ApiRoutes()


class UserCalls(CallBase):
    """The calls about users and their connections."""

    @ROUTES.add_route(
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

    @ROUTES.add_route("GET", "/v1/users/{user}", "Say where a user is", {200: schema.UserAnswer}, quiet=True)
    async def user(self, asked: CheckedRequest) -> Reply:
        user = self._user(asked)
        (status,) = await self._node.registry.users([user])
        nodes = {connection.cid: connection.node for connection in status.connections[: schema.PAGE_MAX]}
        rooms = await self._node.registry.rooms(nodes)
        connections = [
            schema.ConnectionAnswer(c.cid, c.node, c.at, rooms.get(c.cid)) for c in status.connections
        ]
        return Reply(200, schema.UserAnswer(user, bool(connections), connections, status.last_seen))

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    @ROUTES.add_route(
        "DELETE", "/v1/bans/{user}", "Lift a ban", {204: None}, problems=(404,), query=schema.LiftQuery
    )
    async def lift_ban(self, asked: CheckedRequest) -> Reply:
        query: schema.LiftQuery = asked.query
        user, now_ms = self._user(asked), self._node.clock.wall_ms()
        if not await self._node.registry.send_command(Ban(user, query.room or "", now_ms, 0)):
            raise ProblemError(404, "there is no such ban")
        return Reply(204)


def _status(status: UserStatus) -> tuple[bool, Any, int | None]:
    return bool(status.connections), status.connections, status.last_seen


USER_ROUTES: Final = ROUTES.routes
