// The demo page: one room of presence.js on a page. What others send is untrusted and becomes text only.

import { clearChat, showEvent, showMessage, showTyping, stopTyping, watchForm } from "./chat.js";
import { cleanName, displayName, randomName, rememberName, rememberedName, roomFromHash } from "./identity.js";
import { paintAvatar, showPeople } from "./people.js";
import { connect } from "./presence.js";
import { keepCursors, removeCursor, showCursor, watchPointer } from "./surface.js";

const IDLE_MS = 120_000;
const PING_FIRST_MS = 500;
const PING_EVERY_MS = 10_000;
const STOP_REASONS = {
  4001: "the credentials were revoked",
  4003: "you were removed",
  4008: "this tab sent too much that was refused",
  4009: "the credentials ended",
  4010: "this connection goes on in another tab",
};
const REMOVAL_WORDS = { kicked: "You were removed from this room", forbidden: "You may not be in this room any more" };
const LEAVE_WORDS = { left: "left", closed: "left", timeout: "lost the connection", kicked: "was removed" };

const find = (id) => document.getElementById(id);
const dialog = find("identity");

let client = null;
let room = null;
let name = "";
let wasConnected = false;
let wasLost = false;
let retryAt = 0;
let idleTimer;
let isIdle = false;

// --- the connection ---

function start(chosen) {
  name = chosen;
  rememberName(name);
  find("my-name").textContent = name;
  paintAvatar(find("me").querySelector(".avatar"), name, name);
  client?.close();
  wasConnected = wasLost = false;
  client = connect({ user: name, info: { name } });
  client.on("state", showConnection);
  client.on("welcome", ({ node }) => {
    if (wasConnected) showEvent("Connected again");
    wasConnected = true;
    find("node").textContent = `node ${node}`;
    setTimeout(measure, PING_FIRST_MS);
  });
  client.on("error", ({ message }) => console.info(`refused: ${message}`));
  showConnection({ state: client.state });
  enter();
}

function enter() {
  room?.leave();
  clearChat();
  const entered = client.room(roomFromHash());
  room = entered;
  find("room-name").textContent = entered.name;
  find("second-tab").href = location.href;
  showTitle();
  entered.on("roster", () => {
    showPeople(entered, name);
    keepCursors(entered.roster.members);
  });
  entered.on("sync", () => showStale());
  entered.on("stale", () => showStale());
  entered.on("join", (member) => showChange(member, arrival(member)));
  entered.on("leave", (member) => {
    showChange(member, departure(member));
    stopTyping(member.cid);
    removeCursor(member.cid);
  });
  entered.on("message", (message) => {
    const member = memberOf(message);
    stopTyping(member.cid);
    showMessage(member, message.data, message.at, member.user === name);
    if (document.hidden) showTitle(unread + 1);
  });
  entered.on("signal", (signal) => {
    if (signal.key === "cursor") showCursor(memberOf(signal), signal.data);
    if (signal.key === "typing") showTyping(memberOf(signal), signal.data);
  });
  entered.on("refused", (error) => showEvent(`The server does not let you in: ${error.message}`));
  entered.on("removed", (reason) => showEvent(REMOVAL_WORDS[reason] ?? "You were removed from this room"));
  sentStatus = status();
  entered.join({ status: sentStatus }).catch(() => {}); // shown by `refused`
}

/** Who sent something; the roster of a very big room is not sent, so that there it may be a mere name. */
const memberOf = ({ cid, user }) => room.roster.members.get(cid) ?? { cid, user: user ?? "server", info: {} };

const othersOf = (member) =>
  [...room.roster.members.values()].some(({ cid, user }) => user === member.user && cid !== member.cid);

const showChange = (member, what) => (member.user === name ? showEvent(`You ${what}`) : showEvent(what, member));

const arrival = (member) => (othersOf(member) ? "opened another tab" : "joined");

function departure(member) {
  if (othersOf(member)) return member.reason === "timeout" ? "lost a tab" : "closed a tab";
  return LEAVE_WORDS[member.reason] ?? "left";
}

