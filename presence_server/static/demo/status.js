// The connection in words: what happened, when it is tried again, and how long a round trip takes.
//
// All of it lies over the page or has its place reserved: nothing moves when the connection goes.

import { announce, setText } from "./words.js";

const WHAT_HAPPENED = {
  1001: "The server is restarting",
  1012: "The server is restarting",
  4100: "The server has too much to do",
  4101: "Too many connections come from here",
  4102: "This page could not keep up",
  4200: "The server is restarting",
  4201: "The connection went silent",
};
const WHY_STOPPED = {
  4001: "The credentials were revoked",
  4003: "You were disconnected by the server's operator",
  4004: "The server does not let you in",
  4008: "This page sent too much that was refused",
  4009: "The credentials ended",
  4010: "This page goes on in another tab",
};
const GRACE_MS = 15_000;
const BACK_FOR_MS = 5_000;
const LOOK_EVERY_MS = 250;
const FIRST_PINGS = 5;
const FIRST_PING_MS = 250;
const PING_EVERY_MS = 5_000;
const SAMPLES_MAX = 15;

const find = (id) => document.getElementById(id);
const [pill, toast] = [find("connection"), find("toast")];
let client = null;
let lost = null; // {at, what, node} while the connection is away
let node = "";
let backTimer;
let pingTimer;
let isMeasuring = false;
let samples = [];
let isStale = false;
let barred = null; // {text, comeBack} while the server keeps this page out of its room

/** Follow a client's connection; `rejoin` is called where somebody asks for one again that had stopped. */
export function followConnection(followed, rejoin) {
  client = followed;
  client.on("status", showStatus);
  showStatus(client.status);
  setInterval(showCountdown, LOOK_EVERY_MS);
  find("reconnect").addEventListener("click", () => {
    if (barred !== null) return void barred.comeBack();
    const stopped = client.status.state === "stopped";
    client.reconnect();
    if (stopped) rejoin();
  });
  addEventListener("online", () => showStatus(client.status));
  addEventListener("offline", () => showStatus(client.status));
  document.addEventListener("visibilitychange", () => client.status.state === "connected" && measure(FIRST_PINGS));
}

/** Say that other nodes' people may be out of date, or that they are not any more. */
export function showStale(stale) {
  isStale = stale;
  showStatus(client.status);
}

/** Say why this page is not in its room, until it is entered again; `comeBack` is called where somebody asks for that. */
export function showBarred(text, comeBack) {
  barred = { text, comeBack };
  showStatus(client.status);
}

/** The room is entered, or another one. */
export function hideBarred() {
  if (barred === null) return;
  barred = null;
  showStatus(client.status);
}

function showStatus(status) {
  const { state } = status;
  document.body.dataset.connection = pill.dataset.state = state;
  if (state === "connected") return showConnected(status);
  clearTimeout(backTimer);
  clearTimeout(pingTimer);
  if (state !== "connecting") lost = { at: lost?.at ?? Date.now(), node: lost?.node ?? node, what: whatHappened(status) };
  const words = { connecting: lost === null ? "Connecting" : "Reconnecting", waiting: "Reconnecting", stopped: "Stopped" };
  setText(find("connection-text"), words[state]);
  setText(find("latency"), "");
  if (lost === null) return;
  showToast(state === "stopped" ? "bad" : "warn", `${lost.what}.`);
  setText(find("reconnect"), state === "stopped" ? "Connect again" : "Try now");
  find("reconnect").hidden = false;
  showCountdown();
}

function whatHappened({ state, code, reason }) {
  if (state === "stopped") return WHY_STOPPED[code] ?? (reason || `The server closed the connection (${code})`);
  if (navigator.onLine === false) return "This device is offline";
  if (WHAT_HAPPENED[code] !== undefined) return WHAT_HAPPENED[code];
  if (node === "") return "The server does not answer";
  if (lost === null) return "The connection was lost";
  // A second failure: a restart stays one while it takes, but a lost connection is more than that.
  return lost.what === "The connection was lost" ? "The server does not answer" : lost.what;
}

function showConnected({ node: connectedTo, resumed }) {
  setText(find("connection-text"), "Connected");
  node = connectedTo;
  find("reconnect").hidden = true;
  setText(find("countdown"), "");
  if (barred !== null) {
    lost = null;
    clearTimeout(backTimer);
    showToast("bad", barred.text);
    setText(find("reconnect"), "Come back");
    find("reconnect").hidden = false;
  } else if (lost !== null) {
    const awayMs = Date.now() - lost.at;
    const elsewhere = lost.node !== node ? ` You are on node ${node} now.` : "";
    const unseen = resumed && awayMs < GRACE_MS ? " Nobody saw you go." : "";
    showToast("good", `Connected again after ${seconds(awayMs)}.${elsewhere}${unseen}`);
    lost = null;
    clearTimeout(backTimer);
    backTimer = setTimeout(() => (isStale ? showStatus(client.status) : hideToast()), BACK_FOR_MS);
    measure(FIRST_PINGS);
  } else if (isStale) {
    showToast("warn", "The shared store is out of reach: people on other nodes may be out of date.");
  } else if (toast.dataset.tone !== "good") {
    hideToast();
    measure(FIRST_PINGS);
  }
}

function showToast(tone, text) {
  toast.dataset.tone = tone;
  toast.classList.add("shown");
  if (find("toast-text").textContent !== text) announce(text);
  setText(find("toast-text"), text);
}

function hideToast() {
  toast.classList.remove("shown");
  toast.dataset.tone = "";
}

function showCountdown() {
  const { state, retryAt } = client.status;
  if (state === "waiting") setText(find("countdown"), `Trying again in ${seconds(Math.max(0, retryAt - Date.now()))}`);
  else setText(find("countdown"), state === "connecting" && lost !== null ? "Trying now" : "");
}

const seconds = (ms) => `${Math.ceil(ms / 1000)} s`;

// --- round trips ---

/** Measure so often quickly, and then now and then while the page is looked at. */
async function measure(quickly = 0) {
  clearTimeout(pingTimer);
  if (document.hidden || isMeasuring || client.status.state !== "connected") return;
  isMeasuring = true;
  try {
    samples = [...samples, await client.ping()].slice(-SAMPLES_MAX);
    setText(find("latency"), milliseconds(median(samples)));
  } catch {
    return; // the connection went away meanwhile, and that is shown; or it was refused, and comes again
  } finally {
    isMeasuring = false;
    clearTimeout(pingTimer);
    pingTimer = setTimeout(measure, quickly > 1 ? FIRST_PING_MS : PING_EVERY_MS, quickly - 1);
  }
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const milliseconds = (ms) => (ms < 1 ? "< 1 ms" : `${Math.round(ms)} ms`);
