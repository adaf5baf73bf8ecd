// Who is in the room, as people: connections folded, and held while the connection is away.
//
// After a reconnect others may still be on their way back, as all are after a restart of the server. So the difference of
// before and after is made once, when all are back or it is too late: until then who was there stays, pending.

import { displayName } from "./person.js";

const RESUMED_MS = 4_000; // a server that knows this page knows the others too
const RESTARTED_MS = 22_000; // somewhat more than the longest wait of a page before it connects again
const NOTES_MAX = 5;
const NOTE_CHARACTERS_MAX = 120;
const ID_CHARACTERS_MAX = 16;

/** The bounds of what one person may put on the board: what others send beyond them is not shown. */
export const NOTE_LIMITS = { notes: NOTES_MAX, characters: NOTE_CHARACTERS_MAX };

export class Crowd {
  #people = null; // user → person, as of the last roster; null before the first one
  #before = null; // user → person, when the connection was lost; null when that is over
  #waitMs = RESUMED_MS;
  #timer;
  #changed;
  #told;

  /** `changed()` is called whenever `people` is another; `told({joined, left, away})` with who came and went. */
  constructor(changed, told) {
    [this.#changed, this.#told] = [changed, told];
  }

  /** Everybody to show, in the order of arrival; who has not come back yet is `pending`. */
  get people() {
    const here = [...(this.#people?.values() ?? [])];
    const held = [...(this.#before?.values() ?? [])].filter(({ user }) => !this.#people.has(user));
    return [...here, ...held.map((person) => ({ ...person, pending: true }))];
  }

  /** Begin with a room of which nothing is known. */
  clear() {
    clearTimeout(this.#timer);
    this.#people = this.#before = null;
    this.#timer = undefined;
  }

  /** The connection is lost: what is known is held. */
  hold() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#before ??= this.#people;
  }

  /** There is a connection again, `resumed` or with a server that knew nothing of this page. */
  expect(resumed) {
    this.#waitMs = resumed ? RESUMED_MS : RESTARTED_MS;
  }

  /** The roster as it is now, from the server. `reasons` says why users left, where that is known. */
  update(users, reasons = new Map()) {
    const last = this.#people;
    this.#people = new Map(users.map((user) => [user.user, person(user)]));
    if (this.#before === null) {
      if (last !== null) this.#tell(last, reasons, false);
    } else {
      this.#timer ??= setTimeout(() => this.#settle(), this.#waitMs);
      if ([...this.#before.keys()].every((user) => this.#people.has(user))) this.#settle();
    }
    this.#changed();
  }

  #settle() {
    const before = this.#before;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#before = null;
    this.#tell(before, new Map(), true);
    this.#changed();
  }

  #tell(before, reasons, away) {
    const joined = [...this.#people.values()].filter(({ user }) => !before.has(user));
    const left = [...before.values()].filter(({ user }) => !this.#people.has(user));
    if (joined.length + left.length === 0) return;
    this.#told({ joined, left: left.map((gone) => ({ ...gone, reason: reasons.get(gone.user) })), away });
  }
}

const made = new WeakMap(); // member → person: of hundreds few have changed at a time

function person({ user, connections }) {
  if (connections.length > 1) return newPerson(user, connections);
  const [member] = connections;
  if (!made.has(member)) made.set(member, newPerson(user, connections));
  return made.get(member);
}

function newPerson(user, connections) {
  const states = connections.map(({ state }) => state ?? {});
  const nodes = states.map(({ node }) => node).filter((node) => typeof node === "string" && node !== "");
  return {
    user,
    name: displayName(connections.at(-1)),
    isHere: states.some(({ status }) => status !== "away"),
    tabs: connections.length,
    nodes: [...new Set(nodes.map((node) => node.slice(0, ID_CHARACTERS_MAX)))].slice(0, 4),
    notes: connections.flatMap((member) => readNotes(member)),
    pending: false,
  };
}

/** The notes in a member's state, as far as they are notes. */
function readNotes({ cid, state }) {
  const notes = Array.isArray(state?.notes) ? state.notes.slice(0, NOTES_MAX) : [];
  return notes.filter(isNote).map(({ id, x, y, text }) => ({
    cid,
    id: id.slice(0, ID_CHARACTERS_MAX),
    x,
    y,
    text: cutNote(text),
  }));
}

/** Tell whether something that was sent, or kept, has the shape of a note. */
export const isNote = (note) =>
  typeof note?.id === "string" && typeof note.text === "string" && Number.isFinite(note.x) && Number.isFinite(note.y);

/** A note's text within its bound, and without what a state would count many bytes for. */
export const cutNote = (text) =>
  [...text.toWellFormed().replace(/[^\P{Cc}\n]/gu, " ")].slice(0, NOTE_CHARACTERS_MAX).join("");
