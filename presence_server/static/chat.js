// The chat: what was said, who came and went, who is typing.

import { colourClass, displayName } from "./identity.js";

const LINES_MAX = 400;
const TEXT_CHARACTERS_MAX = 4000;
const SAME_BREATH_MS = 120_000;
const TYPING_EVERY_MS = 2_000;
const TYPING_FOR_MS = 5_000;

const log = document.querySelector("#log");
const form = document.querySelector("#compose");
const input = document.querySelector("#text");
const typing = document.querySelector("#typing");
const typists = new Map(); // cid → {name, timer}
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
let last = { user: null, at: 0 };

/** A line that nobody said: somebody came, went, or the connection did. `member` colours its name. */
export function showEvent(text, member) {
  const line = document.createElement("p");
  line.className = "event";
  if (member !== undefined) line.append(nameOf(member), " ");
  line.append(text);
  last = { user: null, at: 0 };
  append(line);
}

/** A message of somebody else, or of this person's other tab. */
export function showMessage(member, data, at, isMine) {
  const text = typeof data?.text === "string" ? data.text.slice(0, TEXT_CHARACTERS_MAX) : "";
  if (text !== "") append(newMessage(member, text, at, isMine));
}

/** Empty the chat: another room, another conversation. */
export function clearChat() {
  log.replaceChildren();
  for (const cid of [...typists.keys()]) stopTyping(cid);
  last = { user: null, at: 0 };
}

/** Call `publish(text)` with what is entered here, and show what becomes of it; `me` gives this member. */
export function watchForm(me, publish, signal) {
  let signalledAt = -Infinity; // while nothing is being typed
  input.addEventListener("input", () => {
    const isTyping = input.value.trim() !== "";
    if (isTyping && performance.now() - signalledAt < TYPING_EVERY_MS) return;
    if (!isTyping && signalledAt === -Infinity) return;
    signalledAt = isTyping ? performance.now() : -Infinity;
    signal(isTyping);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text === "") return;
    input.value = "";
    if (signalledAt !== -Infinity) signal(false);
    signalledAt = -Infinity;
    const message = newMessage(me(), text, Date.now(), true);
    append(message);
    log.scrollTop = log.scrollHeight;
    send(message, text, publish);
  });
}

async function send(message, text, publish) {
  const mark = message.querySelector(".mark");
  message.dataset.state = "sending";
  mark.textContent = "Sending";
  try {
    const at = await publish(text);
    message.dataset.state = "sent";
    mark.textContent = `Sent ${clock.format(at)}`;
  } catch (error) {
    message.dataset.state = "failed";
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Try again";
    again.addEventListener("click", () => send(message, text, publish), { once: true });
    mark.replaceChildren(`Not sent: ${error.message} `, again);
    scrollToEnd();
  }
}

/** Somebody says that they are typing, or no longer. */
export function showTyping(member, isTyping) {
  stopTyping(member.cid);
  if (isTyping !== true) return;
  const timer = setTimeout(() => stopTyping(member.cid), TYPING_FOR_MS);
  typists.set(member.cid, { name: displayName(member), timer });
  showTypists();
}

export function stopTyping(cid) {
  clearTimeout(typists.get(cid)?.timer);
  if (typists.delete(cid)) showTypists();
}

function showTypists() {
  const names = [...new Set([...typists.values()].map(({ name }) => name))];
  typing.classList.toggle("active", names.length > 0);
  if (names.length === 0) typing.textContent = "";
  else if (names.length > 2) typing.textContent = "Several people are typing";
  else typing.textContent = `${names.join(" and ")} ${names.length === 1 ? "is" : "are"} typing`;
}

function newMessage(member, text, at, isMine) {
  const message = document.createElement("article");
  message.className = isMine ? "message mine" : "message";
  const follows = last.user === member.user && at - last.at < SAME_BREATH_MS;
  last = { user: member.user, at };
  if (!follows) {
    const header = document.createElement("header");
    const time = document.createElement("time");
    time.textContent = clock.format(at);
    header.append(isMine ? "You" : nameOf(member), " ", time);
    message.append(header);
  }
  const body = document.createElement("p");
  body.dir = "auto";
  body.textContent = text;
  const mark = document.createElement("span");
  mark.className = "mark";
  message.append(body, mark);
  return message;
}

function nameOf(member) {
  const name = document.createElement("bdi");
  name.className = `name ${colourClass(member.user)}`;
  name.textContent = displayName(member);
  return name;
}

function append(line) {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.append(line);
  while (log.childElementCount > LINES_MAX) log.firstElementChild.remove();
  if (isAtEnd) scrollToEnd();
}

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
}
