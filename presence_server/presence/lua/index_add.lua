#!lua
-- Note that rooms may have members, and forget those that nobody has noted for long.
-- KEYS  1 names   ZSET  room, all with the same score: in the order of their names
--       2 leases  ZSET  room -> until when the note holds, ms by TIME
-- ARGV  1 lease, ms   2, 3, ... room
-- Returns how many are noted.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local function text(number)
  return string.format('%.0f', number)
end
for _, room in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now), 'LIMIT', 0, 100)) do
  redis.call('ZREM', KEYS[1], room)
  redis.call('ZREM', KEYS[2], room)
end
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 0, ARGV[i])
  redis.call('ZADD', KEYS[2], 'GT', text(now + tonumber(ARGV[1])), ARGV[i])
end
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
if last[2] then
  for i = 1, 2 do
    redis.call('PEXPIRE', KEYS[i], text(math.max(tonumber(last[2]) - now, 1)))
  end
end
return redis.call('ZCARD', KEYS[1])
