// Who uses this page, what people are called, and the colour that goes with somebody.
//
// A browser is one person, whatever the number of its tabs. `/?as=NAME` is somebody else, with a storage key of their
// own: that is how one browser shows two people.

const NAME_CHARACTERS_MAX = 40;
const ROOM_CHARACTERS_MAX = 164;
const COLOURS = 12;
const DEFAULT_ROOM = "lobby";
const USER_KEY = "presence.demo.user";
const NAME_KEY = "presence.demo.name";

const ADJECTIVES = ["amber", "brave", "calm", "clever", "gentle", "jolly", "lucky", "merry", "quiet", "swift", "sunny", "witty"];
const ANIMALS = ["badger", "falcon", "fox", "heron", "lynx", "marten", "otter", "owl", "puffin", "robin", "seal", "wren"];
const MADE_UP = /^([a-z]+)-([a-z]+)-[a-z0-9]{4}$/;

const pick = (words) => words[Math.floor(Math.random() * words.length)];
const capitalised = (word) => word[0].toUpperCase() + word.slice(1);

/** A user nobody else has, from which a friendly name can be read. */
export function randomUser() {
  const suffix = Math.random().toString(36).slice(2, 6).padEnd(4, "0");
  return `${pick(ADJECTIVES)}-${pick(ANIMALS)}-${suffix}`;
}

/** The name that a user has before they choose one. */
export function nameOfUser(user) {
  const words = MADE_UP.exec(user);
  return words === null ? cleanName(user) || "Somebody" : `${capitalised(words[1])} ${capitalised(words[2])}`;
}

/** What can be seen of a text: not spaces, fillers, joiners, nor marks on nothing. */
const VISIBLE = /[^\s\p{Default_Ignorable_Code_Point}\p{Cf}\p{M}\u2800]/u;

/** What the page calls the person who looks at it. */
const YOU = /^you$/i;
const UNSEEN = /[\p{Default_Ignorable_Code_Point}\p{Cf}]/gu;

/**
 * Text that can be a name: no control characters, well-formed, not too long; empty where nothing of it can be seen, and
 * where it is "You", which would make somebody else's words look like one's own.
 */
export function cleanName(text) {
  const printable = text
    .normalize("NFC")
    .replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu, " ")
    .replace(/\s+/gu, " ")
    .trim();
  const name = [...printable].slice(0, NAME_CHARACTERS_MAX).join("").trim();
  return VISIBLE.test(name) && !YOU.test(name.replace(UNSEEN, "")) ? name : "";
}

/** Who uses this page: `{user, name, rename}`. */
export function thisPerson() {
  const other = cleanName(new URLSearchParams(location.search).get("as") ?? "");
  // Somebody else is in the address; their name ends with the tab, so that nothing piles up in the browser.
  const [user, storage] = other === "" ? [storedUser(), store("localStorage")] : [other, store("sessionStorage")];
  const key = other === "" ? NAME_KEY : `${NAME_KEY} ${user}`;
  return {
    user,
    name: cleanName(storage.getItem(key) ?? "") || nameOfUser(user),
    rename(text) {
      this.name = cleanName(text) || nameOfUser(user);
      storage.setItem(key, this.name);
      return this.name;
    },
  };
}

function storedUser() {
  const storage = store("localStorage");
  const user = cleanName(storage.getItem(USER_KEY) ?? "") || randomUser();
  storage.setItem(USER_KEY, user);
  return user;
}

/** A storage of the browser's; one that the page may not use, or that is full, keeps nothing and says nothing. */
export function store(name) {
  const attempt = (use) => {
    try {
      return use(window[name]);
    } catch {
      return null;
    }
  };
  return {
    getItem: (key) => attempt((storage) => storage.getItem(key)),
    setItem: (key, value) => attempt((storage) => storage.setItem(key, value)),
  };
}

/** The address of this page and room for somebody who is nobody yet. */
export const addressOfSomebodyElse = () => `/?as=${randomUser()}#${roomFromHash()}`;

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

/** What to show for a member: the name it says it has now, else the one it came with, else its user. */
export function displayName({ user, info, state }) {
  for (const name of [state?.name, info?.name]) {
    const clean = typeof name === "string" ? cleanName(name) : "";
    if (clean !== "") return clean;
  }
  return nameOfUser(user);
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

/** Fill an avatar with a name's letters and its user's colour. */
export function paintAvatar(avatar, user, name) {
  avatar.classList.add("avatar", colourClass(user));
  avatar.textContent = initials(name);
}
