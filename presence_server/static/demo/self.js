// What this page says of itself: its member's state, sent as a whole and one update at a time.

const GATHER_MS = 60;
const AGAIN_MS = 1_000;
const AGAIN_CODES = new Set(["unavailable", "internal"]);

export class Self {
  #state;
  #room = null;
  #timer;
  #isTelling = false;
  #isDue = false;

  constructor(state) {
    this.#state = state;
  }

  get state() {
    return this.#state;
  }

  /** Be a member of this room from now on. */
  enter(room) {
    this.#room = room;
    room.join({ state: this.#state });
  }

  /** Change some of the state; what changes at once goes out at once. Without a connection it goes with the next join. */
  tell(patch) {
    this.#state = { ...this.#state, ...patch };
    this.#timer ??= setTimeout(() => this.#send(), GATHER_MS);
  }

  /** The same, before the room is entered on a new connection: the join brings it. */
  tellWithJoin(patch) {
    this.#state = { ...this.#state, ...patch };
    this.#room?.setState(this.#state).catch(() => {}); // a refused join is told by the room
  }

  async #send() {
    this.#timer = undefined;
    this.#isDue = true;
    if (this.#isTelling) return;
    this.#isTelling = true;
    while (this.#isDue && this.#room !== null) {
      this.#isDue = false;
      try {
        await this.#room.setState(this.#state);
      } catch ({ code }) {
        if (!AGAIN_CODES.has(code)) continue;
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
        this.#isDue = true;
      }
    }
    this.#isTelling = false;
  }
}
