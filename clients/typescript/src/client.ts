import { ABNORMAL, isAskedFor, isFinal, jittered, later, NORMAL, REPLACED, TOKEN_EXPIRED, UNAUTHORIZED, waitAfter } from "./backoff.js";
import { Emitter } from "./emitter.js";
import { PresenceError, StopError } from "./errors.js";
import { disconnected, type Ending, Link, toJson } from "./link.js";
import type { Mode, Published, ServerMessage, Welcome } from "./messages.js";
import { Room } from "./room.js";
import type { JoinOptions, RoomTypes, UntypedRoom } from "./room-types.js";
import { ResumeToken, TOKEN, type TokenStorage } from "./token.js";

/** Whether there is a connection, and why not. */
export type Status =
  | { readonly state: "connecting" }
  | { readonly state: "connected"; readonly node: string; readonly resumed: boolean }
  /** Connects again at `retryAt`, in ms since 1970. */
  | { readonly state: "waiting"; readonly retryAt: number; readonly code: number; readonly reason: string }
  /** For good, until `reconnect()`: connecting again as before could not help. */
  | { readonly state: "stopped"; readonly code: number; readonly reason: string };

/** How to connect, and as whom. */
export interface ConnectOptions {
  /** Credentials that do not change. */
  token?: string;
  /**
   * Fresh credentials, for each connection and before the last ones end. Where it rejects it is asked again, with
   * backoff; a `StopError`, or null, stops the client.
   */
  getToken?: () => string | null | Promise<string | null>;
  /** Who this is, where the server asks for no credentials. */
  user?: string;
  /** What everybody sees beside the user, where the server asks for no credentials. */
  info?: unknown;
  /** The class to connect with, the platform's if left out; null: never connect. */
  WebSocket?: typeof WebSocket | null;
  /** Where the resume token is over a reload; null: nowhere. `sessionStorage`, where there is one. */
  storage?: TokenStorage | null;
  /** Closes the client when aborted. */
  signal?: AbortSignal;
}

/** The events of a client, and what each brings. */
export interface ClientEvents {
  /** Another status. */
  status: Status;
  /** The server has let this client in: after each connection. */
  welcome: Welcome;
  /** A message to this user, from a backend. */
  message: Omit<Published, "t">;
  /** What failed without a request that could say so, as an Error. */
  error: Error;
}

/** A connection that lasted this long was a good one: the next failure counts as the first. */
const STABLE_MS = 10_000;
/** How long `getToken` may take. */
const TOKEN_MS = 30_000;
/** How old the last sign of life may be when a page is looked at again. */
const LOOKED_AT_IDLE_MS = 1_000;

/** A connection to a presence server that comes back by itself, and its rooms. */
export class Client extends Emitter<ClientEvents> {
  /** The last `welcome`: `cid`, `user`, `info`, `limits`. It stays while there is no connection. */
  welcome: Welcome | null = null;
  #status: Status = { state: "connecting" };
  #url: string;
  #options: ConnectOptions;
  #hasBegun = false;
  /** @internal Whether the page is going away: nothing more is said of its state. */
  isGoing = false;
  /** Whether the page was put aside and came back: its next connection is not waited for. */
  #hasReturned = false;
  #token: ResumeToken;
  #link: Link | null = null;
  /** Those that are entered or listened to. */
  #rooms = new Map<string, Room>();
  /** Those that the application may hold besides: a name is one object for as long as anybody has it. */
  #known = new Map<string, WeakRef<Room>>();
  #gone = new FinalizationRegistry<string>((name) => this.#known.get(name)?.deref() ?? this.#known.delete(name));
  #attempt: object | null = null;
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isRenewing = false;
  #wasUnauthorized = false;
  #lifetime = new AbortController();

