"""The calls of `/v1/sessions`: the opaque tokens of auth.mode "session"."""

from typing import Final

from presence_server.api import schema
from presence_server.api.call_base import CallBase
from presence_server.api.etag import if_match
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.auth.identity import checked_user
from presence_server.grants import Grants
from presence_server.opaque_sessions.port import SessionData, VersionConflict, new_token, session_id
from presence_server.registry.commands import Regrant, Revoke

ROUTES: Final = ApiRoutes()
NO_SESSION: Final = "there is no such session, or it has ended"
NOT_KEPT: Final = {"Cache-Control": "no-store"}


class SessionCalls(CallBase):
    """The calls about sessions."""

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    @ROUTES.add_route(
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

    def _session_data(self, body: schema.SessionRequest) -> SessionData:
        user = checked_user(body.user)
        self._document("info", body.info, self._node.rooms.limits.info_bytes)
        try:
            Grants(body.rooms or [])
        except ValueError as exc:
            raise ProblemError(400, f"in the body: rooms: {exc}") from None
        return SessionData(user, body.ttl_ms, body.info, body.rooms)


SESSION_ROUTES: Final = ROUTES.routes
