"""All calls of the internal port, each beside its route in the file of its part."""

from typing import Final

from presence_server.api import schema
from presence_server.api.overview import OVERVIEW_ROUTES, OverviewCalls
from presence_server.api.policy_calls import POLICY_ROUTES, PolicyCalls
from presence_server.api.room_calls import ROOM_ROUTES, RoomCalls
from presence_server.api.route_table import ApiRoutes, CheckedRequest, Reply
from presence_server.api.session_calls import SESSION_ROUTES, SessionCalls
from presence_server.api.throttle_calls import THROTTLE_ROUTES, ThrottleCalls
from presence_server.api.user_calls import USER_ROUTES, UserCalls

NODES: Final = ApiRoutes()


class Calls(RoomCalls, UserCalls, ThrottleCalls, PolicyCalls, SessionCalls, OverviewCalls):
    """The calls of the internal port. Each works the same on any node, for rooms and users of any other."""

    @NODES.add_route(
        "GET", "/v1/nodes", "List the nodes that are alive", {200: schema.NodesAnswer}, quiet=True
    )
    async def nodes(self, asked: CheckedRequest) -> Reply:
        del asked
        return Reply(200, schema.NodesAnswer(await self._node.registry.nodes()))


ROUTES: Final = [
    *ROOM_ROUTES,
    *USER_ROUTES,
    *THROTTLE_ROUTES,
    *POLICY_ROUTES,
    *SESSION_ROUTES,
    *NODES.routes,
    *OVERVIEW_ROUTES,
]
"""Every call, in the order of the reference."""
