/**
 * When to connect again: exponential backoff with full jitter ("Exponential Backoff And Jitter", AWS
 * Architecture Blog, 2015), by the range of the close code. Pure: chance is an argument.
 */

const FIRST_MS = 500;
const LONGEST_MS = 20_000;
/** Ended for good: RFC 6455's codes for a mistake of this client's. */
const MISTAKES = new Set([1002, 1003, 1007, 1009]);

export const NORMAL = 1000;
export const ABNORMAL = 1006;
export const UNAUTHORIZED = 4001;
export const TOKEN_EXPIRED = 4009;
export const REPLACED = 4010;
export const NO_PONG = 4201;

/** Return ms between 0 and a bound that doubles with each failure. */
export function jittered(failures: number, chance: number): number {
  return Math.floor(chance * Math.min(LONGEST_MS, FIRST_MS * 2 ** Math.min(failures, 16)));
}

/** Tell whether a close code says not to come back as before. */
export function isFinal(code: number): boolean {
  return MISTAKES.has(code) || (code >= 4000 && code < 4100);
}

/** Tell whether a close code says that the server wants the wait after it. */
export function isAskedFor(code: number): boolean {
  return code >= 4100 && code < 4200;
}

/** Return ms to wait after a connection that ended; `asked` is what the server's `bye` asked for. */
export function waitAfter(code: number, asked: number | undefined, failures: number, chance: number): number {
  const atOnce = code >= 4200 && code < 4300;
  if (atOnce && failures === 0 && asked !== undefined) return asked;
  return jittered(atOnce ? failures : failures + 1, chance) + (asked ?? 0); // not all at the instant that all were told
}

/** Call `act` after `ms`, or after what a timer can wait (25 days): beyond that it would be at once. */
export function later(act: () => void, ms: number): ReturnType<typeof setTimeout> {
  return setTimeout(act, Math.min(ms, 2 ** 31 - 1));
}
