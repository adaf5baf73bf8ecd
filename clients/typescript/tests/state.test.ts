/** The state that a client says of itself: one update on its way, and the latest after it. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type Client, PresenceError, type Room } from "../src/index.js";
import { Server, until } from "./server.js";
import { member, type Peer, scripted, sync } from "./scripted.js";

const outcome = (promise: Promise<number>) => promise.then((v) => v, (error: PresenceError) => error.code);

describe("a burst of states", () => {
  let server: Server;
  beforeAll(async () => {
    server = await Server.start();
  });
  afterAll(() => server.stop());

  it("never stops the client: the last one arrives, and each promise resolves", async () => {
    const client = server.client("ann");
    const room = client.join("burst", { state: { n: 0 } });
    const bob = server.client("bob").watch("burst");
    await Promise.all([room.ready, bob.ready]);
    const set = Array.from({ length: 500 }, (_, n) => room.patchState({ n: n + 1 }));
    const versions = await Promise.all(set);
    await until(() => bob.users[0]?.connections[0]?.state.n === 500);
    expect(client.status.state).toBe("connected");
    expect(versions.every((v, i) => v >= (versions[i - 1] ?? 2))).toBe(true);
    expect(versions.at(-1)).toBeLessThan(30);
  });

  it("without an end is slowed down, not stopped", async () => {
    const client = server.client("ann");
    const room = client.join("stream", { state: { n: 0 } });
    await room.ready;
    let n = 0;
    const timer = setInterval(() => {
      n += 1;
      room.setState({ n }).catch(() => {});
      room.signal("n", n);
    }, 4);
    await until(() => n >= 800 || client.status.state !== "connected");
    clearInterval(timer);
    await until(() => room.me?.state.n === n);
    expect(client.status.state).toBe("connected");
  });
});

describe("an update", () => {
  let client: Client;
  let peers: Peer[];
  let peer: Peer;
  let room: Room;
  async function enter(state: Record<string, unknown> | null = { a: 1 }): Promise<void> {
    const made = scripted();
    ({ client, peers } = made);
    room = client.join("r", state === null ? {} : { state });
    await until(() => peers.length === 1);
    peer = peers[0]!;
    const { id } = await peer.asks("join");
    peer.say(sync([], { id, members: [member("c", { state: state ?? { kept: 1 } })] }));
    await room.ready;
  }
  afterEach(() => client.close());

  it("is the only one on its way, and what was set meanwhile is one more", async () => {
    await enter();
    const first = room.setState({ n: 1 });
    const later = [2, 3, 4].map((n) => room.setState({ n }));
    expect(await peer.asks("update")).toMatchObject({ state: { n: 1 } });
    expect(peer.asked("update")).toHaveLength(1);
    peer.say({ t: "ok", id: peer.sent.at(-1)!.id, v: 2 });
    expect(await first).toBe(2);
    const { id, state } = await peer.asks("update", 2);
    expect(state).toEqual({ n: 4 });
    peer.say({ t: "ok", id, v: 3 });
    expect(await Promise.all(later)).toEqual([3, 3, 3]);
    expect(peer.asked("update")).toHaveLength(2);
  });

  it("that was refused settles those that it overtook as itself, and the state before stays", async () => {
    await enter();
    const first = room.patchState({ b: 2 });
    const later = [room.patchState({ c: 3 }), room.patchState({ d: 4 })].map(outcome);
    peer.say({ t: "ok", id: (await peer.asks("update")).id, v: 2 });
    await first;
    peer.say({ t: "error", id: (await peer.asks("update", 2)).id, code: "too_large", message: "no" });
    expect(await Promise.all(later)).toEqual(["too_large", "too_large"]);
    void room.patchState({ e: 5 });
    expect((await peer.asks("update", 3)).state).toEqual({ a: 1, b: 2, e: 5 });
  });

  it("that came too fast is sent again, with the latest state, when the server said", async () => {
    await enter();
    const first = room.setState({ n: 1 });
    peer.say({ t: "error", id: (await peer.asks("update")).id, code: "throttled", message: "no", retry_after_ms: 300 });
    const begun = performance.now();
    const second = room.setState({ n: 2 });
    const { id, state } = await peer.asks("update", 2);
    expect(performance.now() - begun).toBeGreaterThan(250);
    expect(state).toEqual({ n: 2 });
    peer.say({ t: "ok", id, v: 2 });
    expect(await Promise.all([first, second])).toEqual([2, 2]);
  });

  it("with a version waits for its turn, and is never merged with another", async () => {
    await enter();
    const all = [room.setState({ n: 1 }), room.setState({ n: 2 }, { ifVersion: 2 }), room.setState({ n: 3 })].map(outcome);
    for (const [i, reply] of [{ t: "ok", v: 2 }, { t: "error", code: "conflict", message: "no", v: 7 }, { t: "ok", v: 8 }].entries()) {
      const { id } = await peer.asks("update", i + 1);
      peer.say({ ...reply, id });
    }
    expect(await Promise.all(all)).toEqual([2, "conflict", 8]);
    expect(peer.asked("update").map(({ state, if_version }) => [state, if_version])).toEqual([
      [{ n: 1 }, undefined], [{ n: 2 }, 2], [{ n: 3 }, undefined],
    ]);
  });

  it("that the room was left before rejects, also those after it", async () => {
    await enter();
    const all = [room.setState({ n: 1 }), room.setState({ n: 2 }, { ifVersion: 2 }), room.setState({ n: 3 })].map(outcome);
    void room.leave();
    expect(await Promise.all(all)).toEqual(["ended", "ended", "ended"]);
  });

  it("of some keys goes by the state that the server has where this page has said none", async () => {
    await enter(null);
    void room.patchState({ b: 2 });
    expect((await peer.asks("update")).state).toEqual({ kept: 1, b: 2 });
  });

  it("on its way when the connection is lost goes with the next join, with what was set after it", async () => {
    await enter();
    const all = [room.setState({ n: 1 }), room.setState({ n: 2 }), room.setState({ n: 3 }, { ifVersion: 2 })].map(outcome);
    await peer.asks("update");
    peer.lose();
    expect(await all[2]).toBe("disconnected");
    client.reconnect();
    await until(() => peers.length === 2);
    const join = await peers[1]!.asks("join");
    expect(join.state).toEqual({ n: 2 });
    peers[1]!.say(sync([], { id: join.id, members: [member("c", { state: { n: 2 }, v: 7 })] }));
    expect(await Promise.all(all.slice(0, 2))).toEqual([7, 7]);
    expect(peers.flatMap((each) => each.asked("update"))).toHaveLength(1);
  });

  it("that was set while a join is on its way follows it", async () => {
    await enter();
    room.join({ mode: "count" });
    const { id } = await peer.asks("join", 2);
    const set = room.setState({ n: 1 });
    expect(peer.asked("update")).toEqual([]);
    peer.say(sync([], { id, mode: "count" }));
    peer.say({ t: "ok", id: (await peer.asks("update")).id, v: 2 });
    expect(await set).toBe(2);
  });
});
