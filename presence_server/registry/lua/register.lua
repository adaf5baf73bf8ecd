#!lua
-- Say that a node is alive, forget those that are not, agree on the secret that all nodes share, and hear what
-- orders there were meanwhile.
-- KEYS  1 expiry   ZSET    node -> when its record ends, ms by TIME
--       2 records  HASH    node -> JSON
--       3 secret   STRING  what resume tokens are signed with
--       4 gone     ZSET    node that died -> when it was last heard of, ms
--       5 orders   STREAM  o: packed order
--       6 bans     ZSET    user -> until when, ms
-- ARGV  1 node   2 record   3 ttl, ms   4 the secret that this node would have; '': it needs none   5 secret's ttl, ms
--       6 a channel named like a room's, that nobody hears
--       7 the last order that this node knows; '': it begins, and wants to know who is banned
--       8 how long it is remembered who died, ms
-- Returns {now, secret, 1 where the node was known, last order, {{id, order}...}, {node, ms...}, {user, ms...}}.
--
-- Without the right to publish, a room's script would fail after its writes: so that is tried first.
redis.call('PUBLISH', ARGV[6], '')
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local ttl, kept = tonumber(ARGV[3]), tonumber(ARGV[8])
local function text(number)
  return string.format('%.0f', number)
end
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #dead, 2 do
  redis.call('ZREM', KEYS[1], dead[i])
  redis.call('HDEL', KEYS[2], dead[i])
  redis.call('ZADD', KEYS[4], text(tonumber(dead[i + 1]) - ttl), dead[i])
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', text(now - kept))
redis.call('ZADD', KEYS[1], text(now + ttl), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for i = 1, 2 do
  redis.call('PEXPIRE', KEYS[i], text(2 * ttl))
end
redis.call('PEXPIRE', KEYS[4], ARGV[8])
local secret = ''
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4], 'NX')
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
  secret = redis.call('GET', KEYS[3])
end
local orders, bans, last = {}, {}, ARGV[7]
local latest = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)[1]
if last == '' then
  bans = redis.call('ZRANGEBYSCORE', KEYS[6], '(' .. text(now), '+inf', 'WITHSCORES')
  last = latest and latest[1] or '0-0'
elseif latest then
  -- A stream that was wiped, on a clock that went back, may begin below what this node knows.
  local from = '(' .. last
  if tonumber(string.match(latest[1], '^%d+')) < tonumber(string.match(last, '^%d+')) then
    from = '-'
  end
  for _, entry in ipairs(redis.call('XRANGE', KEYS[5], from, '+', 'COUNT', 1000)) do
    orders[#orders + 1] = { entry[1], entry[2][2] }
    last = entry[1]
  end
end
local gone = redis.call('ZREVRANGE', KEYS[4], 0, 999, 'WITHSCORES')
return { now, secret, known, last, orders, gone, bans }
