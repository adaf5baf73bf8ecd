/**
 * Who is in a room: messages in, changes out. Pure.
 *
 * A `sync` is followed only by newer changes, so applying what follows in order of arrival gives the server's
 * roster. A `sync` with a cursor is only the beginning: members that were known before and are not in it may come
 * with a page, so they stay, unconfirmed, until the last page is in.
 */

import type { Count, Diff, Member as WireMember, Mode, Page, Sync } from "./messages.js";

/** One connection in a room, with the types of an application. `user`, `info` and `state` come from other people. */
export interface Member<State = unknown, Info = unknown> extends Omit<WireMember, "state" | "info"> {
  readonly state: State;
  readonly info: Info;
}

/** A member that is gone, and why; null: it was missing in a roster that was read again. */
export type Departed<State = unknown, Info = unknown> = Member<State, Info> & {
  readonly reason: "left" | "closed" | "timeout" | "kicked" | null;
};

/** What changed, as whole members. */
export interface Changes<State = unknown, Info = unknown> {
  readonly joins: readonly Member<State, Info>[];
  readonly updates: readonly Member<State, Info>[];
  readonly leaves: readonly Departed<State, Info>[];
}

/** The connections of one user, whoever came first at the front. */
export interface User<State = unknown, Info = unknown> {
  readonly user: string;
  readonly connections: readonly Member<State, Info>[];
}

export interface Roster {
  /** What the server sends of it; null before the first `sync`. */
  readonly mode: Mode | null;
  /** Whether all of it is here. */
  readonly complete: boolean;
  readonly count: number;
  readonly users: number;
  readonly members: ReadonlyMap<string, Member>;
  readonly unconfirmed: ReadonlySet<string>;
  /** What the roster was before the pages that are still coming: one difference is made at their end. */
  readonly before: ReadonlyMap<string, Member> | null;
}

export const EMPTY: Roster = {
  mode: null,
  complete: false,
  count: 0,
  users: 0,
  members: new Map(),
  unconfirmed: new Set(),
  before: null,
};

const NOTHING: Changes = { joins: [], updates: [], leaves: [] };

/** Apply one message; return the roster after it and what changed. The first roster is no change: nobody saw another. */
export function reduce(roster: Roster, message: Sync | Page | Diff | Count): [Roster, Changes] {
  switch (message.t) {
    case "count":
      return [{ ...roster, count: message.count, users: message.users }, NOTHING];
    case "sync":
      return sync(roster, message);
    case "page":
      return roster.mode === "full" ? page(roster, message) : [roster, NOTHING];
    case "diff":
      return roster.mode === null ? [roster, NOTHING] : diff(roster, message);
  }
}

function sync(roster: Roster, message: Sync): [Roster, Changes] {
  const { mode, count, users } = message;
  if (mode !== "full") return [{ ...EMPTY, mode, count, users, complete: true }, NOTHING];
  const shown = roster.mode === "full" && (roster.complete || roster.before !== null);
  return page(
    {
      mode,
      count,
      users,
      complete: false,
      members: roster.members,
      unconfirmed: new Set(roster.members.keys()),
      before: shown ? (roster.before ?? roster.members) : null,
    },
    message,
  );
}

function page(roster: Roster, message: Sync | Page): [Roster, Changes] {
  const members = new Map(roster.members);
  const unconfirmed = new Set(roster.unconfirmed);
  for (const member of message.members) {
    check(member);
    // The same object for the same member, so that who compares by identity sees no change.
    if (!isEqual(members.get(member.cid), member)) members.set(member.cid, member);
    unconfirmed.delete(member.cid);
  }
  if (message.cursor !== null || roster.complete) return [{ ...roster, members, unconfirmed }, NOTHING];
  for (const cid of unconfirmed) members.delete(cid);
  const changes = roster.before === null ? NOTHING : difference(roster.before, members);
  return [{ ...roster, members, unconfirmed: new Set(), before: null, complete: true }, changes];
}

/**
 * Return what differs, by cid and then by user: somebody who came back under another cid, after a restart of the
 * server, has stayed.
 */
function difference(before: ReadonlyMap<string, Member>, after: ReadonlyMap<string, Member>): Changes {
  const updates: Member[] = [];
  const came: Member[] = [];
  const gone = new Map<string, Member[]>();
  for (const member of before.values()) {
    if (after.get(member.cid)?.user === member.user) continue;
    gone.set(member.user, [...(gone.get(member.user) ?? []), member]);
  }
  for (const member of after.values()) {
    const known = before.get(member.cid);
    const same = known?.user === member.user ? known : gone.get(member.user)?.shift();
    if (same === undefined) came.push(member);
    else if (!isEqual([same.state, same.info], [member.state, member.info])) updates.push(member);
  }
  const leaves = [...gone.values()].flat().map((member) => ({ ...member, reason: null }));
  return { joins: came, updates, leaves };
}

function diff(roster: Roster, message: Diff): [Roster, Changes] {
  const counted = { ...roster, count: message.count, users: message.users };
  if (roster.mode !== "full") return [counted, NOTHING];
  const members = new Map(roster.members);
  const unconfirmed = new Set(roster.unconfirmed);
  const joins: Member[] = [];
  const updates: Member[] = [];
  const leaves: Departed[] = [];
  for (const { cid, reason } of message.leaves ?? []) {
    const member = members.get(cid);
    if (member === undefined) continue;
    members.delete(cid);
    unconfirmed.delete(cid);
    leaves.push({ ...member, reason });
  }
  for (const member of message.joins ?? []) {
    check(member);
    const known = members.get(member.cid);
    if (known !== undefined && known.at !== member.at) leaves.push({ ...known, reason: null }); // within one batch
    (known?.at === member.at ? updates : joins).push(member);
    members.set(member.cid, member);
    unconfirmed.delete(member.cid);
  }
  for (const { cid, state, v } of message.updates ?? []) {
    const known = members.get(cid);
    if (known === undefined || unconfirmed.has(cid)) continue;
    const member = { ...known, state, v };
    members.set(cid, member);
    updates.push(member);
  }
  const shown = roster.complete;
  return [{ ...counted, members, unconfirmed }, shown ? { joins, updates, leaves } : NOTHING];
}

function check(member: Member): void {
  if (typeof member.cid !== "string" || typeof member.user !== "string") throw new TypeError("not a member");
}

/** Return members by user, whoever came first at the front. */
export function byUser(members: Iterable<Member>): User[] {
  const users = new Map<string, Member[]>();
  for (const member of [...members].sort((a, b) => a.at - b.at)) {
    const connections = users.get(member.user);
    if (connections === undefined) users.set(member.user, [member]);
    else connections.push(member);
  }
  return [...users].map(([user, connections]) => ({ user, connections }));
}

/** Tell whether two JSON values are the same, whatever the order of their keys. */
export function isEqual(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  const [x, y] = [Object.entries(a), Object.keys(b)];
  return (
    Array.isArray(a) === Array.isArray(b) &&
    x.length === y.length &&
    x.every(([key, value]) => Object.hasOwn(b, key) && isEqual(value, (b as Record<string, unknown>)[key]))
  );
}
