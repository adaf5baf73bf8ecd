/** What a room is made of, as applications and the client see it. */
import type { PresenceError } from "./errors.js";
import type { Link } from "./link.js";
import type { Mode, Published, Signal } from "./messages.js";
import type { Room } from "./room.js";
import type { Changes, Departed, Member, User } from "./roster.js";

/** What a room is for an application: the shapes of what its people say. */
export interface RoomTypes {
  State: object;
  Info: unknown;
  Message: unknown;
}

/** A room of which nothing is said. */
export interface UntypedRoom extends RoomTypes {
  State: Record<string, unknown>;
}

/** A room at one moment; a new object whenever anything in it changes. */
export interface Snapshot<T extends RoomTypes = UntypedRoom> {
  readonly me: Member<T["State"], T["Info"]> | null;
  readonly others: readonly Member<T["State"], T["Info"]>[];
  readonly members: ReadonlyMap<string, Member<T["State"], T["Info"]>>;
  readonly users: readonly User<T["State"], T["Info"]>[];
  readonly count: number;
  readonly userCount: number;
  readonly mode: Mode;
  readonly stale: boolean;
}

/** The events of a room, and what each brings. */
export interface RoomEvents<T extends RoomTypes = UntypedRoom> {
  /** Anything of the roster, its numbers or `stale`. */
  change: Changes<T["State"], T["Info"]> & {
    /** Whether this is the difference to a roster that was read again, after a reconnect or a lag. */
    readonly synced: boolean;
  };
  /** A member that came. */
  join: Member<T["State"], T["Info"]>;
  /** A member whose state has changed. */
  update: Member<T["State"], T["Info"]>;
  /** A member that is gone, as it was. */
  leave: Departed<T["State"], T["Info"]>;
  /** What somebody else, or a backend (`user` is null), has published. */
  message: Omit<Published, "data" | "t"> & { readonly data: T["Message"] };
  /** Something fleeting of somebody else. */
  signal: Omit<Signal, "t">;
  /** Whether the roster may be out of date from now on. */
  stale: boolean;
  /** The server would not let this client in (again); the room is left. */
  refused: PresenceError;
  /** A backend took this client out, or its credentials no longer cover the room; the room is left. */
  removed: "kicked" | "forbidden";
}

/** One of the events, as async iteration gives them. */
export type RoomEvent<T extends RoomTypes = UntypedRoom> = {
  [Type in keyof RoomEvents<T>]: { readonly type: Type; readonly event: RoomEvents<T>[Type] };
}[keyof RoomEvents<T>];

/** How to enter a room. */
export interface JoinOptions<T extends RoomTypes = UntypedRoom> {
  state?: T["State"];
  mode?: Mode;
  /** Leaves the room when aborted. */
  signal?: AbortSignal;
}

/** What a room needs of its client. */
export interface Connection {
  readonly link: Link | null;
  readonly cid: string | null;
  /** Whether the page is going away. */
  readonly isGoing: boolean;
  remember(room: Room): void;
  /** Keep the room while it is entered or listened to. */
  keep(room: Room): void;
  /** Say what failed without a request that could. */
  failed(error: Error): void;
}
