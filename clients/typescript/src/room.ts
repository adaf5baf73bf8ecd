import { jittered, later } from "./backoff.js";
import { Emitter } from "./emitter.js";
import { PresenceError } from "./errors.js";
import { disconnected, type Link, type Request } from "./link.js";
import type { Mode, Ok, ServerMessage } from "./messages.js";
import { OwnState } from "./own-state.js";
import type { Connection, JoinOptions, RoomEvent, RoomEvents, RoomTypes, Snapshot, UntypedRoom } from "./room-types.js";
import { byUser, type Changes, EMPTY, isEqual, type Member, reduce, type Roster, type User } from "./roster.js";
import { Signals } from "./signals.js";

/** Events kept for an iteration that does not keep up; the oldest go. */
const EVENTS_MAX = 1_000;
const EVENT_TYPES = ["change", "join", "update", "leave", "message", "signal", "stale", "refused", "removed"] as const;

/** Refusals that another try may not meet, as the server has it. */
const TRANSIENT = /^(throttled|unavailable|internal)$/;
const TRY_AGAIN_MS = 1_000;
/** Refusals of a state, not of who brings it. */
const STATE_CODES = /^(too_large|bad_message)$/;

interface Deferred<Value> {
  resolve: (value: Value) => void;
  reject: (error: PresenceError) => void;
}

/** What is published once the room is here. */
interface Unsent extends Deferred<Link> {
  /** Whether it outlives a connection. */
  readonly wait: boolean;
}

/** A room of a client. The roster in it is as of the last message; `stale` says whether more may have happened. */
export class Room<T extends RoomTypes = UntypedRoom> extends Emitter<RoomEvents<T>> {
  /**
   * Resolves when the roster is here. Rejects with what the server says where it refuses (`forbidden`, `invalid_room`,
   * `room_full`, `too_many_rooms`), and with `ended` where the room is left, or the client stops, before.
   */
  ready: Promise<void> = Promise.resolve();
  /** The room's name. */
  readonly name: string;
  #connection: Connection;
  #joining = false;
  #mode: Mode | undefined;
  #own: OwnState<T["State"]>;
  /** Ends with the time in the room, from the first `join` or `watch` on; `null` outside of it. */
  #stay: AbortController | null = null;
  /** A new one with each wish to enter, also within one stay. */
  #entry: object | null = null;
  #deferred: Deferred<void> | null = null;
  /** What waits for the room to be here, oldest first. */
  #unsent: Unsent[] = [];
  /** The connection that this room is on, from its first `sync` there. */
  #link: Link | null = null;
  /** The one on which the server was asked to let this client in: what is sent there comes after that. */
  #asked: Link | null = null;
  /** Where the page begins that is to be asked for; `null`: none is. */
  #cursor: string | null = null;
  /** The request for the page that comes next; `null`: none is awaited. */
  #pageId: number | null = null;
  #roster: Roster = EMPTY;
  #staleThere = false;
  #isKicked = false;
  /** The `leave` that has no answer as yet. */
  #leaving: Promise<unknown> | null = null;
  #snapshot: Snapshot<T> | null = null;
  #others: readonly Member<T["State"], T["Info"]>[] = [];
  #signals: Signals;

  /** @internal */
  constructor(connection: Connection, name: string) {
    super();
    this.#connection = connection;
    this.name = name;
    // A page that goes away becomes hidden: others are not to see an "away" between it and the page after it.
    this.#own = new OwnState<T["State"]>(name, () => this.me?.state, () => connection.isGoing);
    this.#signals = new Signals(name, () => this.#link, (error) => connection.failed(error));
  }

  /** Whether this client wants to be in the room: false after `leave`, a refusal or a removal. */
  get isEntered(): boolean {
    return this.#entry !== null;
  }

