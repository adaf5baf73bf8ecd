// Who is in the room: one row a person, however many tabs they have open.

import { colourClass, displayName, initials } from "./identity.js";

const ROWS_MAX = 200;

const list = document.querySelector("#people");
const counts = document.querySelector("#counts");
const invite = document.querySelector("#invite");
const rows = new Map(); // user → row

/** Fill an avatar with a name's letters and its user's colour. */
export function paintAvatar(avatar, user, name) {
  avatar.className = `avatar ${colourClass(user)}`;
  avatar.textContent = initials(name);
}

/** A person is here while one of their tabs is. */
const isHere = ({ connections }) => connections.some(({ state }) => state?.status !== "away");

/** Bring the list up to date with the room; `me` is this client's own user. */
export function showPeople(room, me) {
  const people = room.people();
  people.sort((a, b) => (b.user === me) - (a.user === me));
  const shown = people.slice(0, ROWS_MAX);
  const users = new Set(shown.map(({ user }) => user));
  for (const [user, row] of rows) {
    if (users.has(user)) continue;
    row.remove();
    rows.delete(user);
  }
  shown.forEach((person, index) => {
    const row = rows.get(person.user) ?? newRow(person.user);
    fillRow(row, person, person.user === me);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  list.classList.toggle("cut", people.length > shown.length || room.count > room.roster.members.size);
  setText(counts, `${plural(room.users, "person", "people")} · ${plural(room.count, "connection", "connections")}`);
  invite.hidden = room.count !== 1;
}

function newRow(user) {
  const row = document.createElement("li");
  row.dataset.user = user;
  row.append(...["avatar", "name", "status", "tabs"].map((part) => {
    const element = document.createElement(part === "name" ? "bdi" : "span");
    element.className = part;
    return element;
  }));
  paintAvatar(row.children[0], user, user);
  row.children[0].setAttribute("aria-hidden", "true");
  rows.set(user, row);
  return row;
}

function fillRow(row, person, isMe) {
  const [avatar, name, status, tabs] = row.children;
  const text = displayName(person.connections.at(-1));
  const here = isHere(person);
  row.classList.toggle("away", !here);
  row.classList.toggle("mine", isMe);
  row.title = text;
  setText(avatar, initials(text));
  setText(name, text);
  setText(status, isMe ? `you, ${here ? "here" : "away"}` : here ? "here" : "away");
  const tabCount = person.connections.length;
  setText(tabs, tabCount > 1 ? `${tabCount} tabs` : "");
}

/** Text that did not change is left alone, so that live regions stay quiet. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const plural = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;
