#!lua
-- Say that a node is alive, forget those that are not, and agree on the secret that all nodes share.
-- KEYS  1 expiry   ZSET    node -> when its record ends, ms by TIME
--       2 records  HASH    node -> JSON
--       3 secret   STRING  what resume tokens are signed with
-- ARGV  1 node   2 record   3 ttl, ms   4 the secret that this node would have; '': it needs none   5 secret's ttl, ms
--       6 a channel named like a room's, that nobody hears
-- Returns {now, secret}.
--
-- Without the right to publish, a room's script would fail after its writes: so that is tried first.
redis.call('PUBLISH', ARGV[6], '')
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local function text(number)
  return string.format('%.0f', number)
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], node)
  redis.call('HDEL', KEYS[2], node)
end
redis.call('ZADD', KEYS[1], text(now + tonumber(ARGV[3])), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for i = 1, 2 do
  redis.call('PEXPIRE', KEYS[i], text(2 * tonumber(ARGV[3])))
end
local secret = ''
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4], 'NX')
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
  secret = redis.call('GET', KEYS[3])
end
return { now, secret }