  /** The room as it is now: the same object until something changes. */
  get snapshot(): Snapshot<T> {
    if (this.#snapshot === null) {
      const members = this.#roster.members as ReadonlyMap<string, Member<T["State"], T["Info"]>>;
      const cid = this.#connection.cid;
      const others = [...members.values()].filter((member) => member.cid !== cid);
      const isSame = others.length === this.#others.length && others.every((member, i) => member === this.#others[i]);
      if (!isSame) this.#others = others;
      this.#snapshot = {
        me: (cid !== null && members.get(cid)) || null,
        others: this.#others,
        members,
        users: byUser(members.values()) as User<T["State"], T["Info"]>[],
        count: this.#roster.count,
        userCount: this.#roster.users,
        mode: this.#roster.mode ?? "none",
        stale: this.#staleThere || this.#link === null,
      };
    }
    return this.#snapshot;
  }

  /** This client's own entry; null for who only watches. */
  get me() { return this.snapshot.me; }
  /** Everybody else, by connection: the same array until one of them changes. */
  get others() { return this.snapshot.others; }
  /** Who is there, by cid: empty unless `mode` is `full`. */
  get members() { return this.snapshot.members; }
  /** Who is there, connections folded into users. */
  get users() { return this.snapshot.users; }
  /** How many connections are members, as the server counts. */
  get count() { return this.snapshot.count; }
  /** How many users they are of. */
  get userCount() { return this.snapshot.userCount; }
  /** What the server sends of the roster. */
  get mode() { return this.snapshot.mode; }
  /** Whether the roster may be out of date: there is no connection, or the server says so. */
  get stale() { return this.snapshot.stale; }

  /** Become a member, now and after each reconnect. In a room that was joined, another state is an update. */
  join(options: JoinOptions<T> = {}): this {
    if (this.#isAborted(options)) return this;
    if (this.#entry !== null && this.#joining) {
      if (options.state !== undefined && !isEqual(options.state, this.#own.latest)) void this.setState(options.state);
      if (options.mode === undefined || options.mode === this.#mode) return this.#leaveOn(options.signal);
    }
    this.#joining = true;
    if (options.state !== undefined) void this.#own.set(options.state, {}); // what a join is refused for, the room says
    return this.#want(options);
  }

  /** Receive what happens without appearing. */
  watch(options: Omit<JoinOptions<T>, "state"> = {}): this {
    return this.#isAborted(options) ? this : this.#want(options);
  }

  /**
   * Replace this member's state; resolves with its version once the server has it, or one that was set after it. One
   * update at a time is on its way, with up to 25 a second, and of what is set meanwhile the latest follows: its answer is
   * that of all which it has overtaken. Without a connection it goes with the next join. Rejects with `not_joined`, with
   * what the server says (`too_large`, `forbidden`): then the state before stays; and with `ended` where the room is left
   * before. With `ifVersion` it is sent at that version only, is overtaken by nothing, and rejects with `conflict`, or
   * with `disconnected`.
   */
  setState(state: T["State"], { ifVersion }: { ifVersion?: number } = {}): Promise<number> {
    if (ifVersion !== undefined && this.#joining && this.#link === null) return Promise.reject(disconnected());
    return this.#set(state, {}, ifVersion);
  }

  /** Replace some keys of this member's state, as it was asked for last. */
  patchState(patch: Partial<T["State"]>): Promise<number> {
    return this.#set(null, patch);
  }

  #set(state: T["State"] | null, patch: Partial<T["State"]>, ifVersion?: number): Promise<number> {
    if (!this.#joining) return Promise.reject(notJoined());
    return this.#own.set(state, patch, ifVersion);
  }

  /**
   * Send `data` to everybody else, at most once; resolves with the server's time. `wait` waits for a connection
   * instead of rejecting where there is none. Rejects with `not_joined`, `disconnected`, with what the server says
   * (`too_large`, `throttled`, `forbidden`), and with `ended`. `disconnected` after it was sent means that it may have
   * arrived.
   */
  async publish(data: T["Message"], { wait = false }: { wait?: boolean } = {}): Promise<number> {
    if (this.#entry === null) throw notJoined();
    const send = async (link: Link) => ((await link.request({ t: "publish", room: this.name, data })) as Ok).at ?? 0;
    if (this.#asked && !this.#unsent.length) return send(this.#asked);
    if (!wait && this.#connection.link === null) throw disconnected();
    return new Promise((resolve, reject) => this.#unsent.push({ resolve: (link) => resolve(send(link)), reject, wait }));
  }

  #publish = (link: Link): boolean => {
    const next = this.#link === link ? this.#unsent.shift() : undefined;
    next?.resolve(link);
    return next !== undefined;
  };

  /**
   * Send the latest of something fleeting under `key`, once a frame and 25 times a second over all keys and rooms; it
   * may be dropped, and is while disconnected.
   */
  signal(key: string, data: unknown): void {
    this.#signals.set(key, data);
  }

  /** Stop being a member and a watcher; resolves when the server knows, at once without a connection. Never rejects. */
  async leave(): Promise<void> {
    const link = this.#asked;
    if (this.#entry === null) return;
    this.#ended(ended());
    if (link !== null) await this.#sayLeave(link);
  }

  /** Every event from now on, until the room is left; a reader that is slow loses the oldest. */
  [Symbol.asyncIterator](): AsyncGenerator<RoomEvent<T>, void> {
    const reader = { isOver: false, wake: () => {} };
    const reading = this.#read(reader);
    const end = reading.return.bind(reading);
    // A generator alone would end only with the event that it waits for.
    reading.return = (value) => {
      reader.isOver = true;
      reader.wake();
      return end(value);
    };
    return reading;
  }

  async *#read(reader: { isOver: boolean; wake: () => void }): AsyncGenerator<RoomEvent<T>, void> {
    const events: RoomEvent<T>[] = [];
    const stay = this.#stay;
    const ends = EVENT_TYPES.map((type) =>
      this.on(type, (event) => {
        if ((this.#stay ?? stay) === stay) events.push({ type, event } as RoomEvent<T>);
        if (events.length > EVENTS_MAX) events.shift();
        reader.wake();
      }),
    );
    try {
      while (!reader.isOver) {
        const next = events.shift();
        if (next !== undefined) yield next;
        else if (this.#stay === null || this.#stay !== stay) return;
        else await new Promise<void>((resolve) => (reader.wake = resolve));
      }
    } finally {
      for (const end of ends) end();
    }
  }

  /** Tell whether the signal of a wish is aborted already: then it ends the stay that there is, and begins none. */
  #isAborted({ signal }: JoinOptions<T>): boolean {
    if (!signal?.aborted) return false;
    void this.leave();
    this.ready = Promise.reject(ended());
    this.ready.catch(() => {}); // nobody need look at it
    return true;
  }

  #want({ mode, signal }: JoinOptions<T>): this {
    this.#stay ??= new AbortController();
    this.#leaveOn(signal);
    this.#mode = mode ?? this.#mode;
    this.#entry = {};
    this.#isKicked = false;
    if (this.#deferred === null) {
      this.ready = new Promise((resolve, reject) => (this.#deferred = { resolve, reject }));
      this.ready.catch(() => {}); // nobody need look at it
    }
    this.#connection.remember(this as unknown as Room);
    if (this.#connection.link !== null) this.enter(this.#connection.link);
    return this;
  }

  #leaveOn(signal: AbortSignal | undefined): this {
    signal?.addEventListener("abort", this.#leave, { signal: this.#stay!.signal });
    return this;
  }

  #leave = () => void this.leave();

  /** @internal The client calls this after every `welcome`. */
  enter(link: Link): void {
    link.inTurn(this.#enter);
  }

  #enter = async (link: Link): Promise<void> => {
    const [entry, stay] = [this.#entry, this.#stay];
    if (entry === null) return;
    // The connection was lost between the leave that everybody was told and `removed`: a join would undo it.
    if (this.#isKicked) return this.#remove("kicked");
    const mode = this.#mode;
    const brought = this.#joining ? this.#own.bring() : null;
    this.#asked = link;
    try {
      await link.request({
        t: brought === null ? "watch" : "join",
        room: this.name,
        ...(mode !== undefined && { mode }),
        ...(brought?.state !== undefined && { state: brought.state }),
      } as Request);
      const isThere = this.#stay === stay && this.#link === link && this.#joining;
      if (brought !== null && isThere) this.#own.brought(brought, link, this.me?.v ?? 0);
    } catch (error) {
      if (brought !== null && this.#stay === stay) this.#own.goOn();
      if (this.#entry !== entry) return;
      const { code, retryAfterMs } = error as PresenceError;
      if (code === "disconnected") return; // entered again on the next connection
      // A state that was set without a connection: who was in the room stays there, with the one before.
      if (brought !== null && brought.wishes.length > 0 && this.#deferred === null && STATE_CODES.test(code)) {
        this.#own.refuse(brought, error as PresenceError);
        return this.enter(link);
      }
      if (TRANSIENT.test(code)) {
        this.#asked = this.#link;
        if (code === "throttled") return this.enter(link); // whose turns are held for as long as the server said
        const again = () => this.#connection.link === link && this.#entry === entry && this.enter(link);
        later(again, retryAfterMs ?? jittered(1, Math.random()) + TRY_AGAIN_MS);
        return;
      }
      this.#ended(error as PresenceError);
      this.emit("refused", error as PresenceError);
    }
  };

  /** @internal Go on as one who only watches. */
  hide(): void {
    if (!this.#joining) return;
    this.#joining = false;
    this.#entry = {};
    this.#own.end(ended());
    const link = this.#connection.link;
    if (link === null) return;
    void this.#sayLeave(link);
    this.enter(link);
  }

  /** @internal */
  protected override heard(): void {
    this.#connection.keep(this as unknown as Room);
  }

  /** @internal The client calls this when the connection is lost: what is known stays, as of then. */
  disconnected(): void {
    const wasStale = this.stale;
    this.#link = this.#asked = null;
    for (const { reject, wait } of this.#unsent) if (!wait) reject(disconnected());
    this.#unsent = this.#unsent.filter(({ wait }) => wait);
    this.#own.pause();
    this.#signals.clear();
    this.#changed(wasStale);
  }

  /** @internal The client calls this when it ends. */
  end(error: PresenceError): void {
    if (this.#entry !== null) this.#ended(error);
  }

  /** @internal The client calls this with each message of this room. */
  receive(link: Link, message: ServerMessage): void {
    if (this.#entry === null) return;
    switch (message.t) {
      case "sync": {
        const wasStale = this.stale;
        this.#link = link;
        if (message.id !== undefined) this.#leaving = null;
        this.#staleThere = message.stale;
        this.#isKicked = false;
        const stay = this.#stay;
        this.#apply(message, wasStale);
        if (this.#stay !== stay) return; // a listener has left
        if (this.#unsent.length > 0) link.inTurn(this.#publish);
        this.#rest(link, message.cursor);
        break;
      }
      case "page":
        // Of a reading that a later `sync` has ended: the one that followed it reads all of it again.
        if (message.id !== this.#pageId) return;
      // falls through
      case "diff":
      case "count":
        if (this.#link !== link) return; // of an earlier stay
        this.#apply(message, this.stale);
        if (message.t === "page" && this.#link === link) this.#rest(link, message.cursor);
        break;
      case "removed":
        if (this.#leaving !== null) break; // of the stay before, which was ended from both sides
        this.#remove(message.reason);
        break;
      case "stale": {
        const wasStale = this.stale;
        this.#staleThere = message.stale;
        this.#changed(wasStale);
        break;
      }
      case "message":
      case "signal": {
        const { t, ...event } = message;
        this.emit(t, event as never);
        break;
      }
    }
  }

  #apply(message: Parameters<typeof reduce>[1], wasStale: boolean): void {
    const [roster, changes] = reduce(this.#roster, message);
    const synced = message.t === "sync" || message.t === "page";
    this.#roster = roster;
    this.#snapshot = null;
    const cid = this.#connection.cid;
    if (changes.leaves.some((member) => member.cid === cid && member.reason === "kicked")) this.#isKicked = true;
    const { joins, updates, leaves } = changes as Changes<T["State"], T["Info"]>;
    const stay = this.#stay;
    // A listener may leave, and join again: what comes after it would be of a room that is left.
    const tell: typeof this.emit = (type, event) => this.#stay === stay && this.emit(type, event);
    for (const member of leaves) tell("leave", member);
    for (const member of joins) tell("join", member);
    for (const member of updates) tell("update", member);
    if (this.stale !== wasStale) tell("stale", this.stale);
    tell("change", { joins, updates, leaves, synced });
    if (roster.complete && this.#stay === stay) {
      this.#deferred?.resolve();
      this.#deferred = null;
    }
  }

  /** Ask for the page after `cursor`; its answer comes through `receive` like everything else. */
  #rest(link: Link, cursor: string | null): void {
    this.#pageId = null;
    this.#cursor = cursor;
    if (cursor !== null) link.inTurn(this.#page);
  }

  #page = (link: Link): void => {
    const cursor = this.#cursor;
    if (this.#link !== link || cursor === null) return;
    this.#cursor = null;
    const asked = link.request({ t: "members", room: this.name, cursor });
    const id = (this.#pageId = link.lastId);
    asked.catch(({ code }: PresenceError) => {
      if (code === "throttled" && this.#link === link && this.#pageId === id) this.#rest(link, cursor);
    });
  };

  async #sayLeave(link: Link): Promise<void> {
    const leaving = (this.#leaving = link.request({ t: "leave", room: this.name }).catch(() => {}));
    await leaving;
    if (this.#leaving === leaving) this.#leaving = null;
  }

  #remove(reason: "kicked" | "forbidden"): void {
    this.#ended(new PresenceError("forbidden", `removed from the room: ${reason}`));
    this.emit("removed", reason);
  }

  #ended(error: PresenceError): void {
    const wasStale = this.stale;
    this.#stay?.abort();
    this.#stay = this.#entry = this.#link = this.#asked = null;
    this.#joining = this.#isKicked = this.#staleThere = false;
    this.#roster = EMPTY;
    this.#mode = undefined;
    this.#own.end(error);
    this.#signals.clear();
    this.#connection.keep(this as unknown as Room);
    this.abandon(error);
    this.#deferred?.reject(error);
    this.#deferred = null;
    for (const { reject } of this.#unsent.splice(0)) reject(error);
    this.#changed(wasStale, true);
  }

  #changed(wasStale: boolean, whatever = false): void {
    this.#snapshot = null;
    if (this.stale !== wasStale) this.emit("stale", this.stale);
    if (whatever || this.stale !== wasStale) this.emit("change", { joins: [], updates: [], leaves: [], synced: false });
  }
}

function notJoined(): PresenceError {
  return new PresenceError("not_joined", "the room is not joined");
}

function ended(): PresenceError {
  return new PresenceError("ended", "the room was left");
}
