// The chat: what was said, who came and went, who is typing.

import { colourClass, displayName } from "./person.js";
import { announce, listNames, plural, setText } from "./words.js";

const LINES_MAX = 400;
const TEXT_CHARACTERS_MAX = 4000;
const SAME_BREATH_MS = 120_000;
const SAME_NEWS_MS = 10_000;
const TYPING_EVERY_MS = 2_000;
const TYPING_FOR_MS = 5_000;
const NEAR_END_PX = 60;
const GONE = { timeout: "lost the connection", kicked: "was removed" };

const log = document.querySelector("#log");
const form = document.querySelector("#compose");
const input = document.querySelector("#text");
const typing = document.querySelector("#typing");
const typists = new Map(); // cid → {name, timer}
const clock = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
let last = { user: null, at: 0 };
let wasAtEnd = true; // when the reader scrolled last
let endTop = 0; // where the end was when it was scrolled to last; more may have come since
let isFollowing = false;
let news = null; // {line, verb, people, at} of the last line about who came or went

/** A line that nobody said. */
export function showEvent(...parts) {
  const line = document.createElement("p");
  line.className = "event";
  line.append(...parts);
  last = { user: null, at: 0 };
  append(line);
  return line;
}

/** Say who came and who went. What comes within a moment becomes one line: "34 people joined". */
export function showNews({ joined, left, away }) {
  if (away) {
    const changes = [joined.length > 0 && `${listNames(joined.map(named))} joined`, left.length > 0 && `${listNames(left.map(named))} left`];
    const text = `While you were away: ${changes.filter(Boolean).join("; ")}`;
    showEvent(text);
    announce(text);
    return;
  }
  addNews("joined", joined);
  for (const [reason, verb] of Object.entries(GONE)) addNews(verb, left.filter((person) => person.reason === reason));
  addNews("left", left.filter((person) => GONE[person.reason] === undefined));
}

const named = ({ name }) => name;

function addNews(verb, people) {
  if (people.length === 0) return;
  const now = Date.now();
  if (news === null || news.verb !== verb || news.line !== log.lastElementChild || now - news.at > SAME_NEWS_MS) {
    news = { line: showEvent(), verb, people: new Map(), at: now };
  }
  news.at = now;
  for (const person of people) news.people.set(person.user, person);
  const everybody = [...news.people.values()];
  if (everybody.length > 3) news.line.replaceChildren(`${plural(everybody.length, "person", "people")} ${verb}`);
  else news.line.replaceChildren(...everybody.flatMap((person, i) => [separator(i, everybody.length), nameOf(person)]), ` ${verb}`);
  follow();
  announce(`${listNames(people.map(named))} ${verb}`);
}

function separator(i, length) {
  if (i === 0) return "";
  return i === length - 1 ? " and " : ", ";
}

/** A message of somebody else, or of this person's other tab. */
export function showMessage(member, data, at, isMine) {
  const text = typeof data?.text === "string" ? data.text.slice(0, TEXT_CHARACTERS_MAX) : "";
  if (text === "") return;
  append(newMessage(member, text, at, isMine));
  announce(`${isMine ? "You" : displayName(member)}: ${text}`);
}

/** Empty the chat: another room, another conversation. */
export function clearChat() {
  log.replaceChildren();
  wasAtEnd = true;
  endTop = 0;
  for (const cid of [...typists.keys()]) stopTyping(cid);
  last = { user: null, at: 0 };
  news = null;
}

/** Call `publish(text)` with what is entered here, and show what becomes of it; `me()` gives this member. */
export function watchForm(me, publish, signal) {
  // Another size of the window, or a keyboard on the screen, leaves the last line in sight.
  log.addEventListener("scroll", () => (wasAtEnd = log.scrollTop >= endTop - 1 || isEndInSight()), { passive: true });
  new ResizeObserver(() => wasAtEnd && scrollToEnd()).observe(log);
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
    wasAtEnd = true;
    send(message, text, publish);
  });
}

async function send(message, text, publish) {
  const mark = message.querySelector(".mark");
  message.dataset.state = "sending";
  setText(mark, document.body.dataset.connection === "connected" ? "Sending" : "Goes out when the connection is back");
  try {
    const at = await publish(text);
    message.dataset.state = "sent";
    setText(mark, `Sent ${clock.format(at)}`);
  } catch (error) {
    message.dataset.state = "failed";
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Try again";
    again.addEventListener("click", () => send(message, text, publish), { once: true });
    mark.replaceChildren(`Not sent: ${error.message} `, again);
    announce(`Not sent: ${error.message}`);
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
    header.append(isMine ? "You" : nameOf({ user: member.user, name: displayName(member) }), " ", time);
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

function nameOf({ user, name }) {
  const element = document.createElement("bdi");
  element.className = `name ${colourClass(user)}`;
  element.textContent = name;
  return element;
}

function append(line) {
  log.append(line);
  if (document.hidden) trim(); // there are no frames
  follow();
}

/** With the next frame: keep the end in sight for who looked at it, whatever has come. To look each time costs a layout. */
function follow() {
  if (isFollowing) return;
  isFollowing = true;
  requestAnimationFrame(() => {
    isFollowing = false;
    trim();
    if (wasAtEnd) scrollToEnd();
  });
}

function trim() {
  while (log.childElementCount > LINES_MAX) log.firstElementChild.remove();
}

const isEndInSight = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_END_PX;

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
  endTop = log.scrollTop;
}
