#!lua
-- Say that a node is alive, forget those that are not, agree on the secret that all nodes share, and hear what
-- commands there were meanwhile.
-- KEYS  1 expiry   ZSET    node -> when its record ends, ms by TIME
--       2 records  HASH    node -> JSON
--       3 secret   STRING  what resume tokens are signed with
--       4 gone     ZSET    node that died -> when it was last heard of, ms
--       5 incarnations  HASH  node -> the least of its incarnations of which counts what it noted
--       6 commands   STREAM  o: packed command
--       7 bans     ZSET    user -> until when, ms
-- ARGV  1 node   2 record   3 ttl, ms   4 the secret that this node would have; '': it needs none   5 secret's ttl, ms
--       6 a channel named like a room's, that nobody hears
--       7 the last command that this node knows; '': it begins, and wants to know who is banned
--       8 how long it is remembered who died, ms
--       9 when the call was sent, ms by TIME as its node believed it to be; 0: it does not know TIME yet
--      10 ms of way after which a call is late: the store was frozen or its clock stepped forward, so nobody is dead yet
--      11 the least of the node's incarnations that counts
-- Returns {now, secret, 1 where the node was known, last command, {{id, command}...}, {user, ms...}, heard}; `heard` is when
-- one of the other nodes was last heard of, told to a node that does not know TIME yet; 0: there are none.
--
-- Without the right to publish, a room's script would fail after its writes: so that is tried first.
redis.call('PUBLISH', ARGV[6], '')
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local ttl, kept = tonumber(ARGV[3]), tonumber(ARGV[8])
local sent, late = tonumber(ARGV[9]), tonumber(ARGV[10])
local GONE_MAX = 10000
local function text(number)
  return string.format('%.0f', number)
end
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #dead, 2 do
  if sent > 0 and now - sent > late then
    redis.call('ZADD', KEYS[1], text(now + ttl), dead[i])
  else
    redis.call('ZREM', KEYS[1], dead[i])
    redis.call('HDEL', KEYS[2], dead[i])
    redis.call('HDEL', KEYS[5], dead[i])
    redis.call('ZADD', KEYS[4], text(tonumber(dead[i + 1]) - ttl), dead[i])
  end
end
-- Who is to end later than a node that registers now did so before the clock stepped back.
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. text(now + ttl), '+inf', 'LIMIT', 0, 100)) do
  redis.call('ZADD', KEYS[1], text(now + ttl), node)
end
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
local heard = 0
if sent == 0 then
  for key, back in pairs({ [KEYS[1]] = ttl, [KEYS[4]] = 0 }) do
    local latest = redis.call('ZREVRANGE', key, 0, 1, 'WITHSCORES')
    for i = 1, #latest, 2 do
      if latest[i] ~= ARGV[1] then
        heard = math.max(heard, tonumber(latest[i + 1]) - back)
      end
    end
  end
end
redis.call('ZREM', KEYS[4], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', text(now - kept))
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -GONE_MAX - 1)
redis.call('ZADD', KEYS[1], text(now + ttl), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[5], ARGV[1], ARGV[11])
-- They outlive the nodes, so that whoever comes after all have died learns when that was.
for _, key in ipairs({ KEYS[1], KEYS[2], KEYS[4], KEYS[5] }) do
  redis.call('PEXPIRE', key, text(kept + ttl))
end
local secret = ''
if ARGV[4] ~= '' then
  redis.call('SET', KEYS[3], ARGV[4], 'NX')
  redis.call('PEXPIRE', KEYS[3], ARGV[5])
  secret = redis.call('GET', KEYS[3])
end
local commands, bans, last = {}, {}, ARGV[7]
local latest = redis.call('XREVRANGE', KEYS[6], '+', '-', 'COUNT', 1)[1]
if last == '' then
  bans = redis.call('ZRANGEBYSCORE', KEYS[7], '(' .. text(now), '+inf', 'WITHSCORES')
  last = latest and latest[1] or '0-0'
elseif latest then
  -- A stream that was wiped, on a clock that went back, may begin below what this node knows.
  local from = '(' .. last
  if tonumber(string.match(latest[1], '^%d+')) < tonumber(string.match(last, '^%d+')) then
    from = '-'
  end
  for _, entry in ipairs(redis.call('XRANGE', KEYS[6], from, '+', 'COUNT', 1000)) do
    commands[#commands + 1] = { entry[1], entry[2][2] }
    last = entry[1]
  end
end
return { now, secret, known, last, commands, bans, heard }
