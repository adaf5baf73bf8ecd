import { once } from "node:events";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { connect, type PresenceError } from "../src/index.js";
import { WebSocketServer } from "ws";
import { failure, Server, until, WebSocket } from "./server.js";

let shared: Server;
let lobby: string;
let number = 0;
const servers: Server[] = [];
beforeAll(async () => {
  shared = await Server.start();
});
beforeEach(() => {
  lobby = `lobby-${(number += 1)}`;
});
afterEach(async () => {
  shared.closeClients();
  for (const server of servers.splice(0)) await server.stop();
});
afterAll(() => shared.stop());
/** A server of the test's own, to be broken or with settings of its own. */
async function start(...args: string[]): Promise<Server> {
  const server = await Server.start(...args);
  servers.push(server);
  return server;
}

describe("a room", () => {
  it("is one object, whether it was listened to or joined first", async () => {
    const server = shared;
    const client = server.client("ann");
    const counts: number[] = [];
    client.room(lobby).on("change", () => counts.push(client.room(lobby).count));
    const room = client.join(lobby);
    await room.ready;
    expect(counts).toEqual([1]);
    expect(client.room(lobby)).toBe(room);
    await room.leave();
    expect(client.join(lobby)).toBe(room);
  });

  it("shows who is there, what they do and that they go", async () => {
    const server = shared;
    const ann = server.client("ann").join<{ State: { at: string }; Info: unknown; Message: string }>(lobby, { state: { at: "door" } });
    const client = server.client("bob", { info: { name: "Bob" } });
    const bob = client.join<{ State: { at: string }; Info: unknown; Message: string }>(lobby);
    await Promise.all([ann.ready, bob.ready]);
    await until(() => ann.others.length === 1);
    expect(bob.me).toMatchObject({ user: "bob", info: { name: "Bob" }, state: {} });
    expect(bob.others).toMatchObject([{ user: "ann", state: { at: "door" }, v: 1 }]);
    const heard: string[] = [];
    ann.on("update", ({ user, state }) => heard.push(`${user} at ${state.at}`));
    ann.on("message", ({ user, data }) => heard.push(`${user} says ${data}`));
    ann.on("signal", ({ user, key, data }) => heard.push(`${user} ${key} ${String(data)}`));
    ann.on("leave", ({ user, reason }) => heard.push(`${user} ${reason}`));
    expect(await bob.setState({ at: "desk" })).toBe(2);
    expect(await bob.patchState({ at: "window" })).toBe(3);
    expect(await bob.publish("hi")).toBeGreaterThan(1_600_000_000_000);
    bob.signal("typing", 1);
    bob.signal("typing", 2); // of one frame the latest counts
    await until(() => heard.includes("bob typing 2"));
    await bob.leave();
    await until(() => heard.includes("bob left"));
    expect(heard.filter((line) => line.includes("typing"))).toEqual(["bob typing 2"]);
    expect(heard.indexOf("bob says hi")).toBeGreaterThan(-1);
    expect(ann.others).toEqual([]);
  });

  it("gives the same snapshot until something changes", async () => {
    const server = shared;
    const room = server.client("ann").join(lobby);
    await room.ready;
    const before = room.snapshot;
    expect(room.snapshot).toBe(before);
    await server.client("bob").join(lobby).ready;
    await until(() => room.count === 2);
    expect(room.snapshot).not.toBe(before);
    expect(before.count).toBe(1);
  });

  it("can be left and joined again with the same object and with a new one", async () => {
    const server = shared;
    const client = server.client("ann");
    const room = client.join(lobby);
    await room.ready;
    const left = room.leave();
    room.join({ state: { again: true } });
    await left;
    await room.ready;
    expect(room.me).toMatchObject({ state: { again: true } });
    await room.leave();
    const another = client.join(lobby);
    await another.ready;
    expect(another.count).toBe(1);
  });

  it("merges a roster that comes in pages", async () => {
    const server = shared;
    for (let i = 0; i < 520; i++) {
      const member = { user: `bot-${i}`, info: {}, state: {}, ttl_ms: 600_000 };
      expect((await server.call("PUT", `/v1/rooms/${lobby}/members/bot-${i}`, member)).status).toBe(201);
    }
    const room = server.client("ann").join(lobby);
    await room.ready;
    expect(room.members.size).toBe(521);
    expect(room.count).toBe(521);
  });

  it("gives its events to an iteration, which ends with the room", async () => {
    const server = shared;
    const room = server.client("ann").join(lobby);
    await room.ready;
    const joined: string[] = [];
    const reading = (async () => {
      for await (const { type, event } of room) if (type === "join") joined.push(event.user);
    })();
    await server.client("bob").join(lobby).ready;
    await until(() => joined.includes("bob"));
    await room.leave();
    await reading;
  });

  it("is left when a signal that came with a later join is aborted", async () => {
    const server = shared;
    const room = server.client("ann").join(lobby);
    const end = new AbortController();
    await room.join({ signal: end.signal }).ready;
    end.abort();
    expect(room.isEntered).toBe(false);
  });

  it("is joined again where the server could not let it in for now", async () => {
    const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    await once(server, "listening");
    let joins = 0;
    server.on("connection", (socket) => {
      const say = (message: object) => socket.send(JSON.stringify(message));
      say({ t: "welcome", cid: "c", user: "ann", info: {}, resumed: false, resume: "r", node: "n", ping_ms: 15_000, time: 1, limits: {} });
      socket.on("message", (text) => {
        const { t, id, room } = JSON.parse(String(text));
        if (t !== "join") return;
        if ((joins += 1) < 3) say({ t: "error", id, room, code: joins === 1 ? "unavailable" : "internal", message: "not now" });
        else say({ t: "sync", id, room, mode: "count", you: true, seq: 1, count: 1, users: 1, members: [], cursor: null, stale: false });
      });
    });
    const { port } = server.address() as { port: number };
    const client = connect(`ws://127.0.0.1:${port}/ws`, { WebSocket });
    const room = client.join(lobby);
    await room.ready;
    expect([joins, room.count]).toEqual([3, 1]);
    client.close();
    server.close();
  });

  it("is left when its signal is aborted", async () => {
    const server = shared;
    const watcher = server.client("bob").watch(lobby);
    await watcher.ready;
    const end = new AbortController();
    await server.client("ann").join(lobby, { signal: end.signal }).ready;
    await until(() => watcher.count === 1);
    end.abort();
    await until(() => watcher.count === 0);
  });
});

