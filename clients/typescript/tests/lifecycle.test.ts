/** What listeners, signals and refusals do to a client and its rooms, against a real server. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { connect, type Room, type TokenStorage } from "../src/index.js";
import { member, type Peer, scripted, sync } from "./scripted.js";
import { failure, Server, until, WebSocket } from "./server.js";

let server: Server;
let lobby: string;
let number = 0;
beforeAll(async () => {
  server = await Server.start();
});
beforeEach(() => {
  lobby = `life-${(number += 1)}`;
});
afterEach(() => server.closeClients());
afterAll(() => server.stop());
/** A signal that counts the listeners that it has. */
function counted(): { end: AbortController; listeners: () => number } {
  const end = new AbortController();
  const { signal } = end;
  let listeners = 0;
  const add = signal.addEventListener.bind(signal);
  signal.addEventListener = (type: string, listener: never, options?: AddEventListenerOptions) => {
    listeners += 1;
    options?.signal?.addEventListener("abort", () => (listeners -= 1));
    add(type, listener, options);
  };
  return { end, listeners: () => listeners };
}

describe("a listener of the status", () => {
  it("closes the client for good, also while it is about to connect", async () => {
    let opened = 0;
    const Counting = class extends WebSocket {
      constructor(url: string | URL, protocols?: string | string[]) {
        super(url, protocols);
        opened += 1;
      }
    };
    const client = server.client("ann", { WebSocket: Counting });
    const states: string[] = [];
    client.on("status", ({ state }) => {
      states.push(state);
      if (state === "connecting") client.close();
    });
    expect(await failure(client.connected())).toBe("ended");
    expect([states, opened]).toEqual([["connecting", "stopped"], 0]);
  });

  it("hears of no welcome once it has closed the client", async () => {
    const client = server.client("ann");
    let welcomes = 0;
    client.on("welcome", () => welcomes++);
    client.on("status", ({ state }) => state === "connected" && client.close());
    await until(() => client.status.state === "stopped");
    expect(welcomes).toBe(0);
  });

  it("connects again after the rooms have ended, and joins what it wants", async () => {
    const client = server.client("ann");
    const old = client.join(`${lobby}-old`);
    await old.ready;
    let room: Room | undefined;
    client.on("status", ({ state }) => {
      if (state !== "stopped" || room !== undefined) return;
      client.reconnect();
      room = client.join(lobby);
    });
    const kicked = await server.call("POST", "/v1/users/ann/disconnect", {});
    expect(kicked.status).toBeLessThan(300);
    await until(() => room !== undefined);
    await room!.ready;
    expect([room!.isEntered, old.isEntered]).toEqual([true, false]);
  });
});

describe("a signal that is aborted", () => {
  it("already, begins nothing: who watches afterwards does not appear", async () => {
    const bob = server.client("bob").watch(lobby);
    await bob.ready;
    const client = server.client("ann");
    await client.connected();
    const room = client.room(lobby);
    expect(await failure(room.join({ state: { n: 1 }, signal: AbortSignal.abort() }).ready)).toBe("ended");
    expect(room.isEntered).toBe(false);
    await room.watch().ready;
    expect([room.me, room.count, await failure(room.setState({ n: 2 }))]).toEqual([null, 0, "not_joined"]);
    expect(await failure(client.watch(`${lobby}-2`, { signal: AbortSignal.abort() }).ready)).toBe("ended");
  });

  it("already, ends the stay that there is, as one that is aborted later", async () => {
    const room = server.client("ann").watch(lobby);
    await room.ready;
    expect(await failure(room.join({ signal: AbortSignal.abort() }).ready)).toBe("ended");
    expect(room.isEntered).toBe(false);
  });

  it("ends its own stay only, and is let go with it", async () => {
    const { end, listeners } = counted();
    const room = server.client("ann").room(lobby);
    room.on("change", () => {}); // the client keeps a room that is heard
    await room.join({ signal: end.signal }).ready;
    await room.leave();
    expect(listeners()).toBe(0);
    await room.join().ready;
    end.abort();
    expect(room.isEntered).toBe(true);
  });

  it("later, ends a stay whose mode was changed meanwhile", async () => {
    const end = new AbortController();
    const room = server.client("ann").join(lobby, { signal: end.signal });
    await room.ready;
    room.join({ mode: "count" });
    end.abort();
    expect(room.isEntered).toBe(false);
  });
});

describe("a state that is refused", () => {
  it.each(["full", "count", "none"] as const)("leaves the one before it, in mode %s", async (mode) => {
    const bob = server.client("bob").watch(lobby);
    await bob.ready;
    const room = server.client("ann").join(lobby, { state: { name: "Ann" }, mode });
    await room.ready;
    expect(await failure(room.patchState({ big: "x".repeat(5_000) }))).toBe("too_large");
    await room.patchState({ c: 3 });
    await until(() => bob.users[0]?.connections[0]?.v === 2);
    expect(bob.users[0]?.connections[0]?.state).toEqual({ name: "Ann", c: 3 });
  });

  it("leaves one before it whose answer is still on its way", async () => {
    const room = server.client("ann").join(lobby, { state: { name: "Ann" }, mode: "count" });
    await room.patchState({ a: 0 });
    const first = room.patchState({ a: 1 });
    expect(await failure(room.setState({ big: "x".repeat(40_000) }))).toBe("too_large"); // without asking the server
    const last = room.patchState({ c: 3 });
    await Promise.all([first, last]);
    await room.join({ mode: "full" }).ready;
    await until(() => room.me !== null);
    expect(room.me?.state).toEqual({ name: "Ann", a: 1, c: 3 });
  });
});

