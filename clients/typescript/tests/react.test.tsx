// @vitest-environment jsdom
import { act, cleanup, render } from "@testing-library/react";
import { StrictMode } from "react";
import { renderToString } from "react-dom/server";
import { afterEach, expect, it } from "vitest";
import { type Client, type Room } from "../src/index.js";
import { useOthers, useRoom, useSelf, useStatus } from "../src/react.js";
import { Server, until } from "./server.js";

const servers: Server[] = [];
afterEach(async () => {
  cleanup();
  for (const server of servers.splice(0)) await server.stop();
});
async function serve(): Promise<Server> {
  const server = await Server.start();
  servers.push(server);
  return server;
}

let renders = 0;
function People({ client, name, n }: { client: Client; name: string; n: number }) {
  const room = useRoom<{ State: { n: number }; Info: unknown; Message: unknown }>(client, name, { state: { n } });
  const others = useOthers(room);
  const self = useSelf(room);
  const { state } = useStatus(client);
  renders += 1;
  return <p>{`${state} ${self?.user ?? "nobody"} ${self?.state.n ?? ""} with ${others.map(({ user }) => user).join()}`}</p>;
}

async function settles(check: () => boolean): Promise<void> {
  await act(() => until(check));
}

it("joins once in StrictMode, shows who is there, and leaves when it goes", async () => {
  const server = await serve();
  const watched: Room = server.client("eve").watch("lobby");
  await watched.ready;
  const heard: string[] = [];
  watched.on("join", ({ user }) => heard.push(`${user} joined`));
  watched.on("leave", ({ user, reason }) => heard.push(`${user} ${reason}`));
  const client = server.client("ann");
  const page = render(<StrictMode><People client={client} name="lobby" n={1} /></StrictMode>);
  await settles(() => page.container.textContent === "connected ann 1 with ");
  const bob = server.client("bob").join("lobby");
  await settles(() => page.container.textContent === "connected ann 1 with bob");
  page.rerender(<StrictMode><People client={client} name="lobby" n={2} /></StrictMode>);
  await settles(() => page.container.textContent === "connected ann 2 with bob");
  await bob.leave();
  await settles(() => page.container.textContent === "connected ann 2 with ");
  page.unmount();
  await until(() => heard.includes("ann left"));
  expect(heard).toEqual(["ann joined", "bob joined", "bob left", "ann left"]);
});

it("renders for a change alone", async () => {
  const server = await serve();
  const client = server.client("ann");
  const page = render(<People client={client} name="lobby" n={1} />);
  await settles(() => page.container.textContent === "connected ann 1 with ");
  const before = renders;
  await act(async () => {
    const watcher = server.client("eve").watch("lobby");
    await watcher.ready;
    await watcher.publish("no change of the roster");
    await client.ping();
  });
  expect(renders).toBe(before);
});

it("renders who shows the others when they change, not when this client does", async () => {
  const server = await serve();
  const client = server.client("ann");
  const rendered: string[] = [];
  function Others({ room }: { room: Room }) {
    rendered.push(useOthers(room).map(({ user }) => user).join());
    return null;
  }
  function Self({ room }: { room: Room }) {
    rendered.push(`self ${useSelf(room)?.v ?? "away"}`);
    return null;
  }
  const room = client.join("lobby");
  await room.ready;
  render(<><Others room={room} /><Self room={room} /></>);
  const settled = async (last: string) => {
    await settles(() => rendered.includes(last));
    return rendered.splice(0);
  };
  expect(await settled("self 1")).toEqual(["", "self 1"]);
  await act(() => room.setState({ n: 1 }));
  expect(await settled("self 2")).toEqual(["self 2"]);
  server.client("bob").join("lobby");
  expect(await settled("bob")).toEqual(["bob"]);
  await server.signal("SIGKILL");
  await act(() => until(() => room.stale));
  expect(rendered.splice(0)).toEqual([]);
});

it("is rendered on a server without connecting, and takes over in the browser", async () => {
  const server = await serve();
  const client = server.client("ann");
  const html = renderToString(<People client={client} name="lobby" n={1} />);
  expect(html).toBe("<p>connecting nobody  with </p>");
  const element = document.createElement("div");
  element.innerHTML = html;
  const page = render(<People client={client} name="lobby" n={1} />, { container: element, hydrate: true });
  await settles(() => page.container.textContent === "connected ann 1 with ");
});