describe("a listener that throws", () => {
  it("is reported, and breaks neither the join nor other listeners", async () => {
    const server = shared;
    const reported: unknown[] = [];
    const report = console.error;
    console.error = (error: unknown) => reported.push(error);
    try {
      const client = server.client("ann");
      client.on("welcome", () => {
        throw new Error("a mistake of the page");
      });
      const room = client.join(lobby);
      room.on("change", async () => {
        throw new Error("another");
      });
      let changes = 0;
      room.on("change", () => changes++);
      await room.ready;
      expect(changes).toBeGreaterThan(0);
      await until(() => reported.length >= 2);
      expect(client.status.state).toBe("connected");
    } finally {
      console.error = report;
    }
  });
});

describe("promises", () => {
  it("settle when the room is left, or the client closed, before there was a connection", async () => {
    const server = shared;
    const early = server.client("ann").join(lobby);
    const ready = failure(early.ready);
    void early.leave();
    expect(await ready).toBe("ended");
    const client = server.client("bob");
    const room = client.join(lobby);
    const all = [room.ready, room.setState({ x: 1 }), room.publish("hi", { wait: true }), client.connected()].map(failure);
    client.close();
    expect(await Promise.all(all)).toEqual(["ended", "ended", "ended", "ended"]);
    expect(await failure(client.join(lobby).ready)).toBe("ended");
  });

  it("settle where the client was aborted before it began, or has stopped", async () => {
    const aborted = connect("ws://127.0.0.1:1/ws", { WebSocket, signal: AbortSignal.abort() });
    expect(aborted.status).toMatchObject({ state: "stopped", code: 1000 });
    expect(await failure(aborted.join(lobby).ready)).toBe("ended");
    const server = await start("--auth.mode", "jwt", "--auth.secret", "x".repeat(32));
    const client = server.client("ann");
    await until(() => client.status.state === "stopped");
    const room = client.join(lobby);
    expect(await failure(room.ready)).toBe("ended");
    expect(room.isEntered).toBe(false);
  });

  it("of a publish that waits, over a loss of the connection, settle with the room's return", async () => {
    const server = await start();
    const client = server.client("ann");
    const room = client.join(lobby);
    await room.ready;
    await server.signal("SIGKILL");
    await until(() => client.status.state === "waiting");
    const sent = room.publish("late", { wait: true });
    await server.start();
    client.reconnect();
    expect(await sent).toBeGreaterThan(0);
  });

  it("say that a room is not joined", async () => {
    const server = shared;
    const client = server.client("ann");
    await client.connected();
    expect(await failure(client.room(lobby).setState({ x: 1 }))).toBe("not_joined");
    const watched = client.watch(lobby);
    await watched.ready;
    expect(await failure(watched.setState({ x: 1 }))).toBe("not_joined");
    expect(await failure(client.room("attic").publish("hi"))).toBe("not_joined");
  });

  it("say what the server refuses, and the room is left", async () => {
    const server = shared;
    const client = server.client("ann");
    const refused: string[] = [];
    const room = client.room("no room?");
    room.on("refused", ({ code }) => refused.push(code));
    expect(await failure(room.join().ready)).toBe("invalid_room");
    expect([refused, room.isEntered]).toEqual([["invalid_room"], false]);
  });
});

