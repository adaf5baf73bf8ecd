// A user or a room in a panel, and what an operator can do about them.

import { call, fitsPath, path } from "./api.js";
import { button, byId, clock, count, duration, element, plural } from "./format.js";
import { action, link, newBans } from "./tables.js";
import { Table } from "./table.js";

const PAGE = 100;
const SAID_MS = 6000;
let silence;

/** Say how something went; `bad`: it failed. */
export function say(text, bad = false) {
  const said = byId("said");
  said.toggleAttribute("data-bad", bad);
  said.textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => (said.textContent = ""), SAID_MS);
}

/** Ask before something is done; returns null, or for how long to ban, ms ("" where that was not asked, or is no ban). */
function confirm(title, text, does, { asksBan = false } = {}) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-do").textContent = does;
  byId("confirm-ban").hidden = !asksBan;
  byId("ban-for").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "do" ? (asksBan ? byId("ban-for").value : "") : null), { once: true });
  });
}

/** Carry out an action and say how it went. */
async function carryOut(act, done) {
  try {
    say(done(await act()));
  } catch (error) {
    say(error.status === 404 ? `Nothing was done: ${error.message}` : error.message, true);
  }
}

export class People {
  constructor() {
    this.bans = newBans((ban) => this.lift(ban), (user) => this.openUser(user));
    this.panel = byId("panel");
    this.shown = 0;
    byId("panel-close").onclick = () => this.panel.close();
    this.panel.addEventListener("close", () => (this.shown += 1));
  }

  /** Search for a user and for rooms that begin so, and show what there is. */
  async search(text) {
    await this.open(`“${text}”`, async () => {
      const room = /^[A-Za-z0-9_\-=@,.;:/+]{1,164}$/.test(text);
      const [user, rooms] = await Promise.all([
        askUser(text),
        room ? call("GET", `v1/rooms?${new URLSearchParams({ prefix: text, limit: 20 })}`) : { rooms: [] },
      ]);
      const found = rooms.rooms.map(({ room: name, count: members }) =>
        element("p", {}, button(name, () => this.openRoom(name), "link"), element("span", { className: "quiet" }, ` ${plural(members, "member")}`)),
      );
      return [
        element("h3", {}, "User"),
        ...this.userParts(user),
        element("h3", {}, "Rooms that begin so"),
        ...(found.length ? found : [element("p", { className: "quiet" }, "None has members.")]),
        ...(rooms.cursor ? [element("p", { className: "quiet" }, "There are more; type more of the name.")] : []),
      ];
    });
  }

  openUser(user) {
    return this.open(user, async () => this.userParts(await askUser(user)));
  }

  userParts(user) {
    const { online, connections, last_seen: seen } = user;
    const name = user.user;
    const ago = seen ? `last seen ${duration(Date.now() - seen)} ago` : "not seen lately";
    const summary = online ? `online with ${plural(connections.length, "connection")}` : `offline, ${ago}`;
    const again = () => this.openUser(name);
    const actions = fitsPath(name)
      ? element("p", { className: "buttons" }, button("Disconnect or ban…", () => this.disconnect(name, connections.length), "danger"))
      : element("p", { className: "quiet" }, "A browser cannot send this name in a path: close each connection here, or ban the user with curl --path-as-is.");
    const parts = [element("p", {}, button(name, again, "link"), ` is ${summary}.`), actions];
    if (!connections.length) return parts;
    const columns = [
      { title: "Connection", className: "mono", text: (each) => each.cid },
      { title: "Node", className: "mono", text: (each) => each.node },
      { title: "Since", text: (each) => clock(each.at) },
      { title: "Rooms", className: "wrap", fill: (cell, each) => this.fillRooms(cell, each.rooms) },
      { title: "", className: "right", fill: action("Close…", (each) => this.close(each.cid, name), (each) => `Close the connection ${each.cid}`) },
    ];
    return [...parts, listed(columns, connections, (each) => each.cid)];
  }

  fillRooms(cell, rooms) {
    if (rooms === undefined) cell.textContent = "not asked for";
    else if (rooms === null) cell.textContent = "its node does not answer";
    else if (!rooms.length) cell.textContent = "none";
    else cell.replaceChildren(...rooms.slice(0, PAGE).flatMap((room) => [button(room, () => this.openRoom(room), "link"), " "]));
  }

  openRoom(room) {
    return this.open(room, async () => {
      const [counts, page] = fitsPath(room) ? await Promise.all([call("GET", path("v1", "rooms", room)), this.page(room, null)]) : await askRoom(room);
      const summary = `${counts.areMore ? "At least " : ""}${plural(counts.count, "member")}, ${plural(counts.users, "user")}`;
      const members = page.members;
      const columns = [
        { title: "User", className: "wrap", fill: link((member) => member.user, (user) => this.openUser(user)) },
        { title: "Connection", className: "mono", text: (member) => member.cid },
        { title: "Since", text: (member) => clock(member.at) },
        { title: "State", className: "mono state-text", text: (member) => JSON.stringify(member.state) },
        fitsPath(room)
          ? { title: "", className: "right", fill: action("Remove…", (member) => this.remove(room, member), (member) => `Remove ${member.user} from ${room}`) }
          : { title: "", className: "right", fill: action("Close…", (member) => this.close(member.cid, member.user), (member) => `Close the connection ${member.cid}`) },
      ];
      const list = listed(columns, members, (member) => member.cid, "Nobody is in this room.");
      const more = button(`Show ${PAGE} more`, async () => {
        const following = await this.page(room, page.cursor);
        page.cursor = following.cursor;
        const known = new Set(members.map((member) => member.cid));
        members.push(...following.members.filter((member) => !known.has(member.cid)));
        list.table.show(members);
        more.hidden = !page.cursor;
      }, "");
      more.hidden = !page.cursor;
      return [element("p", {}, summary), list, element("p", {}, more)];
    });
  }

