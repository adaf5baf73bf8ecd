"""The table of calls: each with what it is sent, what it answers, and what carries it out.

Requests are checked against the table and the OpenAPI document is made of it, so that the two cannot differ.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypedDict, TypeVar, Unpack

import msgspec

from presence_server.api import schema
from presence_server.api.problems import ProblemError
from presence_server.throttle.policy import RuleName

PARAMETERS: Final[dict[str, Any]] = {
    "room": schema.Room,
    "cid": schema.Cid,
    "user": schema.User,
    "token": schema.Token,
    "rule": RuleName,
}


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request that fits the table. `path` holds the checked parameters."""

    path: Mapping[str, str]
    query: Any
    body: Any
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; no body: none."""

    status: int
    body: msgspec.Struct | None = None
    headers: dict[str, str] = field(default_factory=dict)


CarriesOut: TypeAlias = "Callable[[Any, CheckedRequest], Awaitable[Reply]]"
"""A method of `Calls`."""
Method = TypeVar("Method", bound=CarriesOut)


class RouteOptions(TypedDict, total=False):
    """The optional attributes of a route; see `Route`."""

    problems: tuple[int, ...]
    body: type[msgspec.Struct]
    body_optional: bool
    query: type[msgspec.Struct]
    if_match: bool
    etag: bool
    quiet: bool
    rate_limited: bool
    key_header: str
    depth: int


@dataclass(frozen=True, slots=True)
class Route:
    """One call, carried out by a method of `Calls`.

    `answers` are the statuses of success with their bodies, `problems` those of failure.

    `if_match` and `etag`: the version that it is for, and that it answers with. `quiet`: not worth a line in the
    log each time.
    """

    method: str
    path: str
    summary: str
    carry_out: CarriesOut
    answers: dict[int, type[msgspec.Struct] | None]
    problems: tuple[int, ...] = ()
    body: type[msgspec.Struct] | None = None
    body_optional: bool = False
    query: type[msgspec.Struct] | None = None
    if_match: bool = False
    etag: bool = False
    quiet: bool = False
    rate_limited: bool = False
    """Whether its answers have the header fields of a limiter's decision."""
    key_header: str = ""
    """The header with the key that is counted."""
    depth: int = 1
    """Levels of the body that are fields of this call; what lies deeper is kept as it was sent."""

    @property
    def segments(self) -> list[str]:
        """The parts of the path."""
        return self.path.strip("/").split("/")

    @property
    def parameters(self) -> list[str]:
        """The names of the parameters in the path."""
        return [part[1:-1] for part in self.segments if part.startswith("{")]


class ApiRoutes:
    """Collects calls, in the order in which they are defined, each beside the method that carries it out."""

    def __init__(self) -> None:
        self.routes: list[Route] = []

    def add_route(
        self,
        method: str,
        path: str,
        summary: str,
        answers: dict[int, type[msgspec.Struct] | None],
        **options: Unpack[RouteOptions],
    ) -> Callable[[Method], Method]:
        """Add a call that the decorated method carries out; the parameters are those of `Route`."""

        def added(carry_out: Method) -> Method:
            self.routes.append(Route(method, path, summary, carry_out, answers, **options))
            return carry_out

        return added


class Table:
    """Finds the route of a request. A literal part goes before a parameter: `/users/status` is no user's."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = sorted(routes, key=lambda route: [part.startswith("{") for part in route.segments])

    def find_route(self, method: str, segments: list[str]) -> tuple[Route, dict[str, str]]:
        """Return a route and its parameters. Raises `ProblemError` with 400, 404 or 405."""
        found = [route for route in self.routes if _matches(route, segments)]
        if not found:
            raise ProblemError(404, "there is no such call; see /openapi.json")
        for route in found:
            if route.method == method:
                return route, _parameters(route, segments)
        # Of the path as the document has it, although `/v1/users/status` could be a user's, too.
        allowed = ", ".join(sorted({route.method for route in found if route.path == found[0].path}))
        raise ProblemError(405, f"this can be asked with {allowed}", headers={"Allow": allowed})


def _matches(route: Route, segments: list[str]) -> bool:
    parts = route.segments
    return len(parts) == len(segments) and all(
        bool(given) if part.startswith("{") else part == given
        for part, given in zip(parts, segments, strict=True)
    )


def _parameters(route: Route, segments: list[str]) -> dict[str, str]:
    parameters = {}
    for part, given in zip(route.segments, segments, strict=True):
        if part.startswith("{"):
            name = part[1:-1]
            try:
                parameters[name] = msgspec.convert(given, PARAMETERS[name])
            except msgspec.ValidationError as exc:
                kind = "invalid_room" if name == "room" else ""
                raise ProblemError(400, f"{name} in the path: {exc}", kind) from None
    return parameters
