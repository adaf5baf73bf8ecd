/** One WebSocket: requests with their answers, and a ping where nothing comes. Knows nothing of rooms or of reconnecting. */

import { ABNORMAL, later, NO_PONG, NORMAL } from "./backoff.js";
import { PresenceError } from "./errors.js";
import type { ClientMessage, Ok, Page, Pong, ServerMessage, Sync, Welcome } from "./messages.js";

/** The longest wait for `welcome`, or for an answer while nothing else comes: then the connection counts as lost. */
const ANSWER_MS = 10_000;
/** What takes turns goes out this often over all rooms: well below what a server lets through by default. */
const TURNS_PER_MS = 25 / 1_000;
const TURNS_AT_ONCE = 10;
/** More joins than this have no answer at a time, so that not all of them can be refused. */
const ENTRIES_MAX = 10;
/** A server that lets less through closes the connection after 20 refusals in 5 s: each one holds the turns for longer. */
const REFUSALS_MS = 5_000;
const HOLD_MS = 200;
const REFUSALS = /^(throttled|bad_message)$/;
const NO_SERVER = "not a server of presence messages";
const SUBPROTOCOLS = ["presence.v1.json", "refusals.close"];

type Timer = ReturnType<typeof setTimeout>;

/** A request without its id: `Omit` that keeps a union apart. */
export type Request = ClientMessage extends infer M ? (M extends unknown ? Omit<M, "id"> : never) : never;
export type Reply = Ok | Sync | Page | Pong;

interface Waiting {
  resolve: (reply: Reply) => void;
  reject: (error: PresenceError) => void;
  since: number;
  timer: Timer;
  /** Whether it asks to be let into a room. */
  isEntry: boolean;
}

/** How a connection ended: what `bye` said, else the close frame. */
export interface Ending {
  readonly code: number;
  readonly reason: string;
  readonly reconnectMs?: number;
  /** For how many ms it had been welcome. */
  readonly lastedMs: number;
}

export class Link {
  welcome: Welcome | null = null;
  #socket: WebSocket;
  #receive: (message: ServerMessage) => void;
  #end: ((ending: Ending) => void) | null;
  #waiting = new Map<number, Waiting>();
  /** The id of the last request that was sent. */
  lastId = 0;
  #timer: Timer;
  #heardAt = 0;
  #greetedAt = 0;
  #isProbing = false;
  #turns = new Set<(link: Link) => unknown>();
  #turnTimer: Timer | undefined;
  #free = TURNS_AT_ONCE;
  /** How many requests to be let into a room have no answer. */
  #entries = 0;
  #freeAt = 0;
  #refusals = 0;
  #refusedAt = -Infinity;
  #bye: { code: number; reason: string; reconnect_ms?: number } | null = null;

  /** `receive` gets every message before the request that it answers is settled; `end` is called once. */
  constructor(
    Socket: typeof WebSocket,
    url: string,
    secrets: string[],
    receive: (message: ServerMessage) => void,
    end: (ending: Ending) => void,
  ) {
    this.#receive = receive;
    this.#end = end;
    this.#timer = setTimeout(() => this.lose("no welcome"), ANSWER_MS);
    this.#socket = new Socket(url, [...SUBPROTOCOLS, ...secrets]);
    this.#socket.onmessage = ({ data }) => this.#take(data as string);
    this.#socket.onclose = ({ code, reason }) => this.#over(code, reason);
    this.#socket.onerror = () => {}; // `close` follows; Node.js ends a process whose error nobody listens to
  }

