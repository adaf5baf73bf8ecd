// Pointers on the board: this page's goes out as the signal `cursor`, the others' come in.

import { colourClass, displayName } from "./person.js";

const INTERVAL_MS = 40; // 25 a second: half of what the server's default limit lets through for good
const LABEL_MS = 3_000;
const IDLE_MS = 10_000;
const KEY_STEP = 0.025;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const board = document.querySelector("#board");
const layer = document.querySelector("#cursors");
const template = document.querySelector("#cursor-template");
const cursors = new Map(); // cid → {element, labelTimer, idleTimer}
const moved = new Map(); // cid → {member, data}: what is to be shown with the next frame
let point = null; // where this page's own pointer is, `{x, y}` from 0 to 1 of the board

/** Where this page's pointer is on the board, or null. */
export const ownPoint = () => point;

/** Show where a member points, with the next frame; anything but a point takes the cursor away. */
export function showCursor(member, data) {
  if (!isPoint(data)) return removeCursor(member.cid);
  if (moved.size === 0) requestAnimationFrame(showMoved);
  moved.set(member.cid, { member, data });
}

function showMoved() {
  for (const { member, data } of moved.values()) moveCursor(member, data);
  moved.clear();
}

function moveCursor(member, data) {
  const cursor = cursors.get(member.cid) ?? newCursor(member);
  place(cursor.element, data);
  cursor.element.classList.remove("unlabelled", "idle");
  clearTimeout(cursor.labelTimer);
  clearTimeout(cursor.idleTimer);
  cursor.labelTimer = setTimeout(() => cursor.element.classList.add("unlabelled"), LABEL_MS);
  cursor.idleTimer = setTimeout(() => cursor.element.classList.add("idle"), IDLE_MS);
}

export function removeCursor(cid) {
  moved.delete(cid);
  const cursor = cursors.get(cid);
  if (cursor === undefined) return;
  clearTimeout(cursor.labelTimer);
  clearTimeout(cursor.idleTimer);
  cursor.element.remove();
  cursors.delete(cid);
}

/** Take away the cursors of all who are not in the room. */
export function keepCursors(members) {
  for (const cid of [...cursors.keys(), ...moved.keys()]) if (!members.has(cid)) removeCursor(cid);
}

/** Call `send` with this page's point when it moves, and with null when it leaves the board; bounded in rate. */
export function watchPointer(send) {
  let sentAt = 0;
  let timer;

  const flush = () => {
    [timer, sentAt] = [undefined, performance.now()];
    send(point && { x: rounded(point.x), y: rounded(point.y) });
  };
  const move = (next) => {
    point = next;
    timer ??= setTimeout(flush, Math.max(0, sentAt + INTERVAL_MS - performance.now()));
  };

  board.addEventListener("pointermove", (event) => {
    const box = board.getBoundingClientRect();
    move({ x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) });
    board.classList.remove("by-keyboard");
  });
  board.addEventListener("pointerleave", () => move(null));
  board.addEventListener("pointercancel", () => move(null));

  const own = newElement("You");
  own.classList.add("own");
  board.append(own);
  board.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (event.target !== board || direction === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const from = point ?? { x: 0.5, y: 0.5 };
    move({ x: clamp(from.x + direction[0] * KEY_STEP), y: clamp(from.y + direction[1] * KEY_STEP) });
    place(own, point);
    board.classList.add("by-keyboard");
  });
  board.addEventListener("blur", () => {
    if (board.classList.contains("by-keyboard")) move(null);
    board.classList.remove("by-keyboard");
  });
}

function newCursor(member) {
  const element = newElement(displayName(member));
  element.classList.add(colourClass(member.user));
  element.dataset.user = member.user;
  layer.append(element);
  const cursor = { element };
  cursors.set(member.cid, cursor);
  return cursor;
}

function newElement(name) {
  const element = template.content.firstElementChild.cloneNode(true);
  element.querySelector("bdi").textContent = name;
  return element;
}

function place(element, { x, y }) {
  element.style.setProperty("--x", clamp(x));
  element.style.setProperty("--y", clamp(y));
  element.classList.toggle("flipped", x > 0.75);
  element.classList.toggle("raised", y > 0.9);
}

export const clamp = (number) => Math.min(1, Math.max(0, number));
export const rounded = (number) => Math.round(number * 10_000) / 10_000;
export const isPoint = (data) => Number.isFinite(data?.x) && Number.isFinite(data?.y);
