// The tables of the dashboard, and the alerts and the store beside them.

import { button, byId, bytes, count, duration, element, milliseconds, percent, plural, rate, setText } from "./format.js";
import { Table } from "./table.js";

const NAMED_MAX = 6;
const STOPPED_SHOWN_MS = 60_000;
const LAG_HOT_MS = 100;
const LAG_BURNING_MS = 1000;
const CPU_HOT = 0.7;
const CPU_BURNING = 0.9;
const ORDER = ["silent", "isolated", "rejoining", "draining", "serving", "lost", "stopped", "unknown"];
const MEANINGS = {
  serving: "It answers and shares its rooms.",
  rejoining: "It is back in contact with the store and enters its members again.",
  isolated: "It has no contact with the store and serves its own clients from memory.",
  draining: "It is shutting down.",
  silent: "It has told nothing for six seconds or longer: killed, frozen or cut off.",
  lost: "Its record in the store has ended; its members have left.",
  stopped: "It has stopped in order.",
  unknown: "The node that is asked has no contact with the store.",
};

const NONE = "–";
const or = (value, say) => (value === null || value === undefined ? NONE : say(value));
const number = { className: "number" };
const hot = (value, warm, burning) => (value >= burning ? "burning" : value >= warm ? "hot" : "");

function fillState(cell, node) {
  const shown = cell.firstChild ?? cell.appendChild(element("span", { className: "state" }));
  shown.dataset.state = node.state;
  shown.title = MEANINGS[node.state];
  setText(shown, node.state);
}

function fillConnections(cell, node) {
  const text = or(node.connections, count);
  if (!cell.firstChild) cell.append("", element("meter", { min: 0, low: 0.7, high: 0.9, optimum: 0 }));
  const [said, meter] = cell.childNodes;
  if (said.data !== text) said.data = text;
  meter.hidden = !node.connections_max;
  meter.value = node.connections_max ? node.connections / node.connections_max : 0;
  meter.title = node.connections_max ? `of at most ${count(node.connections_max)}` : "";
}

const rated = (title, field) => ({
  title,
  ...number,
  text: (node) => or(node.rates, (rates) => rate(rates[field])),
  sort: (node) => node.rates?.[field] ?? -1,
});

const NODE_COLUMNS = [
  { title: "Node", className: "mono", text: (node) => node.node, sort: (node) => node.node },
  { title: "State", fill: fillState, sort: (node) => -ORDER.indexOf(node.state) },
  { title: "Up", ...number, text: (node) => node.since ?? or(node.uptime_ms, duration), sort: (node) => node.uptime_ms ?? -1 },
  { title: "Connections", ...number, fill: fillConnections, sort: (node) => node.connections ?? -1 },
  { title: "Rooms", ...number, text: (node) => or(node.rooms, count), sort: (node) => node.rooms ?? -1 },
  rated("Connects/s", "connects"),
  rated("Messages/s", "received"),
  rated("Deliveries/s", "deliveries"),
  rated("Refused/s", "denied"),
  {
    title: "CPU",
    ...number,
    text: (node) => or(node.cpu, percent),
    sort: (node) => node.cpu ?? -1,
    mark: (node) => hot(node.cpu ?? 0, CPU_HOT, CPU_BURNING),
  },
  { title: "Memory", ...number, text: (node) => or(node.memory_bytes, bytes), sort: (node) => node.memory_bytes ?? -1 },
  {
    title: "Lag",
    ...number,
    text: (node) => or(node.lag_ms, milliseconds),
    sort: (node) => node.lag_ms ?? -1,
    mark: (node) => hot(node.lag_ms ?? 0, LAG_HOT_MS, LAG_BURNING_MS),
  },
  { title: "Store", ...number, text: (node) => or(node.round_trip_ms, milliseconds), sort: (node) => node.round_trip_ms ?? -1 },
  { title: "Version", text: (node) => node.version ?? NONE, sort: (node) => node.version ?? "" },
];

/** The nodes: those of the answer, those that were lost, and for a minute those that have stopped since. */
export class Nodes {
  constructor() {
    this.known = new Map();
    this.asked = "";
    this.table = new Table(byId("nodes"), {
      columns: NODE_COLUMNS,
      keyOf: (node) => node.node,
      empty: "No node has told anything yet.",
      rowClass: (node) => (["lost", "stopped", "unknown"].includes(node.state) ? "gone" : node.node === this.asked ? "asked" : ""),
    });
  }

  show({ node: asked, nodes, lost, complete }) {
    const now = Date.now();
    this.asked = nodes.length > 1 ? asked : "";
    const rows = new Map(nodes.map((node) => [node.node, node]));
    for (const { node, ago_ms } of lost) {
      if (!rows.has(node)) rows.set(node, { node, state: "lost", since: `${duration(ago_ms)} ago` });
    }
    for (const [id, { at, version }] of this.known) {
      if (rows.has(id)) continue;
      if (now - at > STOPPED_SHOWN_MS && complete) this.known.delete(id);
      else rows.set(id, { node: id, version, state: complete ? "stopped" : "unknown", since: `${duration(now - at)} ago` });
    }
    for (const { node, version } of nodes) this.known.set(node, { at: now, version });
    const rank = (node) => ORDER.indexOf(node.state);
    this.table.show([...rows.values()].sort((a, b) => rank(a) - rank(b) || (a.node < b.node ? -1 : 1)));
    setText(byId("nodes-count"), nodes.length > 1 ? count(nodes.length) : "");
  }
}

