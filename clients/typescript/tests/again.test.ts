/** What happens to a room, its state and its connection between one stay, connection or page and the next. */
import { afterEach, expect, it, vi } from "vitest";
import type { Client, PresenceError, TokenStorage } from "../src/index.js";
import { ResumeToken } from "../src/token.js";
import { member, Peer, scripted, sync, WELCOME } from "./scripted.js";
import { until } from "./server.js";

let client: Client;
let peers: Peer[];
afterEach(() => client.close());
const code = (promise: Promise<unknown>) => promise.then((value) => value, (error: PresenceError) => error.code);

async function enter(state?: Record<string, unknown>) {
  ({ client, peers } = scripted());
  const room = client.join("r", state ? { state } : {});
  await until(() => peers.length === 1);
  const peer = peers[0]!;
  peer.say(sync([], { id: (await peer.asks("join")).id, members: [member("c", { state: state ?? {} })] }));
  await room.ready;
  return { room, peer };
}

async function comesBack(): Promise<Peer> {
  const amount = peers.length;
  peers.at(-1)!.lose();
  client.reconnect();
  await until(() => peers.length === amount + 1);
  return peers.at(-1)!;
}

it.each(["too_large", "bad_message"])("a state set while disconnected that is refused with %s leaves the one before, and the room entered", async (refusal) => {
  const { room } = await enter({ a: 1 });
  const refused: string[] = [];
  room.on("refused", (error) => refused.push(error.code));
  peers[0]!.lose();
  const set = code(room.setState({ big: true }));
  client.reconnect();
  await until(() => peers.length === 2);
  const first = await peers[1]!.asks("join");
  peers[1]!.say({ t: "error", id: first.id, code: refusal, message: "no", room: "r" });
  expect(await set).toBe(refusal);
  const second = await peers[1]!.asks("join", 2);
  expect([first.state, second.state]).toEqual([{ big: true }, { a: 1 }]);
  peers[1]!.say(sync(["c"], { id: second.id }));
  await until(() => !room.stale);
  expect([refused, room.isEntered]).toEqual([[], true]);
});

it("a first join is refused for its state", async () => {
  ({ client, peers } = scripted());
  const room = client.join("r", { state: { big: true } });
  await until(() => peers.length === 1);
  peers[0]!.say({ t: "error", id: (await peers[0]!.asks("join")).id, code: "too_large", message: "no", room: "r" });
  expect([await code(room.ready), room.isEntered]).toEqual(["too_large", false]);
});

it("a wait that no timer can hold is not over at once", async () => {
  const { peer } = await enter();
  peer.say({ t: "bye", code: 4101, reason: "throttled", reconnect_ms: 2_592_000_000 });
  peer.onclose?.({ code: 4101, reason: "" });
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect([peers.length, client.status.state]).toEqual([1, "waiting"]);
});

it("a removal from the stay before does not end the one that has begun", async () => {
  const { room, peer } = await enter();
  const removed: string[] = [];
  room.on("removed", (reason) => removed.push(reason));
  void room.leave();
  room.join();
  const [leave, join] = [await peer.asks("leave"), await peer.asks("join", 2)];
  peer.say({ t: "removed", room: "r", reason: "kicked" });
  peer.say({ t: "error", id: leave.id, code: "not_joined", message: "no", room: "r" });
  peer.say(sync(["c"], { id: join.id }));
  await room.ready;
  expect([removed, room.isEntered, room.me?.cid]).toEqual([[], true, "c"]);
  peer.say({ t: "removed", room: "r", reason: "kicked" });
  await until(() => removed.length === 1);
  expect(room.isEntered).toBe(false);
});

it("a patch goes by what was accepted before it, also with a version, and not by what was refused", async () => {
  const { room, peer } = await enter({ n: 1 });
  const all = [room.setState({ n: 2 }, { ifVersion: 1 }), room.patchState({ x: 1 })].map(code);
  peer.say({ t: "ok", id: (await peer.asks("update")).id, v: 2 });
  const second = await peer.asks("update", 2);
  expect(second.state).toEqual({ n: 2, x: 1 });
  peer.say({ t: "ok", id: second.id, v: 3 });
  expect(await Promise.all(all)).toEqual([2, 3]);
  const more = [room.setState({ n: 3 }, { ifVersion: 1 }), room.patchState({ y: 1 })].map(code);
  peer.say({ t: "error", id: (await peer.asks("update", 3)).id, code: "conflict", message: "no", v: 3 });
  const fourth = await peer.asks("update", 4);
  expect(fourth.state).toEqual({ n: 2, x: 1, y: 1 });
  peer.say({ t: "ok", id: fourth.id, v: 4 });
  expect(await Promise.all(more)).toEqual(["conflict", 4]);
});

