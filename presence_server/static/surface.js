// The shared surface: this client's pointer goes out as the signal `cursor`, the others' come in.

import { colourClass, displayName } from "./identity.js";

const INTERVAL_MS = 33;
const IDLE_MS = 8_000;
const KEY_STEP = 0.025;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const surface = document.querySelector("#surface");
const layer = document.querySelector("#cursors");
const template = document.querySelector("#cursor-template");
const cursors = new Map(); // cid → {element, timer}

/** Show where a member points, `{x, y}` from 0 to 1 of the surface; anything else takes the cursor away. */
export function showCursor(member, data) {
  if (!isPoint(data)) {
    removeCursor(member.cid);
    return;
  }
  const cursor = cursors.get(member.cid) ?? newCursor(member);
  place(cursor.element, data);
  clearTimeout(cursor.timer);
  cursor.element.classList.remove("idle");
  cursor.timer = setTimeout(() => cursor.element.classList.add("idle"), IDLE_MS);
}

export function removeCursor(cid) {
  const cursor = cursors.get(cid);
  if (cursor === undefined) return;
  clearTimeout(cursor.timer);
  cursor.element.remove();
  cursors.delete(cid);
}

/** Take away the cursors of all who are not in the room. */
export function keepCursors(members) {
  for (const cid of [...cursors.keys()]) if (!members.has(cid)) removeCursor(cid);
}

/** Call `send` with this client's point when it moves, and with null when it leaves the surface. */
export function watchPointer(send) {
  let point = null;
  let sentAt = 0;
  let isDue = false;

  const flush = (now) => {
    if (now - sentAt < INTERVAL_MS) {
      requestAnimationFrame(flush);
      return;
    }
    [isDue, sentAt] = [false, now];
    send(point && { x: rounded(point.x), y: rounded(point.y) });
  };
  const moved = (next) => {
    point = next;
    if (!isDue) requestAnimationFrame(flush);
    isDue = true;
  };

  surface.addEventListener("pointermove", (event) => {
    const box = surface.getBoundingClientRect();
    moved({ x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) });
    surface.classList.remove("by-keyboard");
    surface.classList.add("used");
  });
  surface.addEventListener("pointerleave", () => moved(null));

  const own = newElement("You");
  own.classList.add("own");
  surface.append(own);
  surface.addEventListener("keydown", (event) => {
    const direction = ARROWS[event.key];
    if (direction === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const from = point ?? { x: 0.5, y: 0.5 };
    moved({ x: clamp(from.x + direction[0] * KEY_STEP), y: clamp(from.y + direction[1] * KEY_STEP) });
    place(own, point);
    surface.classList.add("by-keyboard", "used");
  });
  surface.addEventListener("blur", () => {
    if (surface.classList.contains("by-keyboard")) moved(null);
    surface.classList.remove("by-keyboard");
  });
}

function newCursor(member) {
  const element = newElement(displayName(member));
  element.classList.add(colourClass(member.user));
  element.dataset.user = member.user;
  layer.append(element);
  const cursor = { element, timer: undefined };
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

const clamp = (number) => Math.min(1, Math.max(0, number));
const rounded = (number) => Math.round(number * 10_000) / 10_000;
const isPoint = (data) => Number.isFinite(data?.x) && Number.isFinite(data?.y);