  /** Send one message and return its reply. Rejects with a `PresenceError`. */
  request(message: Request, answerMs = ANSWER_MS): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const id = ++this.lastId;
      this.send({ ...message, id } as ClientMessage);
      const isEntry = /join|watch/.test(message.t);
      this.#entries += Number(isEntry);
      const waiting: Waiting = { resolve, reject, since: performance.now(), timer: undefined!, isEntry };
      const look = () => {
        const quietMs = performance.now() - Math.max(this.#heardAt, waiting.since);
        if (quietMs >= answerMs) this.lose("no answer");
        else waiting.timer = setTimeout(look, answerMs - quietMs);
      };
      waiting.timer = setTimeout(look, answerMs);
      this.#waiting.set(id, waiting);
    });
  }

  /** Send one message that wants no reply. Throws a `PresenceError`. */
  send(message: ClientMessage | Request): void {
    if (this.#socket.readyState !== 1 || this.welcome === null) throw disconnected();
    const text = toJson(message);
    const most = this.welcome.limits["message_bytes"] ?? Infinity;
    // No character takes more than three bytes: most messages need not be counted.
    if (text.length * 3 > most && new TextEncoder().encode(text).length > most) {
      throw new PresenceError("too_large", `longer than ${most} bytes`);
    }
    this.#socket.send(text);
  }

  /** Call `turn` with this as soon as something may be sent, and again while it returns true: rooms take turns. */
  inTurn(turn: (link: Link) => unknown): void {
    this.#turns.add(turn);
    if (this.#turnTimer === undefined) this.#takeTurns();
  }

  /** Ask for a sign of life unless one came within `idleMs`. */
  probe(idleMs: number): void {
    if (this.#isProbing || this.welcome === null || performance.now() - this.#heardAt < idleMs) return;
    this.#isProbing = true;
    const asked = this.request({ t: "ping" }, Math.min(ANSWER_MS, this.welcome.ping_ms));
    asked.catch(() => {}).finally(() => (this.#isProbing = false));
  }

  /** Give it up, as one that was lost. */
  lose(reason: string): void {
    this.#over(ABNORMAL, reason);
  }

  /** Close it as this client's own wish. */
  close(): void {
    this.#over(NORMAL, "closed", new PresenceError("ended", "the client was closed"));
  }

  #takeTurns(): void {
    this.#turnTimer = undefined;
    const now = performance.now();
    this.#free = Math.min(TURNS_AT_ONCE, this.#free + (now - this.#freeAt) * TURNS_PER_MS);
    this.#freeAt = now;
    for (const turn of this.#turns) {
      if (this.#entries >= ENTRIES_MAX) return; // an answer brings the next turn
      if (this.#free < 1) {
        this.#turnTimer = later(() => this.#takeTurns(), (1 - this.#free) / TURNS_PER_MS + 1);
        return;
      }
      this.#turns.delete(turn);
      this.#free -= 1;
      if (turn(this) === true) this.#turns.add(turn);
    }
  }

  #hold(retryAfterMs: number): void {
    this.#refusals = this.#heardAt - this.#refusedAt < REFUSALS_MS ? this.#refusals + 1 : 1;
    this.#refusedAt = this.#heardAt;
    const heldMs = Math.max(retryAfterMs, Math.min(this.#refusals * HOLD_MS, REFUSALS_MS));
    this.#free = Math.min(this.#free, -heldMs * TURNS_PER_MS);
  }

  #take(text: string): void {
    this.#heardAt = performance.now();
    let message: ServerMessage;
    try {
      message = JSON.parse(text) as ServerMessage;
    } catch {
      return this.lose(NO_SERVER);
    }
    if (!isExpected(message, this.welcome === null)) return this.lose(NO_SERVER);
    if (message.t === "welcome") {
      this.welcome = message;
      this.#greetedAt = this.#heardAt;
      clearTimeout(this.#timer);
      this.#listen(message.ping_ms);
    } else if (message.t === "bye") {
      this.#bye = message;
      return;
    } else if (message.t === "error" && REFUSALS.test(message.code)) {
      this.#hold(message.retry_after_ms ?? 0);
    }
    try {
      this.#receive(message);
    } catch (error) {
      return this.lose(`unreadable ${message.t}: ${(error as Error).message}`);
    }
    const { id } = message as Ok;
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    this.#waiting.delete(id);
    clearTimeout(waiting.timer);
    if (waiting.isEntry) {
      this.#entries -= 1;
      // Whoever has many rooms is in all of them before any grace ends, as long as the server keeps up.
      if (this.#heardAt - this.#refusedAt > REFUSALS_MS) this.#free += 1;
      clearTimeout(this.#turnTimer);
      this.#takeTurns();
    }
    if (message.t === "error") {
      waiting.reject(new PresenceError(message.code, message.message, message.retry_after_ms, message.v));
    } else {
      waiting.resolve(message as Reply);
    }
  }

  /** Pages do not see the server's protocol pings, so that silence says nothing: ask after `pingMs` of it. */
  #listen(pingMs: number): void {
    const idle = performance.now() - this.#heardAt;
    if (idle >= pingMs) this.probe(pingMs);
    this.#timer = later(() => this.#listen(pingMs), Math.max(pingMs - (idle % pingMs), 100));
  }

  #over(code: number, reason: string, error = disconnected()): void {
    const end = this.#end;
    if (end === null) return;
    this.#end = null;
    clearTimeout(this.#timer);
    clearTimeout(this.#turnTimer);
    this.#turns.clear();
    this.#socket.onmessage = this.#socket.onclose = null;
    // Without a code the server would take it for a page that was left, whose members have the shorter grace.
    this.#socket.close(code === NORMAL ? code : NO_PONG);
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#waiting.clear();
    const lastedMs = this.welcome === null ? 0 : performance.now() - this.#greetedAt;
    const bye = this.#bye;
    const silent = this.welcome !== null ? "the connection was lost" : "the server cannot be reached";
    end({
      code: bye?.code ?? code,
      reason: bye?.reason || reason || silent,
      lastedMs,
      ...(bye?.reconnect_ms !== undefined && { reconnectMs: bye.reconnect_ms }),
    });
  }
}

/** Tell whether a message has a type, and is the first where it welcomes: with what the client cannot do without. */
function isExpected(message: ServerMessage | null, isFirst: boolean): boolean {
  if (message?.t !== "welcome") return typeof message?.t === "string" && (!isFirst || message.t === "bye");
  const { cid, resume, ping_ms, limits } = message;
  return isFirst && [typeof cid, typeof resume, typeof ping_ms].join() === "string,string,number" && ping_ms > 0 && !!limits;
}

/** Say in JSON, with U+FFFD for half a surrogate pair, which no server can read. Throws a `PresenceError`. */
export function toJson(value: unknown): string {
  try {
    return JSON.stringify(value).replace(/\\(ud[89a-f]..|.)/g, (escape) => (escape.length > 2 ? "\ufffd" : escape));
  } catch (error) {
    throw new PresenceError("bad_message", (error as Error).message); // a BigInt, a circle
  }
}

export function disconnected(): PresenceError {
  return new PresenceError("disconnected", "there is no connection");
}
