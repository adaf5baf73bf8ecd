/**
 * The resume token over a reload of the page. A browser copies session storage when it duplicates a tab, and two
 * connections must not share a token: it is written only while the page goes away, removed when it is read, and used
 * only by the page that holds the Web Lock of its connection.
 */

/** What is used of `sessionStorage`. */
export interface TokenStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** How long a page that is going away may take to let go of its lock. */
const LOCK_WAIT_MS = 400;
/** What may stand in the name of a subprotocol (RFC 9110's token). */
export const TOKEN = /^[\w!#$%&'*+.^`|~-]+$/;

/** The keys that clients of this page have: each has one of its own, the same after a reload. */
const taken = new WeakMap<TokenStorage, Set<string>>();

export class ResumeToken {
  value: string | null = null;
  /** One that is read, and may be used once the page that left it is gone. */
  #pending: string | null = null;
  #storage: TokenStorage | null;
  #key: string;
  #cid: string | null = null;
  #release: (() => void) | null = null;

  constructor(storage: TokenStorage | null, key: string) {
    this.#storage = storage;
    const keys = (storage && taken.get(storage)) ?? new Set();
    while (keys.has(key)) key += "+";
    this.#key = key;
    if (storage) taken.set(storage, keys.add(key));
  }

  /** Let another client of this page have the key. */
  end(): void {
    this.drop();
    if (this.#storage) taken.get(this.#storage)?.delete(this.#key);
  }

  /** Read what the page before this one left, if that page is gone. */
  async restore(): Promise<void> {
    let stored: { cid?: unknown; resume?: unknown } | null;
    try {
      const text = this.#storage?.getItem(this.#key);
      this.#storage?.removeItem(this.#key);
      if (!text) return;
      stored = JSON.parse(text);
    } catch {
      return; // no storage allowed, or no JSON
    }
    const { cid, resume } = stored ?? {};
    if (typeof cid !== "string" || typeof resume !== "string" || !TOKEN.test(resume)) return; // something else's entry
    this.#pending = resume;
    if (await this.#lock(cid)) this.value = resume;
    this.#pending = null;
  }

  /** Leave the token for the page after this one. */
  store(): void {
    const resume = this.value ?? this.#pending;
    if (resume === null || this.#cid === null) return;
    try {
      this.#storage?.setItem(this.#key, JSON.stringify({ cid: this.#cid, resume }));
    } catch {
      // No storage allowed, or none left: the next page is a new connection.
    }
  }

  /** The page was only put aside (back/forward cache): what was left for another is this one's. */
  takeBack(): void {
    try {
      this.#storage?.removeItem(this.#key);
    } catch {
      // As above.
    }
  }

  /** Note the connection that this page has now. */
  hold(cid: string, resume: string): void {
    this.value = resume;
    if (cid !== this.#cid) void this.#lock(cid);
  }

  /** Forget it: its connection has ended for good, or is another page's. */
  drop(): void {
    this.value = this.#cid = null;
    this.#release?.();
    this.#release = null;
  }

  /** Hold the lock of a connection for as long as this page has it; false: another page has it. */
  #lock(cid: string): Promise<boolean> {
    this.#release?.();
    this.#release = null;
    this.#cid = cid;
    const locks = globalThis.navigator?.locks;
    if (!this.#storage || !locks) return Promise.resolve(true); // outside of secure contexts there are none
    return new Promise((resolve) => {
      const timeout = new AbortController();
      const timer = setTimeout(() => timeout.abort(), LOCK_WAIT_MS);
      locks
        .request(`presence-server ${cid}`, { signal: timeout.signal }, () => {
          clearTimeout(timer);
          resolve(true);
          return this.#cid === cid ? new Promise<void>((release) => (this.#release = release)) : undefined;
        })
        .catch(() => resolve(false));
    });
  }
}
