"""Users' names are compared in one form, whoever says them: a client, a backend, a ban."""

from urllib.parse import quote

import pytest

from tests.support.api import call
from tests.support.node import Node
from tests.support.rawclient import RawClient, speaking

pytestmark = pytest.mark.anyio

COMPOSED = "Zo\u00eb"
SPELLINGS = (COMPOSED, "Zoe\u0308", " Zo\u00eb ", "\u00a0Zoe\u0308\u2003", "\u3000Zo\u00eb")


@pytest.mark.parametrize("given", SPELLINGS, ids=ascii)
async def test_a_name_is_told_as_it_is_compared(node: Node, given: str) -> None:
    async with speaking(node.port, f"/ws?user={quote(given)}") as client:
        assert client.welcome["user"] == COMPOSED
        sync = await client.request(t="join", room="names", id=1)
        assert {member["user"] for member in sync["members"]} == {COMPOSED}


async def test_two_spellings_of_a_name_are_one_user(node: Node) -> None:
    composed, decomposed = "L\u00e9a", "Le\u0301a"
    async with (
        speaking(node.port, f"/ws?user={quote(decomposed)}") as one,
        speaking(node.port, f"/ws?user={quote(f' {composed} ')}") as other,
    ):
        await one.request(t="join", room="users", id=1)
        sync = await other.request(t="join", room="users", id=1)
        assert (sync["count"], sync["users"]) == (2, 1)
        status = (await call(node, "GET", f"/v1/users/{quote(decomposed + ' ')}")).body
        assert (status["user"], len(status["connections"])) == (composed, 2)
        statuses = (await call(node, "POST", "/v1/users/status", {"users": [decomposed]})).body["users"]
        assert statuses[decomposed]["online"] is True
        await call(node, "POST", f"/v1/users/{quote(composed)}/messages", {"data": "hello"})
        assert (await one.until("message"))[-1]["data"] == "hello"


@pytest.mark.parametrize("given", ["%20", "%20%C2%A0%E3%80%80"])
async def test_a_name_of_blanks_is_none(node: Node, given: str) -> None:
    async with RawClient(node.port) as client:
        assert (await client.ask(f"/ws?user={given}")).status == 400
    assert (await call(node, "GET", f"/v1/users/{given}")).status == 400


async def test_a_ban_is_for_every_spelling(node: Node) -> None:
    banned = "re\u0301becca"
    answer = await call(node, "POST", f"/v1/users/{quote(banned)}/disconnect", {"ban_ms": 60_000})
    assert answer.status == 200
    for given in ("r\u00e9becca", "re\u0301becca ", "%20r%C3%A9becca"):
        async with RawClient(node.port) as client:
            path = given if "%" in given else quote(given)
            assert (await client.ask(f"/ws?user={path}")).status == 403
