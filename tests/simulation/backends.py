"""The backends of a run: their questions to nodes, and the answers."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET

from presence_server.api import schema
from presence_server.api.calls import Calls
from presence_server.api.problems import ProblemError
from presence_server.api.route_table import CheckedRequest
from presence_server.errors import StoreAwayError
from tests.simulation import plan as steps
from tests.simulation.chronicle import Answer, GivenCommand, Publication
from tests.simulation.clients import Browser, Net
from tests.simulation.nodes import SimulatedNode
from tests.simulation.plan import ROOMS

ASKING_MS: Final = 3_000
"""The longest that the questions of the quiet moment take."""


class Backends:
    """Does the steps of a plan that backends do; `browsers` are the clients that these are about, by number."""

    def __init__(self, net: Net, browsers: list[Browser]) -> None:
        self.net = net
        self.world = net.world
        self.chronicle = net.chronicle
        self.browsers = browsers

    def remove(self, step: steps.Remove) -> None:
        browser = self.browsers[step.who]
        if browser.cid:
            path = {"room": step.room, "cid": browser.cid}
            ban_ms = UNSET if step.ban_ms is None else step.ban_ms
            command = self._command(
                "remove", step.node, cid=browser.cid, user=browser.user, room=step.room, ban_ms=step.ban_ms
            )
            self._ask(command, Calls.remove, CheckedRequest(path, schema.RemoveQuery(ban_ms), None, {}))

    def kick(self, step: steps.Kick) -> None:
        browser = self.browsers[step.who]
        if browser.cid:
            command = self._command("kick", step.node, cid=browser.cid)
            self._ask(command, Calls.close, CheckedRequest({"cid": browser.cid}, None, None, {}))

    def disconnect(self, step: steps.Disconnect) -> None:
        user = self.browsers[step.who].user
        body = schema.DisconnectRequest(UNSET if step.ban_ms is None else step.ban_ms)
        command = self._command("disconnect", step.node, user=user, ban_ms=step.ban_ms)
        self._ask(command, Calls.disconnect, CheckedRequest({"user": user}, None, body, {}))

    def say(self, step: steps.Say) -> None:
        node = step.node % len(self.net.slots)
        publication = Publication(self.chronicle.number(), None, node, step.room, self.world.now_ms)
        self.chronicle.publications[publication.number] = publication
        body = schema.MessageRequest({"n": publication.number})

        def said(status: int, _: Any) -> None:
            if status == 200:
                publication.ok_ms = self.world.now_ms

        self._call(node, Calls.publish, CheckedRequest({"room": step.room}, None, body, {}), said)

    def lease(self, step: steps.Lease) -> None:
        path = {"room": step.room, "cid": f"leased-{step.who}"}
        body = schema.EnterRequest("sensor", state={"n": 0}, ttl_ms=steps.LEASE_MS)
        self._call(step.node, Calls.enter, CheckedRequest(path, None, body, {}))

    def message(self, step: steps.Message) -> None:
        node, user = step.node % len(self.net.slots), self.browsers[step.who].user
        publication = Publication(self.chronicle.number(), None, node, "", self.world.now_ms, user)
        self.chronicle.publications[publication.number] = publication
        body = schema.MessageRequest({"n": publication.number})

        def sent(status: int, _: Any) -> None:
            if status == 200:
                publication.ok_ms = self.world.now_ms

        self._call(node, Calls.message, CheckedRequest({"user": user}, None, body, {}), sent)

    def read(self, step: steps.Read) -> None:
        room, user = {"room": step.room}, {"user": self.browsers[step.who].user}
        self._read(step.node, "room", step.room, Calls.room, CheckedRequest(room, None, None, {}))
        self._read(
            step.node,
            "members",
            step.room,
            Calls.members,
            CheckedRequest(room, schema.MembersQuery(), None, {}),
        )
        self._read(step.node, "user", user["user"], Calls.user, CheckedRequest(user, None, None, {}))

    def _read(self, slot: int, kind: str, what: str, call: Any, asked: CheckedRequest) -> None:
        node, asked_ms = slot % len(self.net.slots), self.world.now_ms

        def answered(status: int, body: Any) -> None:
            if status == 200:
                answer = Answer(node, kind, what, asked_ms, self.world.now_ms, _plain(body))
                self.chronicle.answers.append(answer)

        self._call(node, call, asked, answered)

    def _command(
        self,
        kind: str,
        node: int,
        *,
        cid: str = "",
        user: str = "",
        room: str = "",
        ban_ms: int | None = None,
    ) -> GivenCommand:
        command = GivenCommand(kind, node, cid, user, room, self.world.now_ms, ban_ms)
        self.chronicle.commands.append(command)
        return command

    def _ask(self, command: GivenCommand, call: Any, asked: CheckedRequest) -> None:
        def answered(status: int, _: Any) -> None:
            command.answered_ms, command.status = self.world.now_ms, status
            self.chronicle.note(
                self.world.now_ms, f"{command.kind} {command.cid or command.user} answered {status}"
            )

        self._call(command.node, call, asked, answered)

    def _call(
        self,
        slot: int,
        call: Any,
        asked: CheckedRequest,
        answered: Callable[[int, Any], None] = lambda status, body: None,
    ) -> None:
        node = self.net.slot(slot)
        if not (node.alive and node.ready):
            return

        async def run() -> None:
            try:
                reply = await call(Calls(node.core.api_dependencies), asked)
            except ProblemError as exc:
                answered(exc.status, None)
            except StoreAwayError:
                answered(503, None)
            else:
                answered(reply.status, reply.body)

        node.call(run)

    # --- what they are told when it is quiet ---

    def ask_all(self) -> dict[tuple[str, str], Any]:
        """Ask every node about every room and user; return what each answers."""
        answers: dict[tuple[str, str], Any] = {}
        users = sorted({browser.user for browser in self.browsers})
        for node in self.world.alive:
            for room in ROOMS:
                self._question(answers, node, f"room {room}", Calls.room, {"room": room})
                self._question(
                    answers,
                    node,
                    f"members {room}",
                    Calls.members,
                    {"room": room},
                    query=schema.MembersQuery(),
                )
            self._question(answers, node, "rooms all", Calls.rooms, {}, query=schema.RoomsQuery())
            for user in users:
                self._question(answers, node, f"user {user}", Calls.user, {"user": user})
        self.world.run_for(ASKING_MS)
        return answers

    def _question(
        self,
        answers: dict[tuple[str, str], Any],
        node: SimulatedNode,
        question: str,
        call: Any,
        path: dict[str, str],
        *,
        query: Any = None,
    ) -> None:
        key = (node.name, question)
        answers[key] = TimeoutError("no answer")

        async def run() -> None:
            try:
                reply = await call(Calls(node.core.api_dependencies), CheckedRequest(path, query, None, {}))
            except (ProblemError, StoreAwayError) as exc:
                answers[key] = exc
            else:
                answers[key] = _plain(reply.body)

        node.call(run)


def _plain(body: Any) -> Any:
    match body:
        case schema.RoomAnswer():
            return (body.count, body.users)
        case schema.MembersAnswer():
            return sorted(member.cid for member in body.members)
        case schema.RoomsAnswer():
            return sorted(room.room for room in body.rooms)
        case schema.UserAnswer():
            return sorted(connection.cid for connection in body.connections)
    return body


DOES: Final[dict[type, Callable[[Backends, Any], None]]] = {
    steps.Remove: Backends.remove,
    steps.Kick: Backends.kick,
    steps.Disconnect: Backends.disconnect,
    steps.Say: Backends.say,
    steps.Read: Backends.read,
    steps.Lease: Backends.lease,
    steps.Message: Backends.message,
}
