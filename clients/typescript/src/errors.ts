import type { ErrorCode } from "./messages.js";

/** Why a request failed: one of the server's codes, or one of this client's own. */
export type FailureCode =
  | ErrorCode
  /** There is no connection, or it was lost before the answer: what was asked may have been done or not. */
  | "disconnected"
  /** The room was left, or the client closed, before the answer. */
  | "ended";

/** A request that failed. */
export class PresenceError extends Error {
  override readonly name = "PresenceError";
  /** @internal */
  constructor(
    /** Why. */
    readonly code: FailureCode,
    message: string,
    /** When the same request may succeed, in ms from now; with `throttled`. */
    readonly retryAfterMs?: number,
    /** The present version; with `conflict`. */
    readonly v?: number,
  ) {
    super(message);
  }
}

/** Thrown by `getToken` to say that there will be no token: the client stops instead of asking again. */
export class StopError extends Error {
  override readonly name = "StopError";
}
