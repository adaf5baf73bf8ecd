/** What is fleeting in one room: the latest of each key, once a frame, as fast as the connection lets it go. */
import { PresenceError } from "./errors.js";
import type { Link } from "./link.js";

/** More keys do not wait at a time: the oldest go. */
const KEYS_MAX = 50;
const KEY_CHARS_MAX = 128;

export class Signals {
  #room: string;
  #link: () => Link | null;
  #failed: (error: PresenceError) => void;
  #latest = new Map<string, unknown>();
  #isDue = false;

  /** `link()` is the connection that the room is on; `failed` hears of what could not be sent. */
  constructor(room: string, link: () => Link | null, failed: (error: PresenceError) => void) {
    this.#room = room;
    this.#link = link;
    this.#failed = failed;
  }

  set(key: string, data: unknown): void {
    if (this.#link() === null) return;
    if (data === undefined || key.length > KEY_CHARS_MAX) {
      return this.#failed(new PresenceError("bad_message", "a signal without data, or with a long key"));
    }
    this.#latest.set(key, data);
    if (this.#latest.size > KEYS_MAX) this.#latest.delete(this.#latest.keys().next().value!);
    if (this.#isDue) return;
    this.#isDue = true;
    // With the next frame; hidden pages and workers have none.
    const next: (act: () => void, ms: number) => unknown =
      globalThis.document?.visibilityState === "visible" ? requestAnimationFrame : setTimeout;
    next(this.#flush, 16);
  }

  clear(): void {
    this.#latest.clear();
  }

  #flush = (): void => {
    this.#isDue = false;
    this.#link()?.inTurn(this.#send);
  };

  /** Send the one that waits longest; tell whether there are more. */
  #send = (): boolean => {
    for (const [key, data] of this.#latest) {
      this.#latest.delete(key);
      try {
        this.#link()?.send({ t: "signal", room: this.#room, key, data });
      } catch (error) {
        if ((error as PresenceError).code !== "disconnected") this.#failed(error as PresenceError);
      }
      break;
    }
    return this.#latest.size > 0;
  };
}
