/** A socket whose server is the test: what it says, in which order, is up to the test. */
import { connect, type Client, type ConnectOptions } from "../src/index.js";
import { until } from "./server.js";

export interface Sent {
  readonly t: string;
  readonly id: number;
  readonly [field: string]: unknown;
}

export const WELCOME = {
  t: "welcome", cid: "c", user: "u", info: {}, resumed: false, resume: "r", node: "n", ping_ms: 15_000, time: 1, limits: {},
};

export const member = (cid: string, over: object = {}) => ({ cid, user: cid, info: {}, state: {}, v: 1, at: 1, ...over });

/** A whole roster, as an answer to `join`. */
export const sync = (cids: string[], over: object = {}) => ({
  t: "sync", room: "r", mode: "full", you: true, seq: 1, count: cids.length, users: cids.length, members: cids.map((cid) => member(cid)), cursor: null, stale: false, ...over,
});

/** One connection of a client. */
export class Peer {
  readyState = 1;
  sent: Sent[] = [];
  isClosed = false;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;

  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }

  close(): void {
    this.isClosed = true;
  }

  say(message: unknown): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  /** End it, as the network would. */
  lose(): void {
    this.readyState = 3;
    this.onclose?.({ code: 1006, reason: "" });
  }

  /** What the client has sent of one type. */
  asked(t: string): Sent[] {
    return this.sent.filter((message) => message.t === t);
  }

  /** Wait for so many messages of one type; return the last. */
  async asks(t: string, amount = 1): Promise<Sent> {
    await until(() => this.asked(t).length >= amount);
    return this.asked(t)[amount - 1]!;
  }
}

/** A client, and the connections that it makes; `welcomes`: each is welcomed at once. */
export function scripted({ welcomes = true, ...options }: ConnectOptions & { welcomes?: boolean } = {}): { client: Client; peers: Peer[] } {
  const peers: Peer[] = [];
  const Socket = class extends Peer {
    constructor() {
      super();
      peers.push(this);
      if (welcomes) setTimeout(() => this.say(WELCOME));
    }
  };
  const client = connect("ws://host/ws", { user: "u", storage: null, WebSocket: Socket as unknown as typeof WebSocket, ...options });
  return { client, peers };
}
