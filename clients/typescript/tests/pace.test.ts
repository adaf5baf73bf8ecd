/** How fast a client sends, and what it does with what no server can read, against a server that is the test and counts. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { waitAfter } from "../src/backoff.js";
import { type Client, connect, type PresenceError } from "../src/index.js";
import { member, Peer, type Sent, scripted, sync, WELCOME } from "./scripted.js";
import { until } from "./server.js";

/** Refusals in 5 s that end a connection. */
const ABUSE = 20;
let client: Client;
let server: Limited;
beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  client.close();
  vi.useRealTimers();
});
const code = (promise: Promise<unknown>) => promise.then((value) => value, (error: PresenceError) => error.code);

interface Limits { perS: number; burst: number; lineMs: number; cursor?: string | null; refuses?: (message: Sent) => string | null }

/** A server with a token bucket, which closes with 4008 as the real one does. */
class Limited extends Peer {
  static limits: Limits;
  refusedAt: number[] = [];
  taken: Sent[] = [];
  #tokens = Limited.limits.burst;
  #at = performance.now();
  constructor() {
    super();
    server = this;
    setTimeout(() => this.say(WELCOME));
  }
  override send(text: string): void {
    super.send(text);
    setTimeout(() => this.#take(JSON.parse(text)), Limited.limits.lineMs / 2);
  }
  #take(message: Sent): void {
    const { perS, burst, cursor = null, refuses = () => null } = Limited.limits;
    const now = performance.now();
    this.#tokens = Math.min(burst, this.#tokens + ((now - this.#at) * perS) / 1_000);
    this.#at = now;
    const { id, room } = message;
    const refusal = this.#tokens < 1 ? "throttled" : refuses(message);
    if (refusal !== null) {
      this.refusedAt.push(now);
      const isAbuse = this.refusedAt.filter((at) => now - at < 5_000).length >= ABUSE;
      const retry = refusal === "throttled" ? { retry_after_ms: Math.ceil((1 - this.#tokens) / perS * 1_000) } : {};
      this.#answer(isAbuse ? { t: "bye", code: 4008, reason: "abuse" } : { t: "error", id, room, code: refusal, message: "no", ...retry });
      return;
    }
    this.#tokens -= 1;
    this.taken.push(message);
    if (message.t === "join") this.#answer(sync(["c"], { id, room, cursor }));
    else if (message.t === "members") this.#answer({ t: "page", id, room, members: [member("d")], cursor: null });
    else if (message.t === "publish") this.#answer({ t: "ok", id, at: 1 });
    else if (message.t === "update") this.#answer({ t: "ok", id, v: 2 });
  }
  #answer(message: { t: string; [field: string]: unknown }): void {
    setTimeout(() => {
      this.say(message);
      if (message.t === "bye") this.onclose?.({ code: 4008, reason: "abuse" });
    }, Limited.limits.lineMs / 2);
  }
}

function limited(limits: Limits): Client {
  Limited.limits = limits;
  return connect("ws://host/ws", { user: "u", storage: null, WebSocket: Limited as unknown as typeof WebSocket });
}

it.each([
  [2, null, 20], [200, null, 20], [2, "next", 20], [200, "next", 20], [400, "next", 100],
])("many rooms are all entered, on a line of %i ms with pages from %s, though the server lets %i messages through at once", async (lineMs, cursor, burst) => {
  client = limited({ perS: 10, burst, lineMs, cursor });
  const rooms = Array.from({ length: 150 }, (_, i) => client.join(`room-${i}`));
  await vi.advanceTimersByTimeAsync(120_000);
  expect(client.status.state).toBe("connected");
  expect(rooms.filter((room) => room.stale || (cursor && room.count && room.members.size !== 2))).toEqual([]);
});

it("a hundred rooms are entered within two seconds where the server lets them", async () => {
  client = limited({ perS: 50, burst: 100, lineMs: 40 });
  const rooms = Array.from({ length: 100 }, (_, i) => client.join(`room-${i}`));
  await vi.advanceTimersByTimeAsync(2_000);
  expect([rooms.filter((room) => room.stale).length, server.refusedAt.length]).toEqual([0, 0]);
});

it("what waits to be published goes in turn, and what is published meanwhile behind it", async () => {
  client = limited({ perS: 50, burst: 100, lineMs: 40 });
  const room = client.join("r");
  const published = Array.from({ length: 150 }, (_, i) => code(room.publish(i, { wait: true })));
  await vi.advanceTimersByTimeAsync(1_000);
  published.push(code(room.publish(150)));
  await vi.advanceTimersByTimeAsync(10_000);
  expect(await Promise.all(published)).toEqual(Array(151).fill(1));
  expect(server.taken.filter(({ t }) => t === "publish").map(({ data }) => data)).toEqual(Array.from({ length: 151 }, (_, i) => i));
});

it("what is published while the join waits for its turn is sent behind it, or rejects with the connection", async () => {
  client = limited({ perS: 50, burst: 100, lineMs: 40 });
  client.watch("first");
  await vi.advanceTimersByTimeAsync(100);
  const rooms = Array.from({ length: 30 }, (_, i) => client.join(`room-${i}`));
  const sent = code(rooms[29]!.publish("sent"));
  await vi.advanceTimersByTimeAsync(5_000);
  expect(await sent).toBe(1);
  const later = Array.from({ length: 30 }, (_, i) => client.join(`later-${i}`));
  const lost = code(later[29]!.publish("lost"));
  server.lose();
  expect(await lost).toBe("disconnected");
});

it("signals that the server cannot take are slowed down, and do not stop the client", async () => {
  client = limited({ perS: 50, burst: 100, lineMs: 2, refuses: ({ t }) => (t === "signal" ? "bad_message" : null) });
  const room = client.join("r");
  await vi.advanceTimersByTimeAsync(100);
  for (let i = 0; i < 1_000; i++) {
    room.signal("key", { nested: i });
    await vi.advanceTimersByTimeAsync(16);
  }
  expect([client.status.state, server.refusedAt.length > 10]).toEqual(["connected", true]);
});

it("signals without data, or with a key that is too long, are told of at once and not sent", async () => {
  client = limited({ perS: 50, burst: 100, lineMs: 2 });
  const errors: unknown[] = [];
  client.on("error", (error) => errors.push((error as PresenceError).code));
  const room = client.join("r");
  await vi.advanceTimersByTimeAsync(100);
  room.signal("key", undefined);
  room.signal("k".repeat(129), 1);
  expect(errors).toEqual(["bad_message", "bad_message"]);
  room.signal("k".repeat(128), 1);
  await vi.advanceTimersByTimeAsync(1_000);
  expect(server.asked("signal")).toMatchObject([{ key: "k".repeat(128), data: 1 }]);
});

it("half an emoji is sent as U+FFFD, wherever it is, and everything else as it is", async () => {
  vi.useRealTimers();
  const made = scripted();
  client = made.client;
  const whole = 'a "\u{1f600}" \\ud83d \\\\ud83d \n\u0001 end';
  const room = client.join("r", { state: { half: "hi \u{1f600}".slice(0, 4), whole } });
  await until(() => made.peers.length === 1);
  const peer = made.peers[0]!;
  const join = await peer.asks("join");
  expect(join.state).toEqual({ half: "hi \ufffd", whole });
  peer.say(sync(["c"], { id: join.id }));
  await room.ready;
  void code(room.publish(["\ude00", "\\\ud83d", { "\udbff": "\ud800\ud83d" }]));
  expect((await peer.asks("publish")).data).toEqual(["\ufffd", "\\\ufffd", { "\ufffd": "\ufffd\ufffd" }]);
  client.join("\ud83d");
  expect((await peer.asks("join", 2)).room).toBe("\ufffd");
});

it("those who were all told to wait for as long do not come back in one instant", () => {
  expect([0, 0.5].map((chance) => waitAfter(4101, 60_000, 0, chance))).toEqual([60_000, 60_500]);
  expect(waitAfter(4200, 40, 0, 0.5)).toBe(40); // a drain tells everybody another time
});