  page(room, cursor) {
    const query = new URLSearchParams({ limit: PAGE, ...(cursor && { cursor }) });
    return call("GET", `${path("v1", "rooms", room, "members")}?${query}`);
  }

  /** Show the panel with what `read` makes; what is opened meanwhile wins. */
  async open(title, read) {
    const number = (this.shown += 1);
    byId("panel-title").textContent = title;
    const body = byId("panel-body");
    body.replaceChildren(element("p", { className: "quiet" }, "Asking…"));
    if (!this.panel.open) this.panel.showModal();
    let parts;
    try {
      parts = await read();
    } catch (error) {
      parts = [element("p", { className: "problem", role: "alert" }, error.message)];
    }
    if (number === this.shown) {
      this.again = () => this.open(title, read);
      body.replaceChildren(...parts);
    }
  }

  async disconnect(user, connections) {
    const text = connections ? `Ends ${plural(connections, "connection")}, on whichever node.` : "There is no connection at present.";
    const ban = await confirm(`Disconnect ${user}?`, text, "Disconnect", { asksBan: true });
    if (ban === null) return;
    const body = ban ? { ban_ms: Number(ban) } : {};
    await carryOut(
      () => call("POST", path("v1", "users", user, "disconnect"), body),
      ({ disconnected }) => `${user}: ${plural(disconnected, "connection")} closed${ban ? `, banned for ${duration(Number(ban))}` : ""}`,
    );
    await this.changed();
  }

  async close(cid, user) {
    if ((await confirm(`Close the connection of ${user}?`, `${cid} ends at once; the user may connect again.`, "Close it")) === null) return;
    await carryOut(() => call("DELETE", path("v1", "connections", cid)), () => `The connection ${cid} is closed`);
    await this.changed();
  }

  async remove(room, { cid, user }) {
    const ban = await confirm(`Remove ${user} from ${room}?`, "The connection stays open.", "Remove", { asksBan: true });
    if (ban === null) return;
    const query = ban ? `?ban_ms=${ban}` : "";
    await carryOut(() => call("DELETE", path("v1", "rooms", room, "members", cid) + query), () => `${user} is out of ${room}${ban ? ` for ${duration(Number(ban))}` : ""}`);
    await this.changed();
  }

  async unblock({ rule, key }) {
    if ((await confirm(`Unblock ${key}?`, `What was counted under ${rule} is forgotten, and a block ends.`, "Unblock")) === null) return;
    await carryOut(() => call("POST", "v1/throttle/reset", { rule, key }), () => `${key} starts anew under ${rule}`);
  }

  async lift({ user, room }) {
    if ((await confirm(`Lift the ban of ${user}?`, `From ${room ?? "everything"}.`, "Lift it")) === null) return;
    const query = room === null ? "" : `?${new URLSearchParams({ room })}`;
    await carryOut(() => call("DELETE", path("v1", "bans", user) + query), () => `${user} may come back`);
    await this.changed();
  }

  async changed() {
    await Promise.all([this.panel.open ? this.again?.() : undefined, this.showBans()]);
  }

  async showBans() {
    try {
      const { bans } = await call("GET", `v1/bans?limit=${PAGE}`);
      const now = Date.now();
      this.bans.show(bans.map((ban) => ({ ...ban, now })));
    } catch {
      // The next round asks again; the header says what is wrong with the node.
    }
  }
}

/** Ask for a user's connections; for one whose name fits no path, without their rooms. */
async function askUser(user) {
  if (fitsPath(user)) return call("GET", path("v1", "users", user));
  const { users } = await call("POST", "v1/users/status", { users: [user] });
  return { user, ...users[user] };
}

/** Ask for the counts and the first members of a room whose name fits no path. */
async function askRoom(room) {
  const { rooms } = await call("POST", "v1/rooms/members", { rooms: [room], limit: PAGE });
  const { members, cursor } = rooms[room];
  const users = new Set(members.map((member) => member.user)).size;
  return [{ count: members.length, users, areMore: cursor !== null }, { members, cursor: null }];
}

/** Make a table of its own for the panel. */
function listed(columns, items, keyOf, empty = "None.") {
  const table = element("table");
  table.createTHead();
  table.createTBody();
  const rows = new Table(table, { columns, keyOf, empty });
  rows.show(items);
  return Object.assign(element("div", { className: "scroll" }, table), { table: rows });
}
