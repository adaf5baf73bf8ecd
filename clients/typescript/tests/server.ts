/** A real server process for a test. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { resolve } from "node:path";
import { createInterface } from "node:readline";
import { WebSocket as NodeWebSocket } from "ws";
import { expect } from "vitest";
import { type Client, connect, type ConnectOptions, PresenceError } from "../src/index.js";

const ROOT = `${resolve("../..")}/`; // tests run in the folder of the package
const PYTHON = process.env["PRESENCE_PYTHON"] ?? `${ROOT}.venv/bin/python`;
export const WebSocket = NodeWebSocket as unknown as typeof globalThis.WebSocket;

export class Server {
  #process: ChildProcess | null = null;
  #args: string[];
  port = 0;
  apiPort = 0;
  clients: Client[] = [];

  private constructor(args: string[]) {
    this.#args = args;
  }

  static async start(...args: string[]): Promise<Server> {
    const server = new Server(args);
    await server.start();
    return server;
  }

  /** Start it, on the port of before if it had one. */
  async start(): Promise<void> {
    const ports = ["--port", `${this.port}`, "--api-port", `${this.apiPort}`];
    // On a slow machine it is late, and must not shed newcomers and signals therefore.
    const args = ["-m", "presence_server", "serve", ...ports, "--limits.overload_ms", "60000", ...this.#args];
    const child = spawn(PYTHON, args, { cwd: ROOT, stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, PYTHONPATH: ROOT } });
    this.#process = child;
    for await (const line of createInterface({ input: child.stdout! })) {
      const ready = /^ready client=\S+:(\d+) api=\S+:(\d+)/.exec(line);
      if (ready === null) continue;
      [this.port, this.apiPort] = [Number(ready[1]), Number(ready[2])];
      return;
    }
    throw new Error(`the server ended with ${child.exitCode}`);
  }

  async signal(name: NodeJS.Signals): Promise<void> {
    const child = this.#process!;
    child.kill(name);
    if (name === "SIGKILL" || name === "SIGTERM") {
      if (child.exitCode === null && child.signalCode === null) await once(child, "exit");
      this.#process = null;
    }
  }

  client(user: string, options: ConnectOptions = {}): Client {
    const client = connect(`ws://127.0.0.1:${this.port}/ws`, { WebSocket, user, ...options });
    this.clients.push(client);
    return client;
  }

  async call(method: string, path: string, body?: unknown): Promise<Response> {
    return fetch(`http://127.0.0.1:${this.apiPort}${path}`, {
      method,
      ...(body !== undefined && { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
    });
  }

  closeClients(): void {
    for (const client of this.clients.splice(0)) client.close();
  }

  async stop(): Promise<void> {
    this.closeClients();
    if (this.#process !== null) {
      this.#process.kill("SIGCONT");
      await this.signal("SIGKILL");
    }
  }
}

/** Wait until a condition holds. */
export async function until(condition: () => unknown, deadlineMs = 90_000): Promise<void> {
  const begun = Date.now();
  while (!condition()) {
    if (Date.now() - begun > deadlineMs) throw new Error(`not within ${deadlineMs} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Return the code that a promise rejects with. */
export async function failure(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(() => null, (error: unknown) => error);
  expect(error).toBeInstanceOf(PresenceError);
  return (error as PresenceError).code;
}
