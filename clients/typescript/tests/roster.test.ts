import { describe, expect, it } from "vitest";
import type { Diff, Page, Sync } from "../src/messages.js";
import { byUser, EMPTY, isEqual, type Member, reduce, type Roster } from "../src/roster.js";

const member = (cid: string, over: Partial<Member> = {}): Member => ({
  cid, user: `user of ${cid}`, info: {}, state: {}, v: 1, at: 1, ...over,
});
const sync = (members: Member[], over: Partial<Sync> = {}): Sync => ({
  t: "sync", room: "r", mode: "full", you: true, seq: 1, count: members.length, users: members.length, members, cursor: null, stale: false, ...over,
});
const page = (members: Member[], cursor: string | null = null): Page => ({ t: "page", room: "r", members, cursor });
const diff = (over: Partial<Diff>): Diff => ({ t: "diff", room: "r", seq: 2, count: 0, users: 0, ...over });
const after = (...messages: Parameters<typeof reduce>[1][]): Roster =>
  messages.reduce((roster, message) => reduce(roster, message)[0], EMPTY);

describe("the roster", () => {
  it("reports nothing of the first sync: nobody has seen another roster", () => {
    const [roster, changes] = reduce(EMPTY, sync([member("a")]));
    expect([...roster.members.keys()]).toEqual(["a"]);
    expect(changes).toEqual({ joins: [], updates: [], leaves: [] });
  });

  it("follows joins, updates and leaves", () => {
    const [roster, changes] = reduce(
      after(sync([member("a"), member("b")])),
      diff({ count: 2, joins: [member("c")], updates: [{ cid: "a", state: { x: 1 }, v: 2 }], leaves: [{ cid: "b", user: "b", reason: "left" }] }),
    );
    expect([...roster.members.keys()]).toEqual(["a", "c"]);
    expect(roster.members.get("a")).toMatchObject({ state: { x: 1 }, v: 2 });
    expect(changes.joins.map(({ cid }) => cid)).toEqual(["c"]);
    expect(changes.updates.map(({ v }) => v)).toEqual([2]);
    expect(changes.leaves).toEqual([{ ...member("b"), reason: "left" }]);
  });

  it("ignores updates and leaves of members that it does not know", () => {
    const known = after(sync([member("a")]));
    const [roster, changes] = reduce(known, diff({ count: 1, updates: [{ cid: "x", state: {}, v: 2 }], leaves: [{ cid: "y", user: "y", reason: "left" }] }));
    expect(roster.members).toEqual(known.members);
    expect(changes).toEqual({ joins: [], updates: [], leaves: [] });
  });

  it("makes one difference of before and after when the roster is read again", () => {
    const [, changes] = reduce(after(sync([member("a"), member("b"), member("c")])), sync([member("a", { state: { x: 1 }, v: 2 }), member("c"), member("d")]));
    expect(changes.joins.map(({ cid }) => cid)).toEqual(["d"]);
    expect(changes.updates.map(({ cid }) => cid)).toEqual(["a"]);
    expect(changes.leaves.map(({ cid, reason }) => [cid, reason])).toEqual([["b", null]]);
  });

  it("takes somebody who is back under another cid, after a restart of the server, for one who stayed", () => {
    const [roster, changes] = reduce(
      after(sync([member("a", { user: "ann" }), member("b", { user: "bob" })])),
      sync([member("a2", { user: "ann", at: 9 }), member("b2", { user: "bob", at: 9, state: { x: 1 } })]),
    );
    expect([...roster.members.keys()]).toEqual(["a2", "b2"]);
    expect(changes).toMatchObject({ joins: [], leaves: [] });
    expect(changes.updates.map(({ cid }) => cid)).toEqual(["b2"]);
  });

  it("keeps who was known until the last page is in", () => {
    const first = after(sync([member("a"), member("b"), member("c")]), sync([member("a")], { cursor: "a" }));
    expect([...first.members.keys()]).toEqual(["a", "b", "c"]);
    expect(first.complete).toBe(false);
    const [roster, changes] = reduce(first, page([member("c")]));
    expect([...roster.members.keys()]).toEqual(["a", "c"]);
    expect(changes.leaves.map(({ cid }) => cid)).toEqual(["b"]);
    expect(roster.complete).toBe(true);
  });

  it("reports a leave and a join of one cid within a batch as both", () => {
    const [, changes] = reduce(after(sync([member("a")])), diff({ count: 1, joins: [member("a", { at: 2 })] }));
    expect(changes.leaves.map(({ cid }) => cid)).toEqual(["a"]);
    expect(changes.joins.map(({ cid, at }) => [cid, at])).toEqual([["a", 2]]);
  });

  it("holds numbers only where the server sends no roster", () => {
    const [roster] = reduce(after(sync([], { mode: "count", count: 7, users: 5 })), { t: "count", room: "r", count: 8, users: 6 });
    expect([roster.count, roster.users, roster.members.size, roster.complete]).toEqual([8, 6, 0, true]);
  });

  it("keeps the object of a member that has not changed when the roster is read again", () => {
    const before = after(sync([member("a"), member("b")]));
    const [roster] = reduce(before, sync([member("a"), member("b", { state: { x: 1 }, v: 2 })]));
    expect(roster.members.get("a")).toBe(before.members.get("a"));
    expect(roster.members.get("b")).toMatchObject({ v: 2 });
  });

  it("never changes a roster that was given out", () => {
    const before = after(sync([member("a")]));
    reduce(before, diff({ leaves: [{ cid: "a", user: "a", reason: "left" }] }));
    expect([...before.members.keys()]).toEqual(["a"]);
  });
});

it("folds connections into users, whoever came first at the front", () => {
  const users = byUser([member("c", { user: "bob", at: 3 }), member("b", { user: "ann", at: 2 }), member("a", { user: "bob", at: 1 })]);
  expect(users.map(({ user, connections }) => [user, connections.map(({ cid }) => cid)])).toEqual([["bob", ["a", "c"]], ["ann", ["b"]]]);
});

it.each([
  [{ a: 1, b: [1, 2] }, { b: [1, 2], a: 1 }, true],
  [{ a: 1 }, { a: 1, b: undefined }, false],
  [[1], { 0: 1 }, false],
  [null, {}, false],
  [{ a: { b: null } }, { a: { b: null } }, true],
])("compares JSON values %j and %j", (a, b, same) => expect(isEqual(a, b)).toBe(same));
