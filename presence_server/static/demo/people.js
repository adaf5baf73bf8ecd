// Who is in the room: a stack of avatars, and a sheet with everybody, what they do and which node they are on.

import { addressOfSomebodyElse, paintAvatar } from "./person.js";
import { plural, setText } from "./words.js";

const SLOTS = 4; // avatars in the stack; with more people the last one is a number
const ROWS_MAX = 200;

const find = (id) => document.getElementById(id);
const [stack, sheet, list] = [find("stack"), find("people-sheet"), find("people")];
const rows = new Map(); // user → row
let shown = { people: [], me: "", userCount: 0, count: 0 };

/** Bring stack and sheet up to date; `me` is this page's user, the counts are the server's. */
export function showPeople(people, me, { userCount, count }) {
  shown = { people, me, userCount: Math.max(userCount, people.length), count };
  showStack();
  if (sheet.open) showSheet();
  find("alone").classList.toggle("shown", shown.userCount === 1);
  const nodes = new Set(people.flatMap((person) => person.nodes)).size;
  setText(find("tally"), `${plural(shown.userCount, "person", "people")} on ${plural(Math.max(nodes, 1), "node", "nodes")}`);
}

/** Make the sheet and the links to somebody else work. */
export function watchPeople() {
  stack.addEventListener("click", () => {
    showSheet();
    sheet.showModal();
  });
  sheet.addEventListener("click", (event) => event.target === sheet && sheet.close()); // beside it
  for (const link of document.querySelectorAll(".somebody-else")) {
    const renew = () => (link.href = addressOfSomebodyElse());
    renew();
    addEventListener("hashchange", renew);
    link.addEventListener("click", () => setTimeout(renew)); // the next one is another person again
  }
}

/** Everybody in the order of arrival, but for this page's person: so nobody moves when the page has been away. */
const meFirst = () => [...shown.people].sort((a, b) => (b.user === shown.me) - (a.user === shown.me));

function showStack() {
  const { userCount } = shown;
  const faces = meFirst().slice(0, userCount > SLOTS ? SLOTS - 1 : SLOTS);
  const more = userCount - faces.length;
  const avatars = find("faces");
  const wanted = faces.map(({ user, name, isHere, pending }) => ({ user, name, faded: !isHere || pending }));
  const key = JSON.stringify([wanted, more]);
  if (avatars.dataset.key === key) return;
  avatars.dataset.key = key;
  avatars.replaceChildren(...wanted.map(face), ...(more > 0 ? [counter(more)] : []));
  setText(find("stack-label"), `${plural(userCount, "person", "people")} here: show them`);
}

function face({ user, name, faded }) {
  const avatar = document.createElement("span");
  paintAvatar(avatar, user, name);
  avatar.classList.toggle("faded", faded);
  avatar.title = name;
  return avatar;
}

function counter(number) {
  const more = document.createElement("span");
  more.className = "avatar more";
  more.textContent = `+${number > 999 ? "999" : number}`;
  return more;
}

function showSheet() {
  const { me, userCount, count } = shown;
  const sorted = meFirst().slice(0, ROWS_MAX);
  const users = new Set(sorted.map(({ user }) => user));
  for (const [user, row] of rows) {
    if (users.has(user)) continue;
    row.remove();
    rows.delete(user);
  }
  sorted.forEach((person, index) => {
    const row = rows.get(person.user) ?? newRow(person.user);
    fillRow(row, person, person.user === me);
    if (list.children[index] !== row) list.insertBefore(row, list.children[index] ?? null);
  });
  setText(find("people-heading"), `${plural(userCount, "person", "people")} here`);
  setText(find("counts"), plural(count, "connection", "connections"));
  find("people-cut").hidden = userCount <= sorted.length;
}

function newRow(user) {
  const row = document.createElement("li");
  row.dataset.user = user;
  for (const part of ["avatar", "name", "status", "node"]) {
    const element = document.createElement(part === "name" ? "bdi" : "span");
    element.className = part;
    row.append(element);
  }
  row.firstChild.setAttribute("aria-hidden", "true");
  rows.set(user, row);
  return row;
}

function fillRow(row, person, isMe) {
  const [avatar, name, status, node] = row.children;
  paintAvatar(avatar, person.user, person.name);
  row.classList.toggle("away", !person.isHere || person.pending);
  setText(name, person.name);
  const words = [isMe ? "you" : "", doing(person), person.tabs > 1 ? `${person.tabs} tabs` : ""];
  setText(status, words.filter((word) => word !== "").join(", "));
  setText(node, person.nodes.length === 0 ? "" : `node ${person.nodes.join(", ")}`);
}

function doing({ pending, isHere }) {
  if (pending) return "reconnecting";
  return isHere ? "here" : "away";
}
