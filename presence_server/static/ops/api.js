// Calls of the HTTP API on the port that this page came from. The key lives in this module's memory alone.

const TIMEOUT_MS = 10_000;
let key = "";

/** A call that was refused; `status` is 0 where there was no answer, `detail` says why in words. */
export class CallError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function setKey(text) {
  key = String.fromCharCode(...new TextEncoder().encode(text)); // a header takes bytes; the server compares UTF-8
}

/** Tell whether a name can be a part of a path. Browsers drop `.` and `..` from every address, also percent-encoded. */
export const fitsPath = (name) => name !== "." && name !== "..";

/** Make a path of parts, each of which may have any character. Throws `CallError` where one does not fit a path. */
export function path(...parts) {
  const odd = parts.find((part) => !fitsPath(part));
  if (odd !== undefined) throw new CallError(0, `a browser cannot send the name “${odd}” in a path; curl --path-as-is can`);
  return parts.map(encodeURIComponent).join("/");
}

/** Make a call and return what it is answered with, null where that is nothing. Throws `CallError`. */
export async function call(method, target, body) {
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  let text;
  try {
    response = await fetch(new URL(target, document.baseURI), {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    text = await response.text();
  } catch (error) {
    if (error instanceof TypeError && !navigator.onLine) throw new CallError(0, "this computer is offline");
    throw new CallError(0, error.name === "TimeoutError" ? "the node does not answer" : "the node cannot be reached");
  }
  let answer = null;
  try {
    answer = text ? JSON.parse(text) : null;
  } catch {
    throw new CallError(response.status, `the answer ${response.status} is no JSON`);
  }
  if (!response.ok) throw new CallError(response.status, answer?.detail || response.statusText);
  return answer;
}
