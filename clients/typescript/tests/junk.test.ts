/** Servers that say what no server of presence messages says. */
import { afterEach, describe, expect, it, vi } from "vitest";
import type { Client, ConnectOptions } from "../src/index.js";
import { type Peer, scripted, sync, WELCOME } from "./scripted.js";
import { until } from "./server.js";

let client: Client;
let peers: Peer[];
afterEach(() => client.close());
async function connected(options: ConnectOptions & { welcomes?: boolean } = {}): Promise<Peer> {
  ({ client, peers } = scripted(options));
  client.room("r").on("change", () => {});
  await until(() => peers.length === 1);
  return peers[0]!;
}

describe("a connection is given up, with the reason,", () => {
  it.each([null, 5, "x", [], { t: 7 }, {}])("where it says %j", async (message) => {
    const peer = await connected({ welcomes: false });
    peer.say(message);
    expect(client.status).toMatchObject({ state: "waiting", reason: "not a server of presence messages" });
    expect(peer.isClosed).toBe(true);
  });

  it.each([sync(["a"]), { t: "resume", resume: "x" }, { t: "error", code: "internal", message: "no" }, { t: "message", room: null, cid: null, user: null, data: 1, at: 1 }])(
    "where anything comes before the welcome: %j",
    async (message) => {
      const peer = await connected({ welcomes: false });
      let messages = 0;
      client.on("message", () => (messages += 1));
      peer.say(message);
      expect(client.status).toMatchObject({ state: "waiting", reason: "not a server of presence messages" });
      expect(messages).toBe(0);
    },
  );

  it.each([{ ping_ms: 0 }, { ping_ms: -1 }, { ping_ms: null }, { ping_ms: "15000" }, { limits: null }, { cid: 7 }, { resume: null }])(
    "where the welcome has %j",
    async (wrong) => {
      const peer = await connected({ welcomes: false });
      peer.say({ ...WELCOME, ...wrong });
      expect(client.status).toMatchObject({ state: "waiting", reason: "not a server of presence messages" });
    },
  );

  it("where it welcomes twice", async () => {
    const peer = await connected();
    await client.connected();
    peer.say(WELCOME);
    expect(client.status.state).toBe("waiting");
  });

  it.each([
    sync([], { members: undefined }),
    sync([], { members: 5 }),
    sync([], { members: [null] }),
    sync([], { members: [{ cid: "a" }] }),
    { t: "diff", room: "r", seq: 2, count: 1, users: 1, joins: 5 },
    { t: "diff", room: "r", seq: 2, count: 1, users: 1, joins: "ab" },
    { t: "diff", room: "r", seq: 2, count: 1, users: 1, leaves: [null] },
    { t: "diff", room: "r", seq: 2, count: 1, users: 1, updates: { cid: "c" } },
  ])("where a room's message cannot be read: %j", async (message) => {
    const peer = await connected();
    const room = client.join("r");
    peer.say(sync(["c"], { id: (await peer.asks("join")).id }));
    await room.ready;
    peer.say(message);
    expect(client.status).toMatchObject({ state: "waiting", reason: expect.stringContaining(message.t) });
    expect([room.stale, [...room.members.keys()]]).toEqual([true, ["c"]]);
  });
});

it("a server that ends the connection in order has lost what was asked for, and is asked again", async () => {
  const peer = await connected();
  await client.connected();
  const ping = client.ping().catch(({ code }) => code);
  peer.onclose?.({ code: 1000, reason: "" });
  expect([await ping, client.status.state]).toEqual(["disconnected", "waiting"]);
});

it("messages of a kind that it does not know are passed over, as fields are", async () => {
  const peer = await connected();
  await client.connected();
  peer.say({ t: "of a later version", room: "r" });
  peer.say({ t: "pong", time: 1, later: true });
  expect(client.status.state).toBe("connected");
});

describe("getToken", () => {
  it("that rejects with no Error is told of as one", async () => {
    ({ client, peers } = scripted({ getToken: () => Promise.reject(undefined) }));
    const errors: unknown[] = [];
    client.on("error", (error) => errors.push(error));
    await until(() => errors.length > 0);
    expect(errors[0]).toBeInstanceOf(Error);
    expect(client.status).toMatchObject({ state: "waiting", reason: "no credentials" });
  });

  it("that never answers is given up and asked again", async () => {
    vi.useFakeTimers();
    try {
      let asked = 0;
      ({ client, peers } = scripted({ getToken: () => new Promise(() => (asked += 1)) }));
      const errors: Error[] = [];
      client.on("error", (error) => errors.push(error));
      await vi.advanceTimersByTimeAsync(31_000);
      expect([asked > 1, errors.map(({ message }) => message)]).toEqual([true, ["getToken took longer than 30 s"]]);
      expect(client.status.state).toBe("connecting");
    } finally {
      vi.useRealTimers();
    }
  });
});