describe("what is stored of a connection", () => {
  it.each(["null", "7", "[]", '"text"', "{}", '{"cid":"c","resume":"a b"}', '{"cid":"c","resume":7}', '{"cid":7,"resume":"r"}'])(
    "is passed over where it is %s",
    async (text) => {
      const storage: TokenStorage = { getItem: () => text, setItem() {}, removeItem() {} };
      const client = server.client("ann", { storage });
      await client.connected();
      expect(client.status).toMatchObject({ state: "connected", resumed: false });
    },
  );
});

describe("a listener that leaves and joins again", () => {
  it("hears nothing more of the room that was left, and `ready` waits for the new roster", async () => {
    const room = server.client("ann").join(lobby);
    await room.ready;
    let seen: object | null = null;
    let isBack = false;
    room.on("join", () => {
      if (isBack) return;
      isBack = true;
      void room.leave();
      room.join();
      const ready = room.ready;
      void ready.then(() => (seen = { stale: room.stale, mode: room.mode, count: room.count }));
    });
    const wrong: unknown[] = [];
    room.on("change", ({ joins }) => joins.length > room.members.size && wrong.push(joins));
    const bob = server.client("bob").join(lobby);
    await bob.ready;
    await until(() => seen !== null);
    expect([wrong, seen]).toEqual([[], { stale: false, mode: "full", count: 2 }]);
  });
});

describe("signals", () => {
  it("of three keys a frame never stop the client, and the latest of each arrives", async () => {
    const client = server.client("ann");
    const room = client.join(lobby);
    const bob = server.client("bob").join(lobby);
    await Promise.all([room.ready, bob.ready]);
    const last = new Map<string, unknown>();
    bob.on("signal", ({ key, data }) => last.set(key, data));
    const failures: Error[] = [];
    client.on("error", (error) => failures.push(error));
    let frame = 0;
    const frames = setInterval(() => {
      frame += 1;
      for (const key of ["cursor", "typing", "selection"]) room.signal(key, frame);
    }, 16);
    await until(() => frame >= 200 || client.status.state !== "connected");
    clearInterval(frames);
    await until(() => ["cursor", "typing", "selection"].every((key) => last.get(key) === frame));
    expect([client.status.state, failures]).toEqual(["connected", []]);
  });

  it("that are no JSON are told as an error, and take no other with them", async () => {
    const client = server.client("ann");
    const room = client.join(lobby);
    const bob = server.client("bob").join(lobby);
    await Promise.all([room.ready, bob.ready]);
    const heard: string[] = [];
    bob.on("signal", ({ key }) => heard.push(key));
    const failures: unknown[] = [];
    client.on("error", (error) => failures.push(error));
    room.signal("big", 10n);
    room.signal("small", 1);
    await until(() => heard.includes("small"));
    expect(failures).toMatchObject([{ name: "PresenceError", code: "bad_message" }]);
    expect(await failure(room.setState({ big: 10n }))).toBe("bad_message");
  });
});

it("takes a server that sends no maps for one that is not there", async () => {
  const { WebSocketServer } = await import("ws");
  const junk = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  await new Promise((resolve) => junk.once("listening", resolve));
  junk.on("connection", (socket) => socket.send("null"));
  const { port } = junk.address() as { port: number };
  const client = connect(`ws://127.0.0.1:${port}/ws`, { WebSocket });
  await until(() => client.status.state === "waiting");
  expect(client.status).toMatchObject({ reason: "not a server of presence messages" });
  client.close();
  junk.close();
});

it("a page that was asked for before the room was sent anew does not end the reading of it", async () => {
  const { client, peers } = scripted();
  const room = client.join("r");
  await until(() => peers.length === 1);
  const [peer] = peers as [Peer];
  const beginning = sync(["a"], { cursor: "1", count: 3, users: 3 });
  peer.say({ ...beginning, id: (await peer.asks("join")).id });
  const before = await peer.asks("members");
  peer.say(beginning);
  const after = await peer.asks("members", 2);
  let ready = false;
  void room.ready.then(() => (ready = true));
  peer.say({ t: "page", room: "r", members: [member("z")], cursor: null, id: before.id });
  await new Promise((resolve) => setTimeout(resolve));
  expect([ready, [...room.members.keys()]]).toEqual([false, ["a"]]);
  peer.say({ t: "page", room: "r", members: [member("b"), member("z")], cursor: null, id: after.id });
  await room.ready;
  expect([...room.members.keys()]).toEqual(["a", "b", "z"]);
  client.close();
});

it("lets go of rooms that nobody is in, hears or holds", async () => {
  const { setFlagsFromString } = await import("node:v8");
  const { runInNewContext } = await import("node:vm");
  setFlagsFromString("--expose-gc");
  const gc = runInNewContext("gc") as () => void;
  const client = server.client("ann");
  await client.connected();
  const [left, never] = await (async () => {
    const room = client.room(`${lobby}-left`);
    const stop = room.on("change", () => {});
    await room.join().ready;
    await room.leave();
    stop();
    const looked = client.room(`${lobby}-never`);
    return [new WeakRef(room), new WeakRef(looked)];
  })();
  client.room(`${lobby}-heard`).on("change", () => {});
  const heard = new WeakRef(client.room(`${lobby}-heard`));
  await until(() => (gc(), left!.deref() === undefined && never!.deref() === undefined));
  expect(heard.deref()).toBe(client.room(`${lobby}-heard`));
});
