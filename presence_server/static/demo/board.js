// The board: sticky notes. A note lives in the state of the connection that wrote it, so there is nothing to store and
// nothing to merge: who comes later sees it, a reload and a lost connection keep it, and it leaves with its author.

import { clamp, isPoint, rounded } from "./cursors.js";
import { cutNote, isNote, NOTE_LIMITS } from "./crowd.js";
import { colourClass } from "./person.js";
import { announce, plural, setText } from "./words.js";

const SHOWN_MAX = 200;
const KEY_STEP = 0.03;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const PLACES = [0.08, 0.36, 0.64, 0.92].flatMap((x) => [0.12, 0.44, 0.76].map((y) => ({ x, y })));

const board = document.querySelector("#board");
const layer = document.querySelector("#notes");
const addButton = document.querySelector("#add-note");
const template = document.querySelector("#own-note-template");

export class Board {
  #user;
  #own = []; // {id, x, y, text}
  #colour;
  #changed;
  #others = new Map(); // user and id → {element, x, y}
  #dragged = null;

  /** `changed(notes)` is called with all of this page's notes when one of them is another. */
  constructor(user, notes, changed) {
    this.#colour = colourClass(user);
    this.#changed = changed;
    this.#user = user;
    this.#own = notes.filter(isNote).slice(0, NOTE_LIMITS.notes);
    for (const note of this.#own) this.#showOwn(note);
    addButton.addEventListener("click", () => this.#add(this.#freePlace()));
    board.addEventListener("dblclick", (event) => {
      if (event.target.closest(".note, button, a") !== null) return;
      this.#add({ x: 0.5, y: 0.5 }, event);
    });
    this.#count();
  }

  /** This page's notes. */
  get notes() {
    return this.#own.map((note) => ({ ...note }));
  }

  /** What is being dragged here, to go with the cursor: `{id, x, y}` or undefined. */
  get dragged() {
    return this.#dragged === null ? undefined : { id: this.#dragged.id, x: this.#dragged.x, y: this.#dragged.y };
  }

  /** Show everybody's notes; `cid` is this page's connection, whose notes are the page's own. */
  show(people, cid) {
    const wanted = new Set();
    const ownIds = new Set(this.#own.map(({ id }) => id));
    const notes = people.flatMap((person) => person.notes.map((note) => ({ ...note, person })));
    for (const note of notes.slice(0, SHOWN_MAX)) {
      // What an earlier connection of this page says is this page's, too; so is what a duplicate of this tab says.
      if (note.cid === cid || (note.person.user === this.#user && ownIds.has(note.id))) continue;
      const key = keyOf(note.person.user, note.id);
      wanted.add(key);
      this.#showOther(key, note);
    }
    for (const [key, { element }] of this.#others) {
      if (wanted.has(key)) continue;
      element.remove();
      this.#others.delete(key);
    }
    this.#count();
  }

  /** Show where somebody drags a note of theirs, before their state says so. */
  showDrag(user, data) {
    const other = this.#others.get(keyOf(user, data?.id));
    if (other === undefined || !isPoint(data)) return;
    [other.x, other.y] = [clamp(data.x), clamp(data.y)];
    place(other.element, other);
  }

  #showOther(key, { id, x, y, text, person }) {
    let other = this.#others.get(key);
    if (other === undefined) {
      const element = document.createElement("article");
      element.className = `note ${colourClass(person.user)} lean-${lean(id)}`;
      const [body, footer] = [document.createElement("p"), document.createElement("bdi")];
      body.dir = "auto";
      footer.className = "author";
      element.append(body, footer);
      layer.append(element);
      other = { element };
      this.#others.set(key, other);
    }
    const { element } = other;
    setText(element.firstChild, text);
    setText(element.lastChild, person.name);
    element.setAttribute("aria-label", `Note by ${person.name}`);
    element.classList.toggle("pending", person.pending);
    [other.x, other.y] = [clamp(x), clamp(y)];
    place(element, other);
  }

  #showOwn(note) {
    const element = template.content.firstElementChild.cloneNode(true);
    element.classList.add(this.#colour, `lean-${lean(note.id)}`);
    const [text, grip, remove] = ["textarea", ".grip", ".remove"].map((part) => element.querySelector(part));
    text.value = note.text;
    text.maxLength = NOTE_LIMITS.characters;
    text.addEventListener("input", () => {
      note.text = cutNote(text.value);
      this.#tell();
    });
    text.addEventListener("keydown", (event) => event.key === "Escape" && grip.focus());
    remove.addEventListener("click", () => this.#remove(note, element));
    grip.addEventListener("keydown", (event) => this.#step(note, element, event));
    this.#watchDrag(note, element);
    place(element, note);
    layer.append(element);
    return element;
  }

  /** Add a note at a place, or with its middle under the pointer of an event. */
  #add({ x, y }, pointer) {
    if (this.#own.length >= NOTE_LIMITS.notes) return;
    const note = { id: Math.random().toString(36).slice(2, 10), x, y, text: "" };
    this.#own.push(note);
    const element = this.#showOwn(note);
    if (pointer !== undefined) {
      const box = layer.getBoundingClientRect();
      const [free, half] = [freeSpace(element), { x: element.offsetWidth / 2, y: element.offsetHeight / 2 }];
      this.#move(note, element, (pointer.clientX - box.left - half.x) / free.x, (pointer.clientY - box.top - half.y) / free.y);
    }
    element.querySelector("textarea").focus();
    this.#tell();
    const left = NOTE_LIMITS.notes - this.#own.length;
    announce(left === 0 ? "Note added. It is your last one" : `Note added. ${plural(left, "more is", "more are")} possible`);
  }

  #remove(note, element) {
    this.#own = this.#own.filter((other) => other !== note);
    element.remove();
    this.#tell();
    announce("Note deleted");
    (addButton.disabled ? board : addButton).focus();
  }

  #step(note, element, event) {
    const direction = ARROWS[event.key];
    if (event.key === "Delete" || event.key === "Backspace") return this.#remove(note, element);
    if (direction === undefined) return undefined;
    event.preventDefault();
    this.#move(note, element, note.x + direction[0] * KEY_STEP, note.y + direction[1] * KEY_STEP);
    return this.#tell();
  }

  #watchDrag(note, element) {
    const bar = element.querySelector(".note-bar");
    let from = null; // where pointer and note were
    bar.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || event.target.closest(".remove") !== null) return;
      bar.setPointerCapture(event.pointerId);
      from = { x: event.clientX, y: event.clientY, note: { ...note } };
      element.classList.add("dragged");
    });
    bar.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const free = freeSpace(element);
      this.#dragged = note;
      this.#move(note, element, from.note.x + (event.clientX - from.x) / free.x, from.note.y + (event.clientY - from.y) / free.y);
    });
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
      bar.addEventListener(type, () => {
        if (from === null) return;
        from = this.#dragged = null;
        element.classList.remove("dragged");
        this.#tell();
      });
    }
  }

  #move(note, element, x, y) {
    [note.x, note.y] = [rounded(clamp(x)), rounded(clamp(y))];
    place(element, note);
  }

  #tell() {
    this.#count();
    this.#changed(this.notes);
  }

  #count() {
    addButton.disabled = this.#own.length >= NOTE_LIMITS.notes;
    board.classList.toggle("has-notes", this.#own.length + this.#others.size > 0);
  }

  /** The place that is farthest from all notes. */
  #freePlace() {
    const taken = [...this.#own, ...this.#others.values()];
    const distance = (point) => Math.min(2, ...taken.map(({ x, y }) => Math.hypot(x - point.x, y - point.y)));
    return PLACES.reduce((best, point) => (distance(point) > distance(best) + 0.01 ? point : best), { x: 0.36, y: 0.44 });
  }
}

/** What a note is known by; not its connection's id, which changes with a restart of the server. */
const keyOf = (user, id) => `${user}\n${id}`;

function place(element, { x, y }) {
  element.style.setProperty("--x", clamp(x));
  element.style.setProperty("--y", clamp(y));
}

/** What a note can be moved over, in px. */
const freeSpace = ({ offsetWidth, offsetHeight }) => ({
  x: Math.max(1, layer.clientWidth - offsetWidth),
  y: Math.max(1, layer.clientHeight - offsetHeight),
});

/** How a note hangs: one of three ways, the same for everybody. */
const lean = (id) => [...id].reduce((sum, character) => sum + character.codePointAt(0), 0) % 3;
