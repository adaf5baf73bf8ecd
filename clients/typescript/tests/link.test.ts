/** One connection on a clock moved by hand, over a socket that records. */
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { type Ending, Link } from "../src/link.js";
import type { ServerMessage } from "../src/messages.js";

class Recorder {
  readyState = 1;
  sent: Record<string, unknown>[] = [];
  closedWith: number | null | undefined = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  constructor(readonly url: string, readonly protocols: string[]) {
    last = this;
  }
  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }
  close(code?: number): void {
    this.closedWith = code;
  }
  say(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
}
let last: Recorder;
const endings: Ending[] = [];
const open = () => {
  const link = new Link(Recorder as unknown as typeof WebSocket, "ws://host/ws", [], (_: ServerMessage) => {}, (ending) => endings.push(ending));
  last.say({ t: "welcome", cid: "c", user: "u", info: {}, resumed: false, resume: "r", node: "n", ping_ms: 15_000, time: 1, limits: {} });
  return link;
};
beforeEach(() => void vi.useFakeTimers());
afterEach(() => {
  vi.useRealTimers();
  endings.length = 0;
});

it("asks after ping_ms of silence, and counts as lost where nothing answers", async () => {
  open();
  await vi.advanceTimersByTimeAsync(14_900);
  expect(last.sent).toEqual([]);
  await vi.advanceTimersByTimeAsync(200);
  expect(last.sent).toMatchObject([{ t: "ping" }]);
  await vi.advanceTimersByTimeAsync(10_100);
  expect(endings).toMatchObject([{ code: 1006 }]);
});

it("is closed as one that was lost, so that its members have the longer grace", async () => {
  open();
  await vi.advanceTimersByTimeAsync(30_000);
  expect(last.closedWith).toBe(4201);
});

it("asks though the clock of the machine was set back", async () => {
  open();
  vi.setSystemTime(Date.now() - 3_600_000);
  await vi.advanceTimersByTimeAsync(15_100);
  expect(last.sent).toMatchObject([{ t: "ping" }]);
});

it("is not lost while an answer is late and other messages come", async () => {
  const link = open();
  const answer = link.request({ t: "update", room: "r", state: {} });
  for (let i = 0; i < 5; i++) {
    await vi.advanceTimersByTimeAsync(5_000);
    last.say({ t: "count", room: "r", count: i, users: i });
  }
  expect(endings).toEqual([]);
  last.say({ t: "ok", id: 1, v: 2 });
  expect(await answer).toMatchObject({ v: 2 });
  expect(vi.getTimerCount()).toBe(1); // that of silence
});

it("says what its end was where the close frame has no reason", async () => {
  open();
  last.onclose?.({ code: 1006, reason: "" });
  new Link(Recorder as unknown as typeof WebSocket, "ws://host/ws", [], () => {}, (ending) => endings.push(ending));
  last.onclose?.({ code: 1006, reason: "" });
  expect(endings.map(({ reason }) => reason)).toEqual(["the connection was lost", "the server cannot be reached"]);
});

it("asks once, however often it is to, until there is an answer", async () => {
  const link = open();
  await vi.advanceTimersByTimeAsync(2_000);
  for (let i = 0; i < 200; i++) link.probe(1_000);
  expect(last.sent).toMatchObject([{ t: "ping", id: 1 }]);
  last.say({ t: "pong", id: 1, time: 1 });
  await vi.advanceTimersByTimeAsync(2_000);
  link.probe(1_000);
  expect(last.sent).toHaveLength(2);
});

it.each([20, 200])("lets what takes turns be refused less than 20 times in 5 s, on a line of %i ms", async (lineMs) => {
  const link = open();
  const refusals: number[] = [];
  const refuse = () => {
    refusals.push(performance.now());
    last.say({ t: "error", code: "throttled", message: "no", retry_after_ms: 20 });
  };
  link.inTurn(() => {
    setTimeout(refuse, lineMs);
    return true;
  });
  await vi.advanceTimersByTimeAsync(60_000);
  const inFiveSeconds = refusals.map((at, i) => refusals.slice(i).filter((other) => other - at < 5_000).length);
  expect(refusals.length).toBeGreaterThan(10);
  expect(Math.max(...inFiveSeconds)).toBeLessThan(20);
});