describe("a state", () => {
  it("that was refused with conflict is not kept", async () => {
    const server = await start();
    const client = server.client("ann");
    const room = client.join(lobby, { state: { n: 1 } });
    await room.ready;
    const error = await room.setState({ n: 2 }, { ifVersion: 7 }).catch((error: PresenceError) => error);
    expect(error).toMatchObject({ code: "conflict", v: 1 });
    await server.signal("SIGKILL");
    await until(() => client.status.state === "waiting");
    expect(await failure(room.setState({ n: 3 }, { ifVersion: 1 }))).toBe("disconnected");
    await server.start();
    await until(() => client.status.state === "connected" && !room.stale);
    expect(room.me?.state).toEqual({ n: 1 });
  });

  it("that was set while disconnected goes with the next join, and its promise resolves", async () => {
    const server = await start();
    const client = server.client("ann");
    const room = client.join(lobby, { state: { n: 1 } });
    await room.ready;
    await server.signal("SIGKILL");
    await until(() => client.status.state === "waiting");
    const set = room.setState({ n: 2 });
    await server.start();
    expect(await set).toBeGreaterThan(0);
    expect(room.me?.state).toEqual({ n: 2 });
  });

  it("that is too large is refused, and the one before stays", async () => {
    const server = shared;
    const room = server.client("ann").join(lobby, { state: { n: 1 } });
    await room.ready;
    expect(await failure(room.setState({ text: "x".repeat(5_000) }))).toBe("too_large");
    expect(await failure(room.publish("x".repeat(40_000)))).toBe("too_large");
    expect(await room.patchState({ m: 2 })).toBe(2);
    await until(() => room.me?.v === 2);
    expect(room.me?.state).toEqual({ n: 1, m: 2 });
  });
});

describe("while a page is rendered on a server", () => {
  it("a client connects to nothing, whatever the platform has, until it is used", () => {
    let opened = 0;
    const platform = globalThis.WebSocket;
    globalThis.WebSocket = class {
      constructor() {
        opened += 1;
      }
    } as unknown as typeof globalThis.WebSocket;
    try {
      const client = connect("/ws", { user: "ann" });
      const room = client.room(lobby);
      expect([client.status.state, room.users, room.me, room.stale, opened]).toEqual(["connecting", [], null, true, 0]);
    } finally {
      globalThis.WebSocket = platform;
    }
  });

  it("a client never connects where it has no class to", () => {
    const client = connect("/ws", { WebSocket: null });
    const room = client.join(lobby, { state: { n: 1 } });
    expect([client.status.state, room.users, room.me, room.stale]).toEqual(["connecting", [], null, true]);
    client.close();
    expect(room.isEntered).toBe(false);
  });
});

it("says so where it is to connect and the platform has no WebSocket", async () => {
  const platform = globalThis.WebSocket;
  globalThis.WebSocket = undefined as unknown as typeof globalThis.WebSocket; // as Node.js 20
  try {
    const client = connect("ws://127.0.0.1:1/ws");
    expect(await failure(client.join(lobby).ready)).toBe("ended");
    expect(client.status).toMatchObject({ state: "stopped", reason: expect.stringContaining("WebSocket") });
  } finally {
    globalThis.WebSocket = platform;
  }
});
