// The demo page: one room of the browser client on a page. What others send is untrusted and becomes text only.

import { connect } from "../presence-1.js";
import { Board } from "./board.js";
import { clearChat, showEvent, showMessage, showNews, showTyping, stopTyping, watchForm } from "./chat.js";
import { Crowd } from "./crowd.js";
import { keepCursors, ownPoint, removeCursor, showCursor, watchPointer } from "./cursors.js";
import { showPeople, watchPeople } from "./people.js";
import { cleanName, displayName, paintAvatar, roomFromHash, store, thisPerson } from "./person.js";
import { showReaction, watchReactions } from "./reactions.js";
import { Self } from "./self.js";
import { followConnection, hideBarred, showBarred, showStale } from "./status.js";
import { Throttle } from "./throttle.js";
import { announce, setText } from "./words.js";

const GATHER_MS = 30;
const AGAIN_MS_MAX = 60_000; // a timer of more than 25 days is over at once
const SHOW_MS_MAX = 1_000;
const IDLE_MS = 120_000;
const AWAY_AFTER_MS = 2_000; // hidden for so long is away; a page that is reloaded is hidden for a moment
const REFUSAL_WORDS = { kicked: "You were removed from this room", forbidden: "You may not be in this room any more" };

const find = (id) => document.getElementById(id);
const dialog = find("identity");
const session = store("sessionStorage");

const me = thisPerson();
const notesKey = `presence.demo.notes ${me.user}`;
const client = connect("/ws", { user: me.user, info: { name: me.name } });
const throttle = new Throttle(client);
const crowd = new Crowd(showCrowd, showNews);
const board = new Board(me.user, keptNotes(), (notes) => {
  session.setItem(notesKey, JSON.stringify(notes));
  self.tell({ notes });
});
const self = new Self({ name: me.name, status: document.hidden ? "away" : "here", notes: board.notes });
let room = null;
let visit = new AbortController(); // ends what listens to the room

function keptNotes() {
  try {
    const notes = JSON.parse(session.getItem(notesKey) ?? "[]");
    return Array.isArray(notes) ? notes : [];
  } catch {
    return [];
  }
}

// --- the room ---

function enter() {
  visit.abort(); // the client gives the same room again on the way back: what listened then would hear all of it twice
  visit = new AbortController();
  const during = { signal: visit.signal };
  room?.leave();
  crowd.clear();
  clearChat();
  keepCursors(new Map());
  const entered = client.room(roomFromHash());
  room = entered;
  setText(find("room-name"), entered.name);
  showTitle();
  entered.on("change", ({ leaves }) => showRoster(entered, leaves), during);
  entered.on("stale", () => showStale(entered.isEntered && entered.stale && client.status.state === "connected"), during);
  entered.on("leave", ({ cid }) => removeTraces(cid), during);
  entered.on("message", receiveMessage, during);
  entered.on("signal", (signal) => receiveSignal(memberOf(signal), signal), during);
  entered.on("refused", (error) => beOutside(`The server does not let you in: ${error.message}`), during);
  entered.on("removed", (reason) => beOutside(`${REFUSAL_WORDS[reason] ?? REFUSAL_WORDS.kicked}.`), during);
  hideBarred();
  self.enter(entered);
  showCrowd();
}

function beOutside(text) {
  showEvent(text);
  forgetCrowd();
  keepCursors(new Map());
  showBarred(text, () => {
    hideBarred();
    self.enter(room);
  });
}

function forgetCrowd() {
  crowd.clear();
  showCrowd();
}

function showRoster(entered, leaves) {
  if (entered !== room || client.status.state !== "connected" || !room.isEntered) return;
  if (room.mode !== "full") return forgetCrowd(); // numbers alone: nobody has left
  keepCursors(room.members);
  crowd.update(room.users, new Map(leaves.map(({ user, reason }) => [user, reason])));
}

let isShowing = false;
let showingMs = 0;

/** Show who is here and what is on the board, once for what happens at a time; a crowd may take a fifth of the time. */
function showCrowd() {
  if (isShowing) return;
  isShowing = true;
  setTimeout(() => {
    isShowing = false;
    const begun = performance.now();
    const { people } = crowd;
    showPeople(people, me.user, room);
    board.show(people, client.cid);
    requestAnimationFrame(() => (showingMs = performance.now() - begun));
  }, Math.max(GATHER_MS, Math.min(SHOW_MS_MAX, showingMs * 4)));
}