it("goes to another room with its name", async () => {
  const server = await serve();
  const client = server.client("ann");
  await server.client("bob").join("attic").ready;
  const page = render(<People client={client} name="lobby" n={1} />);
  await settles(() => page.container.textContent === "connected ann 1 with ");
  page.rerender(<People client={client} name="attic" n={1} />);
  await settles(() => page.container.textContent === "connected ann 1 with bob");
});

it("is seen by nobody any more when the last component that joined has gone, while one that watches stays", async () => {
  const server = await serve();
  const eve = server.client("eve").watch("lobby");
  await eve.ready;
  const client = server.client("ann");
  function Join() {
    const room = useRoom(client, "lobby", { state: { n: 1 } });
    return <i>{useSelf(room)?.user ?? "nobody"}</i>;
  }
  function Watch() {
    const room = useRoom(client, "lobby", { watch: true });
    return <b>{useOthers(room).map(({ user }) => user).join()}</b>;
  }
  const page = (joins: boolean) => <StrictMode>{joins && <Join />}<Watch /></StrictMode>;
  const { rerender, container } = render(page(true));
  await settles(() => eve.count === 1 && container.textContent === "ann");
  let ended = false;
  const room = client.room("lobby");
  void (async () => {
    for await (const _ of room);
    ended = true;
  })();
  rerender(page(false));
  await settles(() => eve.count === 0);
  server.client("bob").join("lobby");
  await settles(() => container.textContent === "bob");
  expect([ended, room.me, room.isEntered]).toEqual([false, null, true]);
  rerender(page(true));
  await settles(() => eve.count === 2);
  expect(eve.users.map(({ user, connections }) => [user, connections[0]!.state])).toContainEqual(["ann", { n: 1 }]);
});

it("is a member again after the client had stopped and connects again", async () => {
  const server = await serve();
  const client = server.client("ann");
  const page = render(<People client={client} name="lobby" n={1} />);
  await settles(() => page.container.textContent === "connected ann 1 with ");
  await act(() => server.call("POST", "/v1/users/ann/disconnect", {}));
  await settles(() => client.status.state === "stopped");
  act(() => client.reconnect());
  await settles(() => page.container.textContent === "connected ann 1 with ");
});

it("follows another mode, and another client at once", async () => {
  const server = await serve();
  const [ann, eve] = [server.client("ann"), server.client("eve")];
  await server.client("bob").join("lobby").ready;
  const shown: string[] = [];
  function Users({ client, mode }: { client: Client; mode: "count" | "full" }) {
    const room = useRoom(client, "lobby", { mode, state: { n: 1 } });
    useOthers(room);
    shown.push(`${client === ann ? "ann" : "eve"}: ${room.me?.user ?? "nobody"}`);
    return <p>{room.users.map(({ user }) => user).sort().join()}</p>;
  }
  const page = render(<Users client={ann} mode="count" />);
  await act(() => ann.room("lobby").ready);
  expect(page.container.textContent).toBe("");
  page.rerender(<Users client={ann} mode="full" />);
  await settles(() => page.container.textContent === "ann,bob");
  page.rerender(<Users client={eve} mode="full" />);
  await settles(() => page.container.textContent === "bob,eve");
  expect(shown.filter((line) => line === "eve: ann")).toEqual([]);
});

it("does not leave a room that the application has joined itself", async () => {
  const server = await serve();
  const client = server.client("ann");
  const room = client.join("lobby", { state: { n: 7 } });
  await room.ready;
  function Watch() {
    return <b>{useOthers(useRoom(client, "lobby", { watch: true })).length}</b>;
  }
  const page = render(<StrictMode><Watch /></StrictMode>);
  await settles(() => page.container.textContent === "0");
  page.unmount();
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([room.isEntered, room.me?.user]).toEqual([true, "ann"]);
});

it("is in no room any more where the component goes before the server has answered", async () => {
  const server = await serve();
  const eve = server.client("eve").join("lobby");
  await eve.ready;
  const client = server.client("ann");
  await client.connected();
  const page = render(<People client={client} name="lobby" n={1} />);
  page.unmount();
  await new Promise((resolve) => setTimeout(resolve));
  await client.ping(); // what was sent before is handled
  await eve.publish("so is what it told the others");
  expect(eve.users.map(({ user }) => user)).toEqual(["eve"]);
});
