// The rate limit, made visible: what this page sends, what of it is refused, and how it recovers.
//
// The server counts each message of a connection. The hammer sends pings, which nobody else hears of, until the first
// one is refused. Never more than WINDOW are on their way: who is refused 20 times in 5 s is closed with 4008.

import { announce, setText } from "./words.js";

const WINDOW = 12;
const PAUSE_MS = 80; // so about 150 a second, that one can watch it
const HAMMER_MAX = 600;
const HAMMER_MS = 4_000;
const QUIET_MS = 700; // after the last refusal, before cursors are sent again
const PROBE_MS = 300;
const PROBE_MS_MAX = 60_000;
const RECOVERED_MS = 5_000; // in which the server counts refusals
const COLUMN_MS = 100;
const COLUMNS = 48;
const COLUMN_FULL = 20;

const find = (id) => document.getElementById(id);
const [card, chart, button] = [find("throttle"), find("chart"), find("hammer")];
const WORDS = { ready: "Ready", hammering: "Hammering", limited: "Limited", recovering: "Recovering" };

export class Throttle {
  #client;
  #phase = "ready";
  #columns = []; // {ok, refused} of COLUMN_MS each, the newest last
  #sent = 0;
  #ok = 0;
  #refused = 0;
  #refusedAt = -Infinity;
  #retryAfterMs = 0;
  #timer;

  constructor(client) {
    this.#client = client;
    for (let i = 0; i < COLUMNS; i++) chart.append(document.createElement("i"));
    this.#columns = Array.from({ length: COLUMNS }, () => ({ ok: 0, refused: 0 }));
    button.addEventListener("click", () => this.#hammer());
    client.on("error", ({ code, retryAfterMs }) => code === "throttled" && this.#noteRefusal(retryAfterMs));
    client.on("status", ({ state }) => this.#follow(state));
    this.#follow(client.status.state);
  }

  /** Whether what can wait should: cursors would be refused, and count against this page. */
  get isTight() {
    return this.#phase === "hammering" || performance.now() - this.#refusedAt < QUIET_MS;
  }

  #follow(state) {
    button.disabled = state !== "connected" || this.#phase !== "ready";
    if (state !== "connected" && this.#phase !== "ready") this.#become("ready", "The connection was lost meanwhile.");
  }

  async #hammer() {
    [this.#sent, this.#ok, this.#refused] = [0, 0, 0];
    this.#become("hammering", "Sending about 150 messages a second…");
    this.#tick();
    const begun = performance.now();
    const goesOn = () =>
      this.#phase === "hammering" && this.#refused === 0 && this.#sent < HAMMER_MAX && performance.now() - begun < HAMMER_MS;
    await Promise.all(
      Array.from({ length: WINDOW }, async () => {
        while (goesOn()) {
          await this.#ping();
          await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
        }
      }),
    );
    if (this.#phase !== "hammering") return;
    if (this.#refused === 0) {
      const why = this.#sent < HAMMER_MAX ? "this line is too slow to reach the limit" : "this server has no limit";
      this.#become("ready", `${this.#ok} messages sent, none refused: ${why}.`);
      return;
    }
    this.#become("limited", `${this.#ok} got through, then ${this.#refused} refused. The server said: wait ${this.#retryAfterMs} ms.`);
    setTimeout(() => this.#probe(), Math.max(PROBE_MS, Math.min(this.#retryAfterMs, PROBE_MS_MAX)));
  }

  /** Ask now and then until what the limit lets through is let through, and the refusals are forgotten. */
  async #probe() {
    const refused = this.#refused;
    await this.#ping();
    if (this.#phase !== "limited" && this.#phase !== "recovering") return;
    if (this.#phase === "limited" && this.#refused === refused) {
      const after = ((performance.now() - this.#refusedAt) / 1000).toFixed(1);
      this.#become("recovering", `${this.#ok - 1} got through, ${refused} were refused. Let through again after ${after} s.`);
    }
    if (performance.now() - this.#refusedAt < RECOVERED_MS) setTimeout(() => this.#probe(), PROBE_MS);
    else this.#become("ready", `Recovered: ${refused} refused, and the connection was never lost.`);
  }

  async #ping() {
    this.#sent += 1;
    try {
      await this.#client.ping();
      this.#ok += 1;
      this.#columns.at(-1).ok += 1;
    } catch ({ code, retryAfterMs }) {
      if (code === "throttled") this.#noteRefusal(retryAfterMs);
    }
  }

  #noteRefusal(retryAfterMs = 0) {
    this.#refused += 1;
    this.#columns.at(-1).refused += 1;
    this.#refusedAt = performance.now();
    this.#retryAfterMs = retryAfterMs;
  }

  #become(phase, text) {
    this.#phase = card.dataset.phase = phase;
    setText(find("throttle-phase"), WORDS[phase]);
    setText(find("throttle-text"), text);
    button.disabled = phase !== "ready" || this.#client.status.state !== "connected";
    if (phase !== "hammering") announce(text);
  }

  /** Move the chart on, until there is nothing in it any more. */
  #tick() {
    clearTimeout(this.#timer);
    [...chart.children].forEach((column, i) => {
      const { ok, refused } = this.#columns[i];
      column.style.setProperty("--ok", Math.min(1, ok / COLUMN_FULL));
      column.style.setProperty("--refused", Math.min(1, refused / COLUMN_FULL));
    });
    const isIdle = this.#phase === "ready" && this.#columns.every(({ ok, refused }) => ok + refused === 0);
    if (isIdle) return;
    this.#columns = [...this.#columns.slice(1), { ok: 0, refused: 0 }];
    this.#timer = setTimeout(() => this.#tick(), COLUMN_MS);
  }
}
