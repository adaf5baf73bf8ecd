// Callers of rate-limiter-flexible on ioredis: node callers.js SOCKET [pipelined], that is, with its auto-pipelining.
// Of the commands of bench/peers/callers.py there is `saturate`.
import { createInterface } from "node:readline";
import { Redis } from "ioredis";
import { RateLimiterRedis } from "rate-limiter-flexible";

const KEYS = 1000;
const client = new Redis({ path: process.argv[2], enableAutoPipelining: process.argv[3] === "pipelined" });
const limiter = new RateLimiterRedis({ storeClient: client, points: 1000000000, duration: 3600 });

async function call(number, callers, untilMs, tookMs) {
  let before = performance.now();
  while (before < untilMs) {
    await limiter.consume(`key-${number % KEYS}`, 1);
    const now = performance.now();
    tookMs.push(now - before);
    before = now;
    number += callers;
  }
}

await limiter.consume("key-0", 1);
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const [, callers, seconds] = JSON.parse(line);
  const tookMs = [];
  const begun = performance.now();
  const untilMs = begun + seconds * 1000;
  await Promise.all(Array.from({ length: callers }, (_, i) => call(i, callers, untilMs, tookMs)));
  const lastedMs = performance.now() - begun;
  tookMs.sort((a, b) => a - b);
  const quantile = (part) => tookMs[Math.floor(tookMs.length * part)] * 1000;
  const found = { rate: (tookMs.length / lastedMs) * 1000, p50_us: quantile(0.5), p99_us: quantile(0.99), from_store: 1 };
  console.log(JSON.stringify(found));
}
client.disconnect();
