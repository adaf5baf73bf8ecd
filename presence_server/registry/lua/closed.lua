#!lua
-- Note that a connection of a user has ended, unless another node has it by now.
-- KEYS  1 connections  HASH    cid -> 'node at noted incarnation epoch'
--       2 seen         STRING  when a connection last ended, ms by TIME
-- ARGV  1 cid   2 node   3 how long it is remembered, ms
-- Returns 1 where there was such a connection.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
redis.call('SET', KEYS[2], string.format('%.0f', now), 'PX', ARGV[3])
local entry = redis.call('HGET', KEYS[1], ARGV[1])
if entry and string.sub(entry, 1, #ARGV[2] + 1) == ARGV[2] .. ' ' then
  return redis.call('HDEL', KEYS[1], ARGV[1])
end
return 0
