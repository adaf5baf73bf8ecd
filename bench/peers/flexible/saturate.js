// Decisions a second of rate-limiter-flexible on ioredis: node saturate.js SOCKET, then a line with seconds for each round.
import { createInterface } from "node:readline";
import { Redis } from "ioredis";
import { RateLimiterRedis } from "rate-limiter-flexible";

const CALLERS = 256;
const KEYS = 1000;
const client = new Redis({ path: process.argv[2] });
const limiter = new RateLimiterRedis({ storeClient: client, points: 1000000000, duration: 3600 });

async function call(from, untilMs, done) {
  for (let i = from; performance.now() < untilMs; i += CALLERS) {
    await limiter.consume(`key-${i % KEYS}`, 1);
    done();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  let decisions = 0;
  const begun = performance.now();
  const untilMs = begun + Number(line) * 1000;
  await Promise.all(Array.from({ length: CALLERS }, (_, i) => call(i, untilMs, () => decisions++)));
  console.log((decisions / (performance.now() - begun)) * 1000);
}
client.disconnect();