export const newRooms = (open) =>
  new Table(byId("rooms"), {
    keyOf: (room) => room.room,
    empty: "Nobody watches a room.",
    columns: [
      { title: "Room", className: "wrap", fill: link((room) => room.room, open) },
      { title: "Members", ...number, text: (room) => count(room.count) },
      { title: "Users", ...number, text: (room) => count(room.users) },
      { title: "Nodes", ...number, text: (room) => count(room.nodes.length) },
    ],
  });

export const newThrottled = (unblock) =>
  new Table(byId("throttled"), {
    keyOf: (line) => JSON.stringify([line.rule, line.key]),
    empty: "Nobody was refused in the last minute.",
    columns: [
      { title: "Rule", text: (line) => line.rule },
      { title: "Key", className: "wrap mono", text: (line) => line.key },
      { title: "Refused", ...number, text: (line) => `${line.error ? "≤ " : ""}${count(line.count)}` },
      { title: "", className: "right", fill: action("Unblock", unblock, (line) => `Unblock ${line.key} under ${line.rule}`) },
    ],
  });

export const newDecisions = () =>
  new Table(byId("decisions"), {
    keyOf: (decided) => `${decided.outcome} ${decided.source}`,
    empty: "Nothing was decided yet.",
    columns: [
      { title: "Outcome", text: (decided) => decided.outcome.replace("_", " "), mark: (decided) => (decided.outcome === "denied" && decided.rate ? "burning" : "") },
      { title: "Decided by", text: (decided) => decided.source.replace("_", " ") },
      { title: "A second", ...number, text: (decided) => rate(decided.rate) },
    ],
  });

export const newBans = (lift, open) =>
  new Table(byId("bans"), {
    keyOf: (ban) => JSON.stringify([ban.user, ban.room]),
    empty: "Nobody is banned.",
    columns: [
      { title: "User", className: "wrap", fill: link((ban) => ban.user, open) },
      { title: "From", className: "wrap", text: (ban) => ban.room ?? "everything" },
      { title: "For", ...number, text: (ban) => duration(ban.until - ban.now) },
      { title: "", className: "right", fill: action("Lift", lift, (ban) => `Lift the ban of ${ban.user}`) },
    ],
  });

/** Fill a cell with a button that looks like a link and opens what it names. */
export function link(name, open) {
  return (cell, item) => {
    const made = cell.firstChild ?? cell.appendChild(button("", undefined, "link"));
    setText(made, name(item));
    made.onclick = () => open(name(item));
  };
}

/** Fill a cell with a button; `label(item)` says all of it to who cannot see the row. */
export function action(text, act, label, className = "small") {
  return (cell, item) => {
    const made = cell.firstChild ?? cell.appendChild(button(text, undefined, className));
    made.setAttribute("aria-label", label(item));
    made.onclick = () => act(item);
  };
}

/** Show what is degraded, a line for each kind: of a kind that many nodes have, what the first says, and the others. */
export function showAlerts(alerts) {
  const shown = byId("alerts");
  const told = JSON.stringify(alerts);
  if (shown.dataset.told === told) return;
  shown.dataset.told = told;
  const kinds = Map.groupBy(alerts, ({ level, kind }) => `${level} ${kind}`);
  shown.replaceChildren(
    ...[...kinds.values()].map(([{ level, node, text }, ...rest]) => {
      const others = [...new Set(rest.map((alert) => alert.node))].filter((other) => other !== node);
      const parts = node ? [mono(node), " ", text] : [text];
      if (others.length) parts.push(element("span", { className: "quiet" }, ` · also ${others.slice(0, NAMED_MAX).join(", ")}`));
      if (others.length > NAMED_MAX) parts.push(element("span", { className: "quiet" }, ` and ${others.length - NAMED_MAX} more`));
      return element("p", { className: "alert", dataset: { level } }, element("b", {}, level), element("span", {}, ...parts));
    }),
  );
}

const mono = (text) => element("span", { className: "mono" }, text);

export function showStore(store, { shared, complete }) {
  const shown = byId("store");
  if (!store.length) {
    const why = shared ? (complete ? "The store does not say how it is (INFO)." : "The store is out of reach.") : "None: this process keeps everything in memory.";
    shown.replaceChildren(element("p", { className: shared && !complete ? "problem" : "quiet" }, why));
    return;
  }
  shown.replaceChildren(
    ...store.map((server) => {
      const memory = or(server.memory_bytes, bytes);
      const rows = [
        ["Server", [server.server, or(server.version, String)].filter(Boolean).join(" · ")],
        ["Role", or(server.role, String)],
        ["Up", or(server.uptime_s, (s) => duration(s * 1000))],
        ["Memory", server.memory_max_bytes ? `${memory} of ${bytes(server.memory_max_bytes)}` : memory],
        ["Commands", or(server.commands, (n) => `${rate(n)}/s`)],
        ["Clients", or(server.clients, count)],
        ["Evicted", or(server.evicted_keys, (n) => plural(n, "key"))],
      ];
      return element("dl", {}, ...rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
    }),
  );
}
