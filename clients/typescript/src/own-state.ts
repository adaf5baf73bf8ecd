/**
 * The state that this client says of itself in one room: one update on its way, and the latest after it. Whoever sets
 * states as fast as a pointer moves is slowed down by that, and never refused for it.
 */
import type { PresenceError } from "./errors.js";
import { disconnected, type Link, toJson } from "./link.js";
import type { Ok } from "./messages.js";

interface Waiting {
  readonly resolve: (v: number) => void;
  readonly reject: (error: PresenceError) => void;
}

/** A state that the server is to have, and who waits for it: also those whose states it has overtaken. */
interface Wish<State> {
  /** The whole state; null: that of before, with another `patch`. */
  whole: State | null;
  patch: Partial<State>;
  readonly ifVersion: number | undefined;
  readonly waiting: Waiting[];
}

/** What a join brings. */
export interface Brought<State> {
  readonly state: State | undefined;
  readonly wishes: readonly Wish<State>[];
}

export class OwnState<State> {
  /** The last state that the server is known to have. */
  #confirmed: State | undefined;
  /** What it is to have after that, oldest first; the first one is on its way while `#isAsking`. */
  #wishes: Wish<State>[] = [];
  #isAsking = false;
  #link: Link | null = null;
  #room: string;
  #before: () => State | undefined;
  #isHeld: () => boolean;

  /** `before()` is the state that the server tells of; while `isHeld()` nothing is sent. */
  constructor(room: string, before: () => State | undefined, isHeld: () => boolean) {
    this.#room = room;
    this.#before = before;
    this.#isHeld = isHeld;
  }

  /** The state that was asked for last, and not refused. */
  get latest(): State | undefined {
    return this.#plain().reduce<State | undefined>((before, wish) => this.#asked(wish, before), this.#confirmed);
  }

  /** Have the server know this state, or the one of before with another patch. */
  set(state: State | null, patch: Partial<State>, ifVersion?: number): Promise<number> {
    const promise = new Promise<number>((resolve, reject) => {
      const waiting = { resolve, reject };
      const wish = { whole: state && JSON.parse(toJson(state)), patch: { ...patch }, ifVersion, waiting: [waiting] };
      const last = this.#wishes.length > Number(this.#isAsking) ? this.#wishes.at(-1) : undefined;
      if (last === undefined || (last.ifVersion ?? ifVersion) !== undefined) this.#wishes.push(wish);
      else {
        last.patch = wish.whole ? {} : { ...last.patch, ...wish.patch };
        last.whole = wish.whole ?? last.whole;
        last.waiting.push(waiting);
      }
    });
    promise.catch(() => {}); // nobody need wait for it
    this.#link?.inTurn(this.#send);
    return promise;
  }

  /** Return what a join is to bring. */
  bring(): Brought<State> {
    this.#isAsking = true; // what is set from now on comes after the join
    return { state: this.latest, wishes: this.#plain() };
  }

  /** Note that the join which brought this was answered, with this member's version: updates may follow. */
  brought({ state, wishes }: Brought<State>, link: Link, v: number): void {
    if (state !== undefined) this.#confirmed = state;
    this.#settle(wishes, ({ resolve }) => resolve(v));
    this.#link = link;
    this.goOn();
  }

  /** Note that the join was refused for the state that it brought. */
  refuse({ wishes }: Brought<State>, error: PresenceError): void {
    this.#settle(wishes, ({ reject }) => reject(error));
  }

  /** Send what waits: after an answer, also to a join that failed, which leaves what it was to bring. */
  goOn(): void {
    this.#isAsking = false;
    if (this.#wishes.length > 0) this.#link?.inTurn(this.#send);
  }

  /** The connection is lost: the latest state goes with the next join. */
  pause(): void {
    this.#link = null;
    this.#isAsking = false;
    const plain = this.#plain();
    this.#settle(this.#wishes.filter((wish) => !plain.includes(wish)), ({ reject }) => reject(disconnected()));
    this.#fold();
  }

  /** The room is left: forget all of it. */
  end(error: PresenceError): void {
    this.#link = null;
    this.#isAsking = false;
    this.#confirmed = undefined;
    this.#settle(this.#wishes, ({ reject }) => reject(error));
  }

  #send = (): boolean => {
    const [wish, link] = [this.#wishes[0], this.#link];
    if (wish === undefined || link === null || this.#isAsking || this.#isHeld()) return false;
    this.#isAsking = true;
    const { ifVersion } = wish;
    const state = this.#asked(wish, this.#confirmed);
    const update = { t: "update", room: this.#room, state, ...(ifVersion !== undefined && { if_version: ifVersion }) };
    link.request(update as Parameters<Link["request"]>[0]).then(
      (reply) => {
        if (!this.#wishes.includes(wish)) return; // the room was left, or a join has brought it meanwhile
        this.#confirmed = state;
        this.#settle([wish], ({ resolve }) => resolve((reply as Ok).v ?? 0));
        this.goOn();
      },
      (error: PresenceError) => {
        // Without a connection all of them wait, and so does what came too fast, until the link lets it go.
        if (!this.#wishes.includes(wish) || error.code === "disconnected") return;
        if (error.code !== "throttled") this.#settle([wish], ({ reject }) => reject(error));
        else if (this.#plain().length === this.#wishes.length) this.#fold();
        this.goOn();
      },
    );
    return false;
  };

  #plain(): Wish<State>[] {
    return this.#wishes.filter(({ ifVersion }) => ifVersion === undefined);
  }

  /** Make one of all wishes. */
  #fold(): void {
    if (this.#wishes.length === 0) return;
    const waiting = this.#wishes.flatMap((wish) => wish.waiting);
    this.#wishes = [{ whole: this.latest!, patch: {}, ifVersion: undefined, waiting }];
  }

  #asked({ whole, patch }: Wish<State>, before: State | undefined): State {
    return { ...(whole ?? before ?? this.#before()), ...patch } as State;
  }

  #settle(wishes: readonly Wish<State>[], how: (waiting: Waiting) => void): void {
    this.#wishes = this.#wishes.filter((wish) => !wishes.includes(wish));
    for (const { waiting } of wishes) waiting.forEach(how);
  }
}