/** Who sent something; the roster of a very big room is not sent, so that there it may be a mere name. */
const memberOf = ({ cid, user }) => room.members.get(cid) ?? { cid, user: user ?? "server", info: {} };

function removeTraces(cid) {
  stopTyping(cid);
  removeCursor(cid);
}

function receiveMessage(message) {
  const member = memberOf(message);
  stopTyping(member.cid);
  showMessage(member, message.data, message.at, member.user === me.user);
  if (document.hidden) showTitle(unread + 1);
}

function receiveSignal(member, { key, data }) {
  if (key === "cursor") {
    showCursor(member, data);
    if (data?.note !== undefined) board.showDrag(member.user, data.note);
  } else if (key === "typing") {
    showTyping(member, data);
  } else if (key === "reaction") {
    showReaction(displayName(member), data);
  }
}

function signal(key, data) {
  if (!throttle.isTight) room?.signal(key, data);
}

/** Send a text as soon as it can be sent, and again where it came too fast. */
async function publish(text, to = room) {
  try {
    return await to.publish({ text }, { wait: true });
  } catch (error) {
    if (error.code !== "throttled") throw error;
    await new Promise((resolve) => setTimeout(resolve, Math.min(error.retryAfterMs, AGAIN_MS_MAX)));
    return publish(text, to); // another room may be shown by now
  }
}

// --- the title ---

let unread = 0;

function showTitle(count = 0) {
  unread = count;
  document.title = `${unread ? `(${unread}) ` : ""}#${room.name} · presence-server`;
}

// --- here or away ---

let idleTimer;
let awayTimer;
let isIdle = false;

function tellStatus() {
  const status = document.hidden || isIdle ? "away" : "here";
  if (status !== self.state.status) self.tell({ status });
}

function active() {
  clearTimeout(idleTimer);
  idleTimer = setTimeout(() => {
    isIdle = true;
    tellStatus();
  }, IDLE_MS);
  if (!isIdle) return;
  isIdle = false;
  tellStatus();
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(awayTimer);
  if (document.hidden) {
    awayTimer = setTimeout(tellStatus, AWAY_AFTER_MS);
  } else {
    showTitle();
    active();
    tellStatus();
  }
});
addEventListener("pagehide", () => clearTimeout(awayTimer));
for (const type of ["pointermove", "pointerdown", "keydown"]) addEventListener(type, active, { passive: true });

// --- name and room ---

function ask() {
  find("name").value = me.name;
  find("room-input").value = roomFromHash();
  dialog.showModal();
  find("name").select();
}

function showMe() {
  setText(find("my-name"), me.name);
  paintAvatar(find("my-avatar"), me.user, me.name);
}

find("identity-form").addEventListener("submit", () => {
  const name = cleanName(find("name").value);
  if (name !== "" && name !== me.name) {
    self.tell({ name: me.rename(name) });
    showMe();
    announce(`You are ${me.name} now`);
  }
  if (find("room-input").value !== roomFromHash()) location.hash = find("room-input").value;
});
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
for (const id of ["me", "room"]) find(id).addEventListener("click", ask);
addEventListener("hashchange", () => room.name !== roomFromHash() && enter());

// --- phones show one of two panels ---

for (const tab of document.querySelectorAll("button[data-panel]")) {
  tab.addEventListener("click", () => {
    document.body.dataset.panel = tab.dataset.panel;
    for (const other of document.querySelectorAll("button[data-panel]")) {
      other.setAttribute("aria-pressed", String(other === tab));
    }
  });
}

// --- begin ---

client.on("status", ({ state, resumed }) => (state === "connected" ? crowd.expect(resumed) : crowd.hold()));
client.on("welcome", ({ node }) => {
  setText(find("node"), node);
  if (self.state.node !== node) self.tellWithJoin({ node });
});
client.on("error", ({ message }) => console.info(`refused: ${message}`));

watchPeople();
watchPointer((point) => signal("cursor", point && { ...point, note: board.dragged }));
watchReactions((reaction) => signal("reaction", reaction), ownPoint);
watchForm(
  () => ({ user: me.user, state: { name: me.name } }),
  (text) => publish(text),
  (isTyping) => signal("typing", isTyping),
);
showMe();
enter();
followConnection(client, () => self.enter(room));
active();
