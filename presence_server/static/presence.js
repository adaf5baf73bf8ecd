/**
 * A client of the presence protocol for browsers: one connection, any number of rooms, no dependencies.
 *
 *     import { connect } from "/static/presence.js";
 *
 *     const client = connect({ user: "ada", info: { name: "Ada" } });
 *     const room = client.room("lobby");
 *     room.on("roster", () => console.log(room.people()));
 *     room.on("message", ({ user, data }) => console.log(user, data));
 *     await room.join({ status: "here" });
 *     await room.publish({ text: "hello" });
 *
 * It reconnects by itself as the close codes ask, joins its rooms again, and keeps its `cid` over
 * reconnects and reloads. What other people send (`user`, `info`, `state`, `data`) is untrusted.
 */

const SUBPROTOCOL = "presence.v1.json";
const BACKOFF_FIRST_MS = 400;
const BACKOFF_MAX_MS = 15_000;
const BACKOFF_OVERLOADED_MS = 2_000;
/** A connection that lasted this long was a good one: the next loss starts at the shortest delay again. */
const SETTLED_MS = 5_000;
/** The longest wait for `welcome` or for a reply; after that the connection counts as lost. */
const ANSWER_MS = 10_000;
/** Ended normally, or the client's own mistake: connecting again would only repeat it. */
const FINAL_CODES = new Set([1000, 1002, 1003, 1007, 1009]);
const TOKEN_EXPIRED = 4009;

/** A request that failed. `code` is one of the protocol's error codes, or `disconnected`. */
export class PresenceError extends Error {
  constructor(code, message, { retryAfterMs, v } = {}) {
    super(message);
    this.name = "PresenceError";
    this.code = code;
    this.retryAfterMs = retryAfterMs;
    this.v = v;
  }
}

class Emitter {
  #listeners = new Map();

  /** Call `listener` with every event of `type`; returns a function that ends it. */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  emit(type, event) {
    for (const listener of this.#listeners.get(type) ?? []) listener(event);
  }
}

/** Who is in a room, from its `sync`, `page`, `diff` and `count` messages in order of arrival. */
export class Roster {
  /** cid → member `{cid, user, info, state, v, at}` */
  members = new Map();
  /** Members (connections) and distinct users, as the server counts them. */
  count = 0;
  users = 0;

  /** Apply one message; returns what a `diff` changed, as `{joins, updates, leaves}` of whole members. */
  apply(message) {
    const changes = { joins: [], updates: [], leaves: [] };
    if (message.t === "sync") this.members.clear();
    if (message.t !== "page") [this.count, this.users] = [message.count, message.users];
    for (const member of message.members ?? []) this.members.set(member.cid, member);
    for (const member of message.joins ?? []) {
      (this.members.has(member.cid) ? changes.updates : changes.joins).push(member);
      this.members.set(member.cid, member);
    }
    for (const { cid, state, v } of message.updates ?? []) {
      const known = this.members.get(cid);
      if (known === undefined) continue;
      const member = { ...known, state, v };
      this.members.set(cid, member);
      changes.updates.push(member);
    }
    for (const { cid, reason } of message.leaves ?? []) {
      const member = this.members.get(cid);
      if (this.members.delete(cid)) changes.leaves.push({ ...member, reason });
    }
    return changes;
  }

  /** Members grouped by user, `[{user, connections}]`, whoever joined first at the front. */
  people() {
    const groups = new Map();
    for (const member of [...this.members.values()].sort((a, b) => a.at - b.at)) {
      if (!groups.has(member.user)) groups.set(member.user, { user: member.user, connections: [] });
      groups.get(member.user).connections.push(member);
    }
    return [...groups.values()];
  }
}

/**
 * One room of a client.
 *
 * Events: `roster` after any change of it; `join`, `update` and `leave` with the member, for single
 * changes while connected; `sync` with a fresh roster; `message` `{cid, user, data, at}`;
 * `signal` `{cid, user, key, data}`; `stale` (boolean); `refused` with the error when the server
 * would not let this client in again after a reconnect; `removed` with `kicked` or `forbidden` when
 * a backend, or its credentials, took this client out of the room: it is left then, and stays left
 * until the page joins it anew, with this object or a new one of `client.room(name)`.
 */
export class Room extends Emitter {
  roster = new Roster();
  /** What of the roster the server sends here: `full`, `count` or `none`. */
  mode = "full";
  stale = false;
  #client;
  #entry = null;
  #isSynced = false;
  #isKicked = false;

  constructor(client, name) {
    super();
    this.#client = client;
    this.name = name;
  }

