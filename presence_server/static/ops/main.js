// The dashboard: asks its node for the overview every two seconds, and shows it.

import { call, setKey } from "./api.js";
import { Charts } from "./charts.js";
import { byId, duration, plural, setText } from "./format.js";
import { People } from "./people.js";
import { newDecisions, newRooms, newThrottled, Nodes, showAlerts, showStore } from "./tables.js";

const EVERY_MS = 2000;
const BANS_EVERY = 5;
const THEME = "presence.ops.theme";

const people = new People();
const nodes = new Nodes();
const charts = new Charts();
const rooms = newRooms((room) => people.openRoom(room));
const throttled = newThrottled((line) => people.unblock(line));
const decisions = newDecisions();

let answeredMs = 0;
let round = 0;
let timer;
let asking = false;

function setStatus(level, text) {
  const status = byId("status");
  status.dataset.level = level;
  setText(status, text);
}

function show(overview) {
  const { alerts, node, store } = overview;
  charts.show(overview);
  nodes.show(overview);
  rooms.show(overview.rooms);
  throttled.show(overview.throttled.top);
  decisions.show(overview.decisions);
  showAlerts(alerts);
  showStore(store, overview);
  setText(byId("asked"), node);
  setText(byId("throttled-over"), overview.throttled.top.length ? `in ${duration(overview.throttled.over_ms)}` : "");
  const critical = alerts.filter((alert) => alert.level === "critical").length;
  const warnings = alerts.filter((alert) => alert.level === "warning").length;
  if (critical) setStatus("critical", plural(critical, "critical alert"));
  else if (warnings) setStatus("warning", plural(warnings, "warning"));
  else setStatus("good", "All is well");
}

function lock(problem) {
  byId("dashboard").hidden = true;
  byId("locked").hidden = false;
  byId("unlock-problem").textContent = problem;
  setStatus("wait", "Locked");
  byId("key").value = "";
  byId("key").focus();
}

/** Ask once. What was shown stays, marked as old, where there is no answer. */
async function ask(triedKey = false) {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  let again = true;
  try {
    const overview = await call("GET", "v1/overview");
    answeredMs = Date.now();
    byId("locked").hidden = true;
    byId("dashboard").hidden = false;
    byId("dashboard").classList.remove("old");
    show(overview);
    if (round % BANS_EVERY === 0) people.showBans();
    round += 1;
  } catch (error) {
    if (error.status === 401) {
      again = false;
      setKey("");
      lock(triedKey ? "That is not the key." : "");
    } else {
      byId("dashboard").classList.add("old");
      const since = answeredMs ? `, last answer ${duration(Date.now() - answeredMs)} ago` : "";
      setStatus("critical", `${error.message || error}${since}`);
      if (!(error.status >= 0)) console.error(error);
    }
  } finally {
    asking = false;
  }
  if (again && !document.hidden) timer = setTimeout(ask, EVERY_MS);
}

/** Return the theme that was chosen in this browser; null: none, or a browser that forbids storage. */
function keptTheme() {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null;
  }
}

function keepTheme(theme) {
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // Storage is full or forbidden: the choice lasts until the page is closed.
  }
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  charts.redraw();
}

const preferred = matchMedia("(prefers-color-scheme: dark)");
let chosen = keptTheme();
const theme = () => chosen ?? (preferred.matches ? "dark" : "light");
preferred.addEventListener("change", () => setTheme(theme()));
byId("theme").onclick = () => {
  chosen = theme() === "dark" ? "light" : "dark";
  keepTheme(chosen);
  setTheme(chosen);
};
byId("unlock").onsubmit = (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  byId("key").value = ""; // the key is kept in the memory of api.js alone
  setKey(key);
  ask(true);
};
byId("search").onsubmit = (event) => {
  event.preventDefault();
  const text = byId("query").value.trim();
  if (text) people.search(text);
};
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && byId("locked").hidden) ask();
});
setTheme(theme());
ask();
