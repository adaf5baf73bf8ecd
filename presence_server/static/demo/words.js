// How the page says things: numbers, lists of names, and what a screen reader hears.

const ANNOUNCE_EVERY_MS = 3_000;
const ANNOUNCED_MAX = 5;

const region = document.querySelector("#announcer");
let waiting = [];
let timer;

export const plural = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

/** "Ada", "Ada and Bob", "Ada, Bob and Cy"; more than three are a number. */
export function listNames(names) {
  if (names.length > 3) return plural(names.length, "person", "people");
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** Set a text; one that did not change is left alone, so that live regions stay quiet. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Have a screen reader say this when it has time: what comes quickly is said together, the oldest is dropped. */
export function announce(text) {
  waiting = [...waiting, text].slice(-ANNOUNCED_MAX);
  timer ??= setTimeout(say, 100);
}

function say() {
  timer = undefined;
  if (waiting.length === 0) return;
  region.textContent = waiting.join(". ");
  waiting = [];
  timer = setTimeout(say, ANNOUNCE_EVERY_MS);
}