  get count() { return this.roster.count; }
  get users() { return this.roster.users; }
  people() { return this.roster.people(); }

  /** Become a member with this state, now and after every reconnect; resolves once the roster is here. */
  join(state, { mode } = {}) {
    return this.#want({ t: "join", room: this.name, state, mode });
  }

  /** Receive what happens without appearing, now and after every reconnect. */
  watch({ mode } = {}) {
    return this.#want({ t: "watch", room: this.name, mode });
  }

  /** Replace this member's state. While disconnected it is kept, and goes out with the next join. */
  async update(state, { ifVersion } = {}) {
    if (this.#entry?.message.t === "join") this.#entry.message.state = state;
    if (this.#isSynced) await this.#client.request({ t: "update", room: this.name, state, if_version: ifVersion });
  }

  /** Send `data` to every other watcher; resolves with the server's time once it is accepted. */
  async publish(data) {
    return (await this.#client.request({ t: "publish", room: this.name, data })).at;
  }

  /** Send the latest of something fleeting (a cursor, typing); it may be dropped, and is while disconnected. */
  signal(key, data) {
    if (this.#isSynced) this.#client.send({ t: "signal", room: this.name, key, data });
  }

  /** Stop being a member and watcher. */
  leave() {
    this.#entry = null;
    this.#client.forget(this);
    if (this.#isSynced) this.#client.send({ t: "leave", room: this.name });
    this.#isSynced = false;
  }

  #want(message) {
    const entry = { message };
    const entered = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    this.#entry = entry;
    this.#isKicked = false;
    this.#client.remember(this);
    if (this.#client.state === "connected") this.enter();
    return entered;
  }

  /** The client calls this after every `welcome`. */
  async enter() {
    const entry = this.#entry;
    if (entry === null) return;
    if (this.#isKicked) {
      // The connection was lost between the leave that the room was told and the `removed`.
      this.#removed("kicked");
      return;
    }
    try {
      await this.#client.request(entry.message);
      entry.resolve(this);
    } catch (error) {
      if (error.code === "disconnected" || this.#entry !== entry) return;
      if (error.retryAfterMs !== undefined) {
        setTimeout(() => this.#client.state === "connected" && this.enter(), error.retryAfterMs);
        return;
      }
      entry.reject(error);
      this.emit("refused", error);
    }
  }

  #removed(reason) {
    const entry = this.#entry;
    this.#entry = null;
    this.#isSynced = this.#isKicked = false;
    this.#client.forget(this);
    entry?.reject(new PresenceError("forbidden", `removed from the room: ${reason}`));
    this.emit("removed", reason);
  }

  /** The client calls this when the connection is lost: what is known stays, as of then. */
  disconnected() {
    this.#isSynced = false;
  }

  /** The client calls this with every message of this room. */
  receive(message) {
    switch (message.t) {
      case "sync":
        [this.mode, this.stale, this.#isSynced] = [message.mode, message.stale, true];
        this.#isKicked = false;
        this.roster.apply(message);
        this.emit("sync", message);
        this.emit("roster", this.roster);
        this.#rest(message.cursor);
        break;
      case "page":
      case "diff":
      case "count": {
        if (!this.#isSynced) return;
        const { joins, updates, leaves } = this.roster.apply(message);
        for (const member of joins) this.emit("join", member);
        for (const member of updates) this.emit("update", member);
        for (const member of leaves) this.emit("leave", member);
        if (leaves.some(({ cid, reason }) => cid === this.#client.welcome?.cid && reason === "kicked")) this.#isKicked = true;
        this.emit("roster", this.roster);
        if (message.t === "page") this.#rest(message.cursor);
        break;
      }
      case "removed":
        this.#removed(message.reason);
        break;
      case "stale":
        this.stale = message.stale;
        this.emit("stale", this.stale);
        break;
      default:
        this.emit(message.t, message);
    }
  }

  /** Ask for the page after `cursor`; its answer comes through `receive` like everything else. */
  async #rest(cursor) {
    if (cursor === null) return;
    try {
      await this.#client.request({ t: "members", room: this.name, cursor });
    } catch (error) {
      if (error.retryAfterMs !== undefined) setTimeout(() => this.#isSynced && this.#rest(cursor), error.retryAfterMs);
    }
  }
}

/**
 * A connection that is kept up.
 *
 * `state` is `connecting`, `connected`, `waiting` (to reconnect, at `retryAt`, ms since 1970) or
 * `stopped` (for good, until `reconnect()`). Events: `state` with `{state, code, reason, retryAt}`;
 * `welcome`; `message` that was sent to this user; `error` that answers no request.
 */
export class Client extends Emitter {
  state = "connecting";
  /** The last `welcome`: `cid`, `user`, `info`, `node`, `limits` and so on. */
  welcome = null;
  #options;
  #socket = null;
  #rooms = new Map();
  #requests = new Map();
  #lastId = 0;
  #attempt = 0;
  #connectedAt = 0;
  #timer;
  #bye = null;
  #resume = null;
  #lifetime = new AbortController();
  #opening = null;

  constructor(options) {
    super();
    this.#options = options;
    this.#resume = this.#takeStoredToken();
    const { signal } = this.#lifetime;
    addEventListener("pagehide", () => this.#storeToken(), { signal });
    addEventListener("pageshow", (event) => event.persisted && (this.#takeStoredToken(), this.#hurry()), { signal });
    addEventListener("online", () => this.#hurry(), { signal });
    this.#open();
  }

  /** The room called `name`; join or watch it to receive anything. */
  room(name) {
    if (!this.#rooms.has(name)) this.#rooms.set(name, new Room(this, name));
    return this.#rooms.get(name);
  }

  /** Send one message and resolve with its reply, or reject with a `PresenceError`. */
  request(message) {
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      if (!this.send({ ...message, id }, reject)) return;
      const timer = setTimeout(() => this.#lost(1006, "no answer"), ANSWER_MS);
      this.#requests.set(id, { resolve, reject, timer });
    });
  }

  /** Send one message that wants no reply; false, and `refuse` called, where it cannot be sent. */
  send(message, refuse = () => {}) {
    if (this.#socket?.readyState !== WebSocket.OPEN || this.welcome === null) {
      refuse(new PresenceError("disconnected", "not connected"));
      return false;
    }
    const text = JSON.stringify(message);
    const limit = this.welcome.limits?.message_bytes ?? Infinity;
    if (text.length * 3 > limit && new TextEncoder().encode(text).length > limit) {
      refuse(new PresenceError("too_large", `longer than ${limit} bytes`));
      return false;
    }
    this.#socket.send(text);
    return true;
  }

  /** The round trip time in ms. */
  async ping() {
    const startedAt = performance.now();
    await this.request({ t: "ping" });
    return performance.now() - startedAt;
  }

  /** Connect now instead of at `retryAt`, or again after `stopped`. */
  reconnect() {
    if (this.state === "waiting" || this.state === "stopped") this.#open();
  }

  /** Leave everything and stay away. */
  close() {
    this.#lifetime.abort();
    clearTimeout(this.#timer);
    for (const room of [...this.#rooms.values()]) room.leave();
    this.#resume = this.#opening = null;
    this.#socket?.close(1000);
    this.#lost(1000, "closed");
    if (this.state !== "stopped") this.#become("stopped", { code: 1000, reason: "closed" });
  }

  /** A room calls this when it is to be entered. */
  remember(room) {
    if (!this.#rooms.has(room.name)) this.#rooms.set(room.name, room);
  }

  /** A room calls this when it was left. */
  forget(room) {
    if (this.#rooms.get(room.name) === room) this.#rooms.delete(room.name);
  }

  #open() {
    clearTimeout(this.#timer);
    this.#bye = null;
    const { token } = this.#options;
    const opening = (this.#opening = {});
    if (typeof token !== "function") {
      this.#connect(token);
    } else {
      const stillWanted = (act) => (value) => this.#opening === opening && act(value);
      const connect = stillWanted((fresh) => this.#connect(fresh));
      const wait = stillWanted((error) => {
        this.emit("error", error);
        this.#wait(1006, "no token");
      });
      Promise.resolve().then(token).then(connect, wait);
    }
    this.#become("connecting");
  }

  #connect(token) {
    const { url = "/ws", user, info } = this.#options;
    const address = new URL(url, location.href);
    address.protocol = address.protocol.replace("http", "ws");
    if (user !== undefined) address.searchParams.set("user", user);
    if (info !== undefined) address.searchParams.set("info", JSON.stringify(info));
    const protocols = [SUBPROTOCOL];
    if (token !== undefined) protocols.push(`bearer.${token}`);
    if (this.#resume !== null) protocols.push(`resume.${this.#resume}`);
    const socket = new WebSocket(address, protocols);
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => this.#lost(code, reason);
    this.#timer = setTimeout(() => this.#lost(1006, "no answer"), ANSWER_MS);
  }

  /** Bring fresh credentials before those of this connection end. */
  async #renew() {
    try {
      await this.request({ t: "auth", token: await this.#options.token() });
    } catch (error) {
      this.emit("error", error);
    }
  }

  #receive(message) {
    switch (message.t) {
      case "welcome":
        clearTimeout(this.#timer);
        [this.welcome, this.#resume, this.#connectedAt] = [message, message.resume, Date.now()];
        this.#become("connected");
        this.emit("welcome", message);
        for (const room of [...this.#rooms.values()]) room.enter();
        return;
      case "resume":
        this.#resume = message.resume;
        return;
      case "bye":
        this.#bye = message;
        return;
    }
    // A room applies what it is sent before the request it answers resolves.
    if (message.t !== "error") {
      const target = typeof message.room === "string" ? this.#rooms.get(message.room) : undefined;
      if (target !== undefined) target.receive(message);
      else if (message.t === "message" && message.room === null) this.emit("message", message);
    }
    this.#settle(message);
  }

  #settle(message) {
    const request = this.#requests.get(message.id);
    const error = message.t === "error"
      ? new PresenceError(message.code, message.message, { retryAfterMs: message.retry_after_ms, v: message.v })
      : null;
    if (request === undefined) {
      if (error?.code === "token_expired" && typeof this.#options.token === "function") this.#renew();
      else if (error !== null) this.emit("error", error);
      return;
    }
    clearTimeout(request.timer);
    this.#requests.delete(message.id);
    if (error === null) request.resolve(message);
    else request.reject(error);
  }

  #lost(closeCode, closeReason) {
    const socket = this.#socket;
    if (socket === null) return;
    socket.onmessage = socket.onclose = this.#socket = null;
    socket.close();
    clearTimeout(this.#timer);
    const code = this.#bye?.code ?? closeCode;
    const reason = this.#bye?.reason ?? closeReason;
    this.welcome = null;
    for (const room of this.#rooms.values()) room.disconnected();
    for (const { reject, timer } of this.#requests.values()) {
      clearTimeout(timer);
      reject(new PresenceError("disconnected", "the connection was lost"));
    }
    this.#requests.clear();
    if (FINAL_CODES.has(code) || (code >= 4000 && code < 4100)) {
      this.#resume = null; // its memberships are gone, or (4010) another connection has them
      if (code !== TOKEN_EXPIRED || typeof this.#options.token !== "function") {
        this.#become("stopped", { code, reason });
        return;
      }
    }
    this.#wait(code, reason);
  }

  #wait(code, reason) {
    const delay = this.#delay(code);
    this.#timer = setTimeout(() => this.#open(), delay);
    this.#become("waiting", { code, reason, retryAt: Date.now() + delay });
  }

  /** ms to wait before connecting again: what the server asks for, else by the close code's range. */
  #delay(code) {
    if (Date.now() - this.#connectedAt >= SETTLED_MS && this.#connectedAt !== 0) this.#attempt = 0;
    this.#connectedAt = 0;
    const asked = this.#bye?.reconnect_ms;
    if (asked !== undefined) return asked;
    const jitter = 0.5 + Math.random() / 2;
    if (code >= 4200 && code < 4300 && this.#attempt === 0) return BACKOFF_FIRST_MS * Math.random();
    const least = code >= 4100 && code < 4200 ? BACKOFF_OVERLOADED_MS : BACKOFF_FIRST_MS;
    return Math.min(BACKOFF_MAX_MS, least * 2 ** this.#attempt++) * jitter;
  }

  #hurry() {
    if (this.state === "waiting") this.#open();
  }

  #become(state, { code, reason, retryAt } = {}) {
    this.state = state;
    this.emit("state", { state, code, reason, retryAt });
  }

  // A browser copies session storage when it duplicates a tab, and two connections must not share a token:
  // it is written while the page goes away and removed as soon as it is read.
  get #storageKey() {
    return `presence.resume ${this.#options.url ?? "/ws"} ${this.#options.user ?? ""}`;
  }

  #storeToken() {
    if (this.#resume !== null) sessionStorage.setItem(this.#storageKey, this.#resume);
  }

  #takeStoredToken() {
    const token = sessionStorage.getItem(this.#storageKey);
    sessionStorage.removeItem(this.#storageKey);
    return token;
  }
}

/**
 * Connect, and stay connected.
 *
 * `user` and `info` name this client where the server asks for no credentials; `token` are credentials
 * where it does, or a function that gives fresh ones (or a promise of them) for each connection and when
 * the server says that they end; `url` is the server's `/ws` where that is not on this page's own origin.
 */
export function connect({ url, user, info, token } = {}) {
  return new Client({ url, user, info, token });
}
