// Made from the server's messages by `python -m presence_server.protocol.typescript`: do not edit.

export type Mode = "full" | "count" | "none";
export type Reason = "left" | "closed" | "timeout" | "kicked";
export type RemovalReason = "kicked" | "forbidden";
export type ErrorCode = "bad_message" | "unknown_type" | "invalid_room" | "forbidden" | "unauthorized" | "token_expired" | "not_joined" | "too_large" | "too_many_rooms" | "room_full" | "throttled" | "conflict" | "unavailable" | "internal";

/**
 * One entry of a roster: a connection that joined.
 *
 * `v` counts from 1 and goes up by one with every update of `state`; `at` is when it joined, in ms
 * since 1970 by the store's clock.
 */
export interface Member {
  readonly cid: string;
  readonly user: string;
  readonly info: unknown;
  readonly state: unknown;
  readonly v: number;
  readonly at: number;
}

/** A member's new state and version. */
export interface MemberUpdate {
  readonly cid: string;
  readonly state: unknown;
  readonly v: number;
}

/** A member that is gone, and why. */
export interface MemberLeave {
  readonly cid: string;
  readonly user: string;
  readonly reason: Reason;
}

/** Become a member and a watcher of `room`. */
export interface Join {
  readonly t: "join";
  readonly room: string;
  readonly state?: Readonly<Record<string, unknown>>;
  readonly mode?: Mode;
  readonly id?: number;
}

/** Receive what happens in `room` without appearing in it. */
export interface Watch {
  readonly t: "watch";
  readonly room: string;
  readonly mode?: Mode;
  readonly id?: number;
}

/** Stop being a member and a watcher of `room`. */
export interface Leave {
  readonly t: "leave";
  readonly room: string;
  readonly id?: number;
}

/** Replace this member's whole state, if it is at `if_version` where that is given. */
export interface Update {
  readonly t: "update";
  readonly room: string;
  readonly state: Readonly<Record<string, unknown>>;
  readonly if_version?: number;
  readonly id?: number;
}

/** Send `data` to every other watcher of `room`. */
export interface Publish {
  readonly t: "publish";
  readonly room: string;
  readonly data: unknown;
  readonly id?: number;
}

/** Send `data` to every other watcher now; only the latest of each `key` counts. */
export interface SendSignal {
  readonly t: "signal";
  readonly room: string;
  readonly key: string;
  readonly data: unknown;
  readonly id?: number;
}

/** Ask for a page of the roster of `room`. */
export interface Members {
  readonly t: "members";
  readonly room: string;
  readonly cursor?: string;
  readonly limit?: number;
  readonly id?: number;
}

/** Ask for a `pong`, to measure the round trip. */
export interface Ping {
  readonly t: "ping";
  readonly id?: number;
}

/** Replace this connection's credentials before they end. */
export interface Auth {
  readonly t: "auth";
  readonly token: string;
  readonly id?: number;
}

/** The first message to every connection: its id, its user, and the server's settings. */
export interface Welcome {
  readonly t: "welcome";
  readonly cid: string;
  readonly user: string;
  readonly info: unknown;
  readonly resumed: boolean;
  readonly resume: string;
  readonly node: string;
  readonly ping_ms: number;
  readonly time: number;
  readonly limits: Readonly<Record<string, number>>;
}

/** The request was carried out; `v` after an update, `at` after a publish. */
export interface Ok {
  readonly t: "ok";
  readonly id: number;
  readonly v?: number;
  readonly at?: number;
}

/**
 * A room as it is: what follows are changes newer than this.
 *
 * `members` holds the first 500; the rest comes with `members` from `cursor`.
 */
export interface Sync {
  readonly t: "sync";
  readonly room: string;
  readonly mode: Mode;
  readonly you: boolean;
  readonly seq: number;
  readonly count: number;
  readonly users: number;
  readonly members: readonly Member[];
  readonly cursor: string | null;
  readonly stale: boolean;
  readonly id?: number;
}

/** A page of a roster; `cursor` is null at its end. */
export interface Page {
  readonly t: "page";
  readonly room: string;
  readonly members: readonly Member[];
  readonly cursor: string | null;
  readonly id?: number;
}

/** The changes of a roster; a cid appears at most once. */
export interface Diff {
  readonly t: "diff";
  readonly room: string;
  readonly seq: number;
  readonly count: number;
  readonly users: number;
  readonly joins?: readonly Member[];
  readonly updates?: readonly MemberUpdate[];
  readonly leaves?: readonly MemberLeave[];
}

/** The number of members of a room, and of distinct users among them. */
export interface Count {
  readonly t: "count";
  readonly room: string;
  readonly count: number;
  readonly users: number;
}

/** A message that a watcher published; `cid` and `user` are null when a backend did. */
export interface Published {
  readonly t: "message";
  readonly room: string | null;
  readonly cid: string | null;
  readonly user: string | null;
  readonly data: unknown;
  readonly at: number;
}

/** The latest of a member's transient values under `key`: a cursor, typing. */
export interface Signal {
  readonly t: "signal";
  readonly room: string;
  readonly cid: string;
  readonly user: string;
  readonly key: string;
  readonly data: unknown;
}

/** The room's last message: this connection was taken out of `room`, and stays open. */
export interface Removed {
  readonly t: "removed";
  readonly room: string;
  readonly reason: RemovalReason;
}

/** Whether other nodes' members of `room` may be out of date. */
export interface Stale {
  readonly t: "stale";
  readonly room: string;
  readonly stale: boolean;
}

/** The answer to `ping`; `time` in ms since 1970 by the node's clock. */
export interface Pong {
  readonly t: "pong";
  readonly time: number;
  readonly id?: number;
}

/** A fresh resume token, which replaces the last one. */
export interface Resume {
  readonly t: "resume";
  readonly resume: string;
}

/** A request was refused. */
export interface Error {
  readonly t: "error";
  readonly code: ErrorCode;
  readonly message: string;
  readonly id?: number;
  readonly room?: string;
  readonly retry_after_ms?: number;
  readonly v?: number;
}

/** The last message before the server closes. */
export interface Bye {
  readonly t: "bye";
  readonly code: number;
  readonly reason: string;
  readonly reconnect_ms?: number;
}

export type ClientMessage = Join | Watch | Leave | Update | Publish | SendSignal | Members | Ping | Auth;
export type ServerMessage = Welcome | Ok | Sync | Page | Diff | Count | Published | Signal | Removed | Stale | Pong | Resume | Error | Bye;