it("a state is as it was when it was set, and a key that is patched with undefined goes", async () => {
  const { room, peer } = await enter({ n: 1, gone: true });
  const state = { n: 2, deep: { is: 1 } };
  void room.patchState({ gone: undefined });
  const first = await peer.asks("update");
  expect(first.state).toEqual({ n: 1 });
  void room.setState(state);
  state.n = 3;
  state.deep.is = 2;
  peer.say({ t: "ok", id: first.id, v: 2 });
  expect((await peer.asks("update", 2)).state).toEqual({ n: 2, deep: { is: 1 } });
  room.join({ state });
  peer.say({ t: "ok", id: peer.sent.at(-1)!.id, v: 3 });
  expect((await peer.asks("update", 3)).state).toEqual({ n: 3, deep: { is: 2 } });
});

it("of ever new keys only the latest signals wait", async () => {
  const { room, peer } = await enter();
  vi.useFakeTimers();
  try {
    for (let i = 0; i < 20_000; i++) room.signal(`key ${i}`, i);
    await vi.advanceTimersByTimeAsync(60_000);
  } finally {
    vi.useRealTimers();
  }
  const sent = peer.asked("signal");
  expect([sent.length, sent.at(-1)!.key]).toEqual([50, "key 19999"]);
});

it("an iteration ends with its stay, also where the next one begins in the same turn", async () => {
  const { room, peer } = await enter();
  const types: string[] = [];
  const reading = (async () => {
    for await (const { type } of room) types.push(type);
  })();
  await Promise.resolve();
  void room.leave();
  room.join();
  peer.say(sync(["c", "d"], { id: (await peer.asks("join", 2)).id }));
  await reading;
  expect(types).toEqual(["stale", "change"]);
});

class Memory implements TokenStorage {
  items = new Map<string, string>();
  getItem = (key: string) => this.items.get(key) ?? null;
  setItem = (key: string, value: string) => void this.items.set(key, value);
  removeItem = (key: string) => void this.items.delete(key);
}

it("two clients of a page store their tokens apart, and one that is closed leaves its place", async () => {
  const storage = new Memory();
  const windowLike = new EventTarget();
  const [add, remove] = [globalThis.addEventListener, globalThis.removeEventListener];
  globalThis.addEventListener = windowLike.addEventListener.bind(windowLike) as typeof add;
  try {
    const welcomed = (cid: string) => {
      const made = scripted({ storage, welcomes: false });
      return { ...made, cid };
    };
    const made = ["a", "b"].map(welcomed);
    await until(() => made.every((each) => each.peers.length === 1));
    for (const { peers: [peer], cid } of made) peer!.say({ ...WELCOME, cid, resume: `token-${cid}` });
    windowLike.dispatchEvent(new Event("pagehide"));
    expect([...storage.items.values()].map((text) => JSON.parse(text).cid).sort()).toEqual(["a", "b"]);
    const keys = [...storage.items.keys()];
    for (const each of made) each.client.close();
    storage.items.clear();
    ({ client, peers } = scripted({ storage, welcomes: false }));
    await until(() => peers.length === 1);
    peers[0]!.say({ ...WELCOME, cid: "c" });
    windowLike.dispatchEvent(new Event("pagehide"));
    expect([...storage.items.keys()]).toEqual([keys[0]]);
  } finally {
    globalThis.addEventListener = add;
    globalThis.removeEventListener = remove;
  }
});

it.each(["s3cret token", "s3cret\n", "s3crét", "s3cret,"])("a token that no WebSocket takes (%j) is not shown", async (token) => {
  ({ client, peers } = scripted({ token }));
  await until(() => client.status.state === "stopped");
  expect(JSON.stringify(client.status)).not.toContain("s3cr");
  expect(peers).toEqual([]);
});

it("a page that goes away while its token waits for the page before leaves it to the one after", async () => {
  vi.stubGlobal("navigator", { locks: { request: () => new Promise(() => {}) } });
  try {
    const storage = new Memory();
    const left = JSON.stringify({ cid: "c", resume: "r" });
    storage.setItem("key", left);
    const token = new ResumeToken(storage, "key");
    void token.restore();
    expect(storage.getItem("key")).toBeNull();
    token.store();
    expect(storage.getItem("key")).toBe(left);
  } finally {
    vi.unstubAllGlobals();
  }
});

it("a room that is left before the server has let the client in is left there, too", async () => {
  ({ client, peers } = scripted());
  await client.connected();
  const [peer] = peers as [Peer];
  const room = client.join("r");
  const left = room.leave();
  expect(peer.sent.map(({ t }) => t)).toEqual(["join", "leave"]);
  peer.say(sync(["c"], { id: peer.sent[0]!.id }));
  peer.say({ t: "ok", id: peer.sent[1]!.id });
  await left;
  const end = new AbortController();
  client.join("r", { signal: end.signal });
  end.abort();
  void room.join().leave();
  room.watch();
  expect(peer.sent.map(({ t }) => t).slice(2)).toEqual(["join", "leave", "join", "leave", "watch"]);
});

it("what is published while the join is on its way goes behind it", async () => {
  ({ client, peers } = scripted());
  await client.connected();
  const published = client.join("r").publish("hi");
  const { id } = await peers[0]!.asks("publish");
  peers[0]!.say({ t: "ok", id, at: 7 });
  expect([await published, peers[0]!.sent.map(({ t }) => t)]).toEqual([7, ["join", "publish"]]);
});