  /** @internal */
  constructor(url: string, options: ConnectOptions) {
    super();
    this.#url = url;
    this.#options = options;
    this.#token = new ResumeToken(storageOf(options), `presence-server ${url} ${options.user ?? ""}`);
    const signal = options.signal;
    if (signal?.aborted) {
      this.close();
      return;
    }
    signal?.addEventListener("abort", () => this.close(), { signal: this.#lifetime.signal });
    // While a page is rendered on a server nothing may connect, and the platform may well have a class to.
    if (globalThis.location ?? options.WebSocket) this.#begin();
  }

  /** How the connection is now; the event `status` brings each change. */
  get status(): Status {
    return this.#status;
  }

  /** This connection's id; it changes where a reconnect comes too late to resume. Null before the first `welcome`. */
  get cid(): string | null {
    return this.welcome?.cid ?? null;
  }

  /** @internal The connection that there is, for rooms. */
  get link(): Link | null {
    return this.#status.state === "connected" ? this.#link : null;
  }

  /** Become a member of a room, now and after each reconnect. The room's `ready` says when its roster is here. */
  join<T extends RoomTypes = UntypedRoom>(name: string, options: JoinOptions<T> = {}): Room<T> {
    return this.room<T>(name).join(options);
  }

  /** Receive what happens in a room without appearing in it. */
  watch<T extends RoomTypes = UntypedRoom>(name: string, options: { mode?: Mode; signal?: AbortSignal } = {}): Room<T> {
    return this.room<T>(name).watch(options);
  }

  /** The room of this name, in which this client is or may be later: the same object while it is of any use. */
  room<T extends RoomTypes = UntypedRoom>(name: string): Room<T> {
    let room = this.#known.get(name)?.deref();
    if (room === undefined) {
      room = new Room(this, name);
      this.#known.set(name, new WeakRef(room));
      this.#gone.register(room, name);
    }
    return room as unknown as Room<T>;
  }

  /** Resolve when there is a connection. Rejects with `ended` when there will be none: the client has stopped. */
  async connected(): Promise<void> {
    this.#begin();
    while (this.link === null) {
      if (this.#status.state === "stopped") throw stopped(this.#status.reason);
      await this.once("status");
    }
  }

  /** The round trip time of one request, in ms. Rejects with `disconnected`, with `throttled`, and with `ended`. */
  async ping(): Promise<number> {
    if (this.link === null) throw disconnected();
    const begun = performance.now();
    await this.link.request({ t: "ping" });
    return performance.now() - begun;
  }

  /** Connect now: instead of at `retryAt`, or again after `stopped`. Rooms that were left stay left. */
  reconnect(): void {
    const { state } = this.#status;
    if (!this.#lifetime.signal.aborted && (state === "waiting" || state === "stopped")) this.#open();
  }

  /** Leave all rooms and close for good. Whatever is waited for rejects. */
  close(): void {
    if (this.#lifetime.signal.aborted) return;
    this.#lifetime.abort();
    this.#attempt = null;
    const link = this.#link;
    for (const room of [...this.#rooms.values()]) void room.leave();
    this.#token.end();
    link?.close();
    if (this.#status.state !== "stopped") this.#stop(NORMAL, "closed");
    this.abandon((this.over = stopped("closed")));
  }

  /** @internal */
  remember(room: Room): void {
    this.keep(room);
    this.#begin();
    if (this.#status.state === "stopped") room.end(stopped(this.#status.reason));
  }

  /** @internal Keep a room while it is entered or listened to. */
  keep(room: Room): void {
    if (room.isEntered || room.isHeard) this.#rooms.set(room.name, room);
    else this.#rooms.delete(room.name);
  }

  /** @internal */
  failed(error: Error): void {
    this.emit("error", error);
  }

  // --- the connection's life ---

  /** Connect, the first time that a connection is wanted. */
  #begin(): void {
    if (this.#hasBegun || this.#lifetime.signal.aborted || this.#options.WebSocket === null) return;
    this.#hasBegun = true;
    this.#followPage();
    const open = () => {
      if (this.#status.state === "connecting" && this.#attempt === null) this.#open();
    };
    void this.#token.restore().then(open, open);
  }

  #open(): void {
    clearTimeout(this.#timer);
    const attempt = (this.#attempt = {});
    this.#become({ state: "connecting" });
    if (this.#attempt !== attempt) return; // a listener has closed the client
    const { token, getToken } = this.#options;
    if (getToken === undefined) return this.#connect(token);
    void this.#ask(getToken).then(
      (fresh) => this.#attempt === attempt && this.#connect(fresh),
      (error: Error) => {
        if (this.#attempt !== attempt) return;
        if (error instanceof StopError) return this.#stop(UNAUTHORIZED, error.message);
        this.emit("error", error);
        this.#wait(ABNORMAL, "no credentials", jittered(++this.#failures, Math.random()));
      },
    );
  }

  async #ask(getToken: NonNullable<ConnectOptions["getToken"]>): Promise<string> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error("getToken took longer than 30 s")), TOKEN_MS);
    });
    try {
      const token = await Promise.race([getToken(), late]);
      if (token === null) throw new StopError("there are no credentials");
      return token;
    } catch (error) {
      throw error instanceof Error ? error : new Error(String(error));
    } finally {
      clearTimeout(timer);
    }
  }

  #connect(token: string | undefined): void {
    const secrets: string[] = [];
    if (token !== undefined) secrets.push(`bearer.${token}`);
    if (this.#token.value !== null) secrets.push(`resume.${this.#token.value}`);
    // Not even as what a platform says of it may the token be seen.
    if (!secrets.every((secret) => TOKEN.test(secret))) return this.#stop(ABNORMAL, "the token is malformed");
    try {
      const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
      if (Socket === undefined) throw new Error("no WebSocket here: give connect a class as `WebSocket`");
      const link: Link = new Link(
        Socket,
        address(this.#url, this.#options),
        secrets,
        (message) => this.#receive(link, message),
        (ending) => this.#lost(link, ending),
      );
      this.#link = link;
    } catch (error) {
      // An address or a token that no WebSocket takes: trying again could not help.
      this.#stop(ABNORMAL, (error as Error).message);
    }
  }

  #receive(link: Link, message: ServerMessage): void {
    switch (message.t) {
      case "welcome":
        this.welcome = message;
        this.#wasUnauthorized = this.#hasReturned = false;
        this.#token.hold(message.cid, message.resume);
        this.#become({ state: "connected", node: message.node, resumed: message.resumed });
        if (this.#link !== link) break; // a listener has closed the client
        this.emit("welcome", message);
        for (const room of [...this.#rooms.values()]) void room.enter(link);
        break;
      case "resume":
        this.#token.hold(this.welcome!.cid, message.resume);
        break;
      case "error":
        if (message.id !== undefined) break;
        if (message.code === "token_expired" && this.#options.getToken) void this.#renew(link, this.#options.getToken);
        else this.emit("error", new PresenceError(message.code, message.message, message.retry_after_ms));
        break;
      case "message":
        if (message.room === null) {
          const { t: _, ...event } = message;
          this.emit("message", event);
          break;
        }
      // falls through
      default:
        if ("room" in message && message.room) this.#rooms.get(message.room)?.receive(link, message);
    }
  }

  /** Bring fresh credentials before those of this connection end: again and again until they have. */
  async #renew(link: Link, getToken: NonNullable<ConnectOptions["getToken"]>): Promise<void> {
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    for (let failures = 0; this.#link === link; failures++) {
      try {
        await link.request({ t: "auth", token: await this.#ask(getToken) });
        break;
      } catch (error) {
        if (error instanceof StopError) break; // they end by themselves: 4009
        this.emit("error", error as Error);
        await new Promise((resolve) => setTimeout(resolve, 250 + jittered(failures, Math.random())));
      }
    }
    this.#isRenewing = false;
  }

  #lost(link: Link, { code, reason, reconnectMs, lastedMs }: Ending): void {
    if (this.#link !== link) return;
    this.#link = null;
    if (lastedMs >= STABLE_MS) this.#failures = 0;
    const renewed = this.#options.getToken !== undefined;
    // Its memberships are gone, or another connection has them.
    if (isFinal(code)) this.#token.drop();
    const again =
      !isFinal(code) || (renewed && (code === TOKEN_EXPIRED || (code === UNAUTHORIZED && !this.#wasUnauthorized)));
    this.#wasUnauthorized = code === UNAUTHORIZED;
    if (again) {
      const delay = this.#hasReturned ? 0 : waitAfter(code, reconnectMs, this.#failures++, Math.random());
      this.#hasReturned = false;
      this.#wait(code, reason, delay);
    } else {
      this.#stop(code, code === REPLACED ? "another connection goes on with this one" : reason);
    }
  }

  #wait(code: number, reason: string, delay: number): void {
    if (this.#lifetime.signal.aborted) return;
    this.#attempt = null;
    this.#timer = later(() => this.#open(), delay);
    this.#become({ state: "waiting", code, reason, retryAt: Date.now() + delay });
  }

  #stop(code: number, reason: string): void {
    clearTimeout(this.#timer);
    this.#attempt = this.#link = null;
    const status: Status = { state: "stopped", code, reason };
    this.#become(status, (room) => room.end(stopped(reason)));
    if (this.#status === status) this.abandon(stopped(reason));
  }

  /** Rooms follow before anybody hears of it: what a listener begins, as a join after `reconnect`, is of the new status. */
  #become(status: Status, follow = (room: Room) => room.disconnected()): void {
    const isRoomsToo = this.#status.state === "connected" || status.state === "stopped";
    this.#status = status;
    if (isRoomsToo) for (const room of [...this.#rooms.values()]) follow(room);
    if (this.#status === status) this.emit("status", status);
  }

  // --- the page's life ---

  #followPage(): void {
    if (!globalThis.addEventListener) return; // Node.js
    const { signal } = this.#lifetime;
    const look = () => {
      // Where the server asked for the wait, looking at the page must not end it.
      if (this.#status.state === "waiting" && !isAskedFor(this.#status.code)) this.#open();
      else this.#link?.probe(LOOKED_AT_IDLE_MS);
    };
    addEventListener("online", look, { signal });
    const hidden = () => {
      this.isGoing = true;
      this.#token.store();
    };
    addEventListener("pagehide", hidden, { signal });
    const restored = ({ persisted }: PageTransitionEvent) => {
      this.isGoing = false;
      if (!persisted) return;
      this.#token.takeBack();
      if (this.#link === null) return look();
      // The browser has closed it or soon will, and what was set meanwhile goes with the next join.
      this.#hasReturned = true;
      this.#link.lose("the page was put aside");
    };
    addEventListener("pageshow", restored, { signal });
    // A worker has no document.
    globalThis.document?.addEventListener("visibilitychange", () => document.visibilityState === "visible" && look(), { signal });
  }
}

/** Connect to a server's `/ws` and stay connected. */
export function connect(url = "/ws", options: ConnectOptions = {}): Client {
  return new Client(url, options);
}

function address(url: string, { user, info }: ConnectOptions): string {
  const address = new URL(url, globalThis.location?.href);
  address.protocol = address.protocol.replace("http", "ws");
  if (user !== undefined) address.searchParams.set("user", user);
  if (info !== undefined) address.searchParams.set("info", toJson(info));
  return address.href;
}

function storageOf({ storage }: ConnectOptions): TokenStorage | null {
  if (storage !== undefined) return storage;
  try {
    return globalThis.sessionStorage ?? null;
  } catch {
    return null; // a page whose storage is forbidden throws
  }
}

function stopped(reason: string): PresenceError {
  return new PresenceError("ended", `the client has stopped: ${reason}`);
}
