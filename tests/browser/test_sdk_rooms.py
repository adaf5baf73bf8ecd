"""The TypeScript client in a page: what its rooms say, and that its promises settle."""

import pytest

from tests.browser.sdk_page import SdkPages

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

CODE_OF = "(promise) => promise.then((value) => value, ({ code }) => code)"


async def test_people_see_each_other_come_change_speak_and_go(sdk: SdkPages) -> None:
    ann = await sdk.open("ann")
    bob = await sdk.open("bob")
    await bob.js("room.patchState({ typing: true })")
    await bob.js("room.publish('hi')")
    await bob.js("room.signal('cursor', 1); room.signal('cursor', 2)")
    await ann.until("heard.some((line) => line.startsWith('signal'))")
    assert await ann.js("room.others.map(({ state }) => state)") == [{"page": 1, "typing": True}]
    await bob.js("room.leave()")
    await ann.until("heard.includes('leave bob')")
    assert await ann.heard() == [
        "join bob",
        "update bob",
        "message bob hi",
        "signal bob cursor 2",
        "leave bob",
    ]
    assert await ann.js("room.users.map(({ user }) => user)") == ["ann"]


async def test_a_listener_that_throws_is_reported_and_breaks_nothing(sdk: SdkPages) -> None:
    page = await sdk.open("ann", joins=False)
    await page.js(
        """() => {
            client.on("status", () => { throw new Error("of a status"); });
            room.on("change", () => { throw new Error("of a change"); });
            room.on("change", async () => { throw new Error("later"); });
            room.on("change", () => heard.push("the next listener"));
        }"""
    )
    await page.js("room.join().ready")
    assert "the next listener" in await page.heard()
    uncaught = " ".join(await page.js("uncaught"))
    assert "of a change" in uncaught
    assert "later" in uncaught
    await page.js("client.ping()")


async def test_a_room_is_joined_left_and_joined_again(sdk: SdkPages) -> None:
    page = await sdk.open("ann")
    await page.js("(async () => { void room.leave(); await room.join({ state: { page: 2 } }).ready; })()")
    assert await page.js("[room.count, room.me.state]") == [1, {"page": 2}]
    await page.js("room.leave()")
    await page.js("room.join().ready")
    assert await page.js("room.count") == 1


async def test_promises_settle_though_there_never_was_a_connection(sdk: SdkPages) -> None:
    page = await sdk.open("ann", url="ws://127.0.0.1:9/ws", joins=False, awaited=False)
    left = f"""async () => {{
        const code = {CODE_OF};
        const all = [room.join().ready, room.setState({{ n: 1 }}), room.publish("hi", {{ wait: true }})].map(code);
        void room.leave();
        return Promise.all(all);
    }}"""
    assert await page.js(left) == ["ended", "ended", "ended"]
    closed = f"""async () => {{
        const code = {CODE_OF};
        const all = [room.join().ready, client.connected(), room.publish("hi", {{ wait: true }})].map(code);
        client.close();
        return Promise.all(all);
    }}"""
    assert await page.js(closed) == ["ended", "ended", "ended"]
    assert await page.js("uncaught") == []


async def test_an_update_without_a_join_is_refused(sdk: SdkPages) -> None:
    page = await sdk.open("ann", joins=False)
    assert await page.js(f"({CODE_OF})(room.setState({{ n: 1 }}))") == "not_joined"
    assert await page.js(f"({CODE_OF})(room.patchState({{ n: 1 }}))") == "not_joined"
    assert await page.js(f"({CODE_OF})(room.publish('hi'))") == "not_joined"


async def test_a_state_that_was_refused_is_not_published_by_the_next_join(sdk: SdkPages) -> None:
    page = await sdk.open("ann")
    conflict = "room.setState({ page: 2 }, { ifVersion: 7 }).catch(({ code, v }) => [code, v])"
    assert await page.js(conflict) == ["conflict", 1]
    too_large = "room.setState({ text: 'x'.repeat(5_000) }).catch(({ code }) => code)"
    assert await page.js(too_large) == "too_large"
    watcher = await sdk.open("eve", joins=False)
    await watcher.js("room.watch().ready")
    await page.page.context.set_offline(True)
    # Chromium keeps open sockets: the page gives this one up itself.
    offline = """async () => {
        client.close();
        client = sdk.connect("/ws", { user: "ann", storage: null });
        return client.join(room.name, { state: { page: 1 } })
            .setState({ page: 3 }, { ifVersion: 1 }).catch(({ code }) => code);
    }"""
    assert await page.js(offline) == "disconnected"
    await page.page.context.set_offline(False)
    await page.js("client.room(room.name).ready")
    assert await page.js("client.room(room.name).me.state") == {"page": 1}
    assert "update ann" not in await watcher.heard()
