/** Events: who hears them, in which order, and what is left behind. */
import { expect, it } from "vitest";
import { Emitter } from "../src/emitter.js";
import { PresenceError } from "../src/index.js";
import { member, scripted, sync } from "./scripted.js";
import { until } from "./server.js";

class Bell extends Emitter<{ ring: number; stop: null }> {
  ring(n: number): void {
    this.emit("ring", n);
  }
}

/** A signal that counts the listeners that it has. */
function counted(): { end: AbortController; listeners: () => number } {
  const end = new AbortController();
  const { signal } = end;
  let listeners = 0;
  const [add, remove] = [signal.addEventListener.bind(signal), signal.removeEventListener.bind(signal)];
  signal.addEventListener = (...args: Parameters<typeof add>) => {
    listeners += 1;
    add(...args);
  };
  signal.removeEventListener = (...args: Parameters<typeof remove>) => {
    listeners -= 1;
    remove(...args);
  };
  return { end, listeners: () => listeners };
}

const code = (promise: Promise<unknown>) => promise.then(() => "resolved", (error: PresenceError) => error.code);

it("what a listener causes is heard after what it heard, by every listener", () => {
  const bell = new Bell();
  const heard: number[] = [];
  bell.on("ring", (n) => n < 3 && bell.ring(n + 1));
  bell.on("ring", (n) => heard.push(n));
  bell.ring(1);
  expect(heard).toEqual([1, 2, 3]);
});

it("every listener of the status hears it in the order in which it was", async () => {
  const { client } = scripted();
  const states: string[] = [];
  let isOver = false;
  client.on("status", ({ state }) => {
    if (state !== "connected" || isOver) return;
    isOver = true;
    client.close();
  });
  client.on("status", ({ state }) => states.push(state));
  await until(() => client.status.state === "stopped");
  expect(states).toEqual(["connecting", "connected", "stopped"]);
});

it("a signal has no listener any more of what was heard once, or has ended", async () => {
  const bell = new Bell();
  const { end, listeners } = counted();
  const { signal } = end;
  const rung = bell.once("ring", { signal });
  bell.once("ring", () => {}, { signal });
  const stop = bell.on("stop", () => {}, { signal });
  bell.ring(7);
  stop();
  expect([await rung, listeners(), bell.isHeard]).toEqual([7, 0, false]);
  const never = bell.once("ring", { signal });
  end.abort(new PresenceError("ended", "no more"));
  expect([await code(never), listeners(), bell.isHeard]).toEqual(["ended", 0, false]);
  expect(await code(bell.once("ring", { signal }))).toBe("ended");
});

it("who waits for an event once is told that there will be none, when the room is left and when the client stops", async () => {
  const { client, peers } = scripted();
  const room = client.join("r");
  await until(() => peers.length === 1);
  peers[0]!.say(sync(["c"], { id: (await peers[0]!.asks("join")).id }));
  await room.ready;
  const inRoom = [room.once("message"), room.once("signal")].map(code);
  const change = room.once("change");
  void room.leave();
  expect(await Promise.all(inRoom)).toEqual(["ended", "ended"]);
  expect(await change).toMatchObject({ joins: [] });
  const ofClient = [client.once("message"), client.once("welcome")].map(code);
  const status = client.once("status");
  const ping = client.ping();
  client.close();
  expect(await Promise.all([...ofClient, code(ping)])).toEqual(["ended", "ended", "ended"]);
  expect(await status).toMatchObject({ state: "stopped" });
  expect(await code(client.once("message"))).toBe("ended");
});

it("who waits for the removal from a room is told of it", async () => {
  const { client, peers } = scripted();
  const room = client.join("r");
  await until(() => peers.length === 1);
  peers[0]!.say(sync(["c"], { id: (await peers[0]!.asks("join")).id }));
  const removed = room.once("removed");
  peers[0]!.say({ t: "removed", room: "r", reason: "kicked" });
  expect(await removed).toBe("kicked");
  client.close();
});

it("a publish that the client was closed before rejects with ended, as one of a room that was left", async () => {
  const { client, peers } = scripted();
  const rooms = ["r", "s"].map((name) => client.join(name));
  await until(() => peers.length === 1);
  await peers[0]!.asks("join", 2);
  for (const { id, room } of peers[0]!.asked("join")) peers[0]!.say(sync(["c"], { id, room }));
  const published = rooms.map((room) => code(room.publish("hi")));
  await peers[0]!.asks("publish", 2);
  void rooms[0]!.leave();
  client.close();
  expect(await Promise.all(published)).toEqual(["ended", "ended"]);
});

it("an iteration that waits ends when it is told to", async () => {
  const { client, peers } = scripted();
  const room = client.join("r");
  await until(() => peers.length === 1);
  peers[0]!.say(sync(["c"], { id: (await peers[0]!.asks("join")).id }));
  await room.ready;
  const events = room[Symbol.asyncIterator]();
  const next = events.next();
  await Promise.resolve();
  expect(await events.return!(undefined as never)).toMatchObject({ done: true });
  expect([(await next).done, room.isHeard]).toEqual([true, false]);
  const others = room[Symbol.asyncIterator]();
  const first = others.next();
  await Promise.resolve();
  peers[0]!.say({ t: "diff", room: "r", seq: 2, count: 2, users: 2, joins: [member("b")] });
  expect((await first).value).toMatchObject({ type: "join", event: { cid: "b" } });
  client.close();
});
