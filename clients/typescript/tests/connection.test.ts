/** The connection of a client, against real servers: lost, refused, resumed, renewed. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { type Room, type Status, StopError } from "../src/index.js";
import { Server, until, WebSocket } from "./server.js";

let shared: Server;
let lobby: string;
let number = 0;
const servers: Server[] = [];
beforeAll(async () => {
  shared = await Server.start();
});
beforeEach(() => {
  lobby = `lobby-${(number += 1)}`;
});
afterEach(async () => {
  shared.closeClients();
  for (const server of servers.splice(0)) await server.stop();
});
afterAll(() => shared.stop());
/** A server of the test's own, to be broken or with settings of its own. */
async function start(...args: string[]): Promise<Server> {
  const server = await Server.start(...args);
  servers.push(server);
  return server;
}
const users = (room: Room) => room.users.map(({ user }) => user).sort();

describe("the connection", () => {
  it("comes back under its cid, and nobody hears of it", async () => {
    const server = shared;
    const watcher = server.client("bob").watch(lobby);
    await watcher.ready;
    const sockets: globalThis.WebSocket[] = [];
    class Seen extends WebSocket {
      constructor(url: string | URL, protocols?: string | string[]) {
        super(url, protocols);
        sockets.push(this);
      }
    }
    const client = server.client("ann", { WebSocket: Seen });
    const room = client.join(lobby);
    await room.ready;
    await until(() => watcher.count === 1);
    const heard: string[] = [];
    for (const type of ["join", "leave"] as const) watcher.on(type, () => heard.push(type));
    const cid = client.cid;
    (sockets[0] as unknown as { terminate(): void }).terminate();
    await until(() => sockets.length === 2 && !room.stale);
    expect([client.cid, client.status]).toMatchObject([cid, { state: "connected", resumed: true }]);
    await room.publish("here");
    expect(heard).toEqual([]);
  });

  it("that is dead is noticed, though nothing closes it", async () => {
    const server = await start("--presence.ping_ms", "500");
    const client = server.client("ann");
    const room = client.join(lobby);
    await room.ready;
    await server.signal("SIGSTOP");
    await until(() => client.status.state !== "connected");
    expect(room.stale).toBe(true);
    await server.signal("SIGCONT");
    await until(() => !room.stale);
  });

  it("that is idle stays", async () => {
    const server = await start("--presence.ping_ms", "200");
    const client = server.client("ann");
    await client.connected();
    const states: Status[] = [];
    client.on("status", (status) => states.push(status));
    await new Promise((resolve) => setTimeout(resolve, 2_000));
    expect(states).toEqual([]);
  });

  it("says why it stopped where the server refuses it, and does not ask again", async () => {
    const server = await start("--auth.mode", "jwt", "--auth.secret", "x".repeat(32));
    const client = server.client("ann", { token: "nonsense" });
    await until(() => client.status.state === "stopped");
    expect(client.status).toMatchObject({ state: "stopped", code: 4001 });
    expect((client.status as { reason: string }).reason).not.toBe("");
  });

  it("asks once for another token after 4001, and stops where getToken says so", async () => {
    const server = await start("--auth.mode", "jwt", "--auth.secret", "x".repeat(32));
    let asked = 0;
    const client = server.client("ann", { getToken: () => `nonsense ${(asked += 1)}`.replace(" ", "") });
    await until(() => client.status.state === "stopped");
    expect([asked, client.status]).toMatchObject([2, { code: 4001 }]);
    const another = server.client("ann", {
      getToken: () => {
        throw new StopError("logged out");
      },
    });
    await until(() => another.status.state === "stopped");
    expect(another.status).toMatchObject({ code: 4001, reason: "logged out" });
  });

  it("asks again for a token where it could not be had", async () => {
    const server = shared;
    let asked = 0;
    const client = server.client("ann", {
      getToken: async () => {
        asked += 1;
        if (asked < 3) throw new Error("502");
        return "any";
      },
    });
    const errors: string[] = [];
    client.on("error", ({ message }) => errors.push(message));
    await client.connected();
    expect(errors).toEqual(["502", "502"]);
  });

  it("is closed by a backend for good", async () => {
    const server = shared;
    const client = server.client("ann");
    const room = client.join(lobby);
    await room.ready;
    await server.call("POST", "/v1/users/ann/disconnect", {});
    await until(() => client.status.state === "stopped");
    expect(client.status).toMatchObject({ code: 4003 });
    expect(room.isEntered).toBe(false);
  });

  it("goes on where a backend takes it out of one room", async () => {
    const server = shared;
    const client = server.client("ann");
    const [hall, attic] = [client.join(lobby), client.join("attic")];
    await Promise.all([hall.ready, attic.ready]);
    const removed: string[] = [];
    hall.on("removed", (reason) => removed.push(reason));
    await server.call("DELETE", `/v1/rooms/${lobby}/members/${client.cid}`);
    await until(() => removed.length === 1);
    expect([removed, hall.isEntered, client.status.state]).toEqual([["kicked"], false, "connected"]);
    await attic.publish("still here");
    await hall.join().ready;
    expect(hall.count).toBe(1);
  });

  it("takes a restart of the server as one difference, without joins of those who stayed", async () => {
    const server = await start();
    const clients = ["ann", "bob", "eve"].map((user) => server.client(user));
    const rooms = clients.map((client) => client.join(lobby));
    await until(() => rooms.every((room) => users(room).length === 3));
    const heard: string[] = [];
    for (const room of rooms) for (const type of ["join", "leave"] as const) room.on(type, ({ user }) => heard.push(`${type} ${user}`));
    await server.signal("SIGKILL");
    await until(() => clients.every(({ status }) => status.state === "waiting"));
    await server.start();
    // The server waits 500 ms for the next one that comes back: all at once, whatever their backoff is.
    for (const client of clients) client.reconnect();
    await until(() => rooms.every((room) => !room.stale && users(room).length === 3), 45_000);
    expect(heard).toEqual([]);
  });
});
