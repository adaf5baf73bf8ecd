#!lua
-- Note that a user has a connection on a node, and forget a few that nobody has noted for long.
-- KEYS  1 connections  HASH  cid -> 'node at noted incarnation epoch': since when, and when this was last said, ms by TIME
-- ARGV  1 cid   2 node   3 at, ms   4 lease, ms: what was noted longer ago no longer counts
--       5 how long it is remembered, ms: from it follows when the user was last seen
--       6 the node's incarnation   7 the connection's epoch
-- Returns 1; 0 where another node has a later life of the connection: two were made of it at the same time.
local LOOKED_AT = 4
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local entry = table.concat({ ARGV[2], ARGV[3], string.format('%.0f', now), ARGV[6], ARGV[7] }, ' ')
-- A user's first connection, as most are: the key had no TTL, so nothing else is in it.
if redis.call('HSETNX', KEYS[1], ARGV[1], entry) == 1 and redis.call('PEXPIRE', KEYS[1], ARGV[5], 'NX') == 1 then
  return 1
end
local some = redis.call('HRANDFIELD', KEYS[1], LOOKED_AT, 'WITHVALUES')
for i = 1, #some, 2 do
  local noted = tonumber(string.match(some[i + 1], '^%S* %S* (%d+)') or 0)
  if noted + tonumber(ARGV[4]) <= now then
    redis.call('HDEL', KEYS[1], some[i])
  end
end
local node, epoch = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^(%S*) .* (%d+)$')
if node and node ~= ARGV[2] and tonumber(epoch) > tonumber(ARGV[7]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], entry)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