// --- what is said about the connection ---

function showConnection({ state, code, reason, retryAt: at }) {
  if (state !== "connecting") wasLost = state !== "connected";
  retryAt = state === "waiting" ? at : 0;
  document.body.dataset.connection = find("connection").dataset.state = state;
  const trying = wasLost ? "Reconnecting" : "Connecting";
  const words = { connecting: trying, connected: "Connected", waiting: "Reconnecting", stopped: "Stopped" };
  setText("connection-text", words[state]);
  if (state === "waiting") {
    setText("banner-text", wasConnected ? "The connection was lost." : "The server cannot be reached.");
  } else if (state === "stopped") {
    setText("banner-text", `Not connected: ${STOP_REASONS[code] ?? (reason || `closed with ${code}`)}.`);
  }
  if (state !== "connected") setText("round-trip", "");
  find("banner").hidden = !wasLost;
  find("reconnect").hidden = state === "connecting";
  showCountdown();
}

function showCountdown() {
  const seconds = Math.max(0, Math.ceil((retryAt - Date.now()) / 1000));
  if (client?.state === "connecting") setText("countdown", "Trying now");
  else setText("countdown", client?.state === "waiting" ? `Trying again in ${seconds} s` : "");
}

function showStale() {
  find("stale").hidden = !room.stale;
}

async function measure() {
  if (client?.state !== "connected" || document.hidden) return;
  try {
    const ms = await client.ping();
    setText("round-trip", ms < 1 ? "< 1 ms" : `${Math.round(ms)} ms`);
  } catch {
    // The connection went away meanwhile, and that is shown.
  }
}

let unread = 0;

function showTitle(count = 0) {
  unread = count;
  document.title = `${unread ? `(${unread}) ` : ""}#${room.name} · presence-server`;
}

function setText(id, text) {
  if (find(id).textContent !== text) find(id).textContent = text;
}

// --- here or away ---

const status = () => (document.hidden || isIdle ? "away" : "here");
let sentStatus = null;

async function tellStatus() {
  if (room === null || status() === sentStatus) return;
  const telling = (sentStatus = status());
  try {
    await room.update({ status: telling });
  } catch (error) {
    sentStatus = null;
    if (error.retryAfterMs !== undefined) setTimeout(tellStatus, error.retryAfterMs);
  }
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

// --- name and room ---

function ask() {
  find("name").value = name || randomName();
  find("room-input").value = roomFromHash();
  find("identity-heading").textContent = client === null ? "Who is coming in?" : "Name and room";
  find("enter").textContent = client === null ? "Come in" : "Save";
  dialog.showModal();
  find("name").select();
}

find("identity-form").addEventListener("submit", () => {
  const chosen = cleanName(find("name").value) || randomName();
  const isElsewhere = find("room-input").value !== roomFromHash();
  if (isElsewhere) location.hash = find("room-input").value;
  if (chosen !== name) start(chosen);
});

dialog.addEventListener("close", () => {
  if (client === null) start(cleanName(find("name").value) || randomName()); // dismissed: the suggestion will do
});

for (const id of ["me", "room"]) find(id).addEventListener("click", ask);
find("reconnect").addEventListener("click", () => client.reconnect());
addEventListener("hashchange", () => client !== null && room.name !== roomFromHash() && enter());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) showTitle();
  active();
  tellStatus();
  measure();
});
for (const type of ["pointermove", "pointerdown", "keydown"]) addEventListener(type, active, { passive: true });

watchPointer((point) => room?.signal("cursor", point));
watchForm(
  () => client.welcome ?? { user: name, info: { name } },
  (text) => room.publish({ text }),
  (isTyping) => room.signal("typing", isTyping),
);
setInterval(showCountdown, 250);
setInterval(measure, PING_EVERY_MS);
active();

name = rememberedName();
find("my-name").textContent = name;
find("room-name").textContent = roomFromHash();
if (name === "") ask();
else start(name);
