// What people are called here, and the colour that goes with a name.

const NAME_CHARACTERS_MAX = 40;
const ROOM_CHARACTERS_MAX = 164;
const COLOURS = 12;
const DEFAULT_ROOM = "lobby";
const STORAGE_KEY = "presence.demo.name";

const ADJECTIVES = ["Amber", "Brave", "Calm", "Clever", "Gentle", "Jolly", "Lucky", "Merry", "Quiet", "Swift", "Sunny", "Witty"];
const ANIMALS = ["Badger", "Falcon", "Fox", "Heron", "Lynx", "Marten", "Otter", "Owl", "Puffin", "Robin", "Seal", "Wren"];

const pick = (words) => words[Math.floor(Math.random() * words.length)];

/** A friendly name for somebody who has not said theirs. */
export const randomName = () => `${pick(ADJECTIVES)} ${pick(ANIMALS)}`;

/** A name that the server takes as a user: no control characters, well-formed, not too long; may come out empty. */
export function cleanName(text) {
  const printable = text
    .normalize("NFC")
    .replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, " ")
    .replace(/\s+/gu, " ")
    .trim();
  return [...printable].slice(0, NAME_CHARACTERS_MAX).join("").trim();
}

/** The room that the address names after `#`, without what a room's name may not have. */
export function roomFromHash() {
  let text = location.hash.slice(1);
  try {
    text = decodeURIComponent(text);
  } catch {
    // A stray percent sign: taken as it is, and dropped below.
  }
  return text.replace(/[^A-Za-z0-9_\-=@,.;:/+]/g, "").slice(0, ROOM_CHARACTERS_MAX) || DEFAULT_ROOM;
}

/** This tab's name: as chosen here, else as last chosen in this browser, else empty. */
export function rememberedName() {
  return cleanName(sessionStorage.getItem(STORAGE_KEY) ?? localStorage.getItem(STORAGE_KEY) ?? "");
}

export function rememberName(name) {
  sessionStorage.setItem(STORAGE_KEY, name);
  localStorage.setItem(STORAGE_KEY, name);
}

/** What to show for a member: the name in its `info` where that is one, else its user. */
export function displayName({ user, info }) {
  const name = typeof info?.name === "string" ? cleanName(info.name) : "";
  return name || cleanName(user) || "?";
}

/** The class that carries a user's colour; the same everywhere. */
export function colourClass(user) {
  let hash = 22; // FNV-1a from another start, one that spreads short names over few colours
  for (const character of user) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193) >>> 0;
  return `colour-${((hash ^ (hash >>> 15)) >>> 0) % COLOURS}`;
}

/** One or two letters for a name. */
export function initials(name) {
  const words = name.split(/\s+/u).filter((word) => word !== "");
  const letters = words.length > 1 ? [words[0], words.at(-1)] : words;
  return letters.map((word) => [...word][0].toLocaleUpperCase()).join("");
}
