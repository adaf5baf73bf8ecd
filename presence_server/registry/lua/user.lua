#!lua
-- Read where a user is, and forget connections of nodes that have died.
-- KEYS  1 connections  HASH    cid -> 'node at'
--       2 seen         STRING  when a connection last ended, ms by TIME
-- ARGV  1 how long it is remembered, ms   2, 3, ... node that died, when it was last heard of
-- Returns {now, seen (0: never), cid, 'node at', ...}.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local entries = redis.call('HGETALL', KEYS[1])
local seen = tonumber(redis.call('GET', KEYS[2]) or 0)
local answer, gone, before = { now, 0 }, {}, seen
for i = 2, #ARGV, 2 do
  gone[ARGV[i]] = tonumber(ARGV[i + 1])
end
for i = 1, #entries, 2 do
  local heard = gone[string.match(entries[i + 1], '^(%S*)')]
  if heard then
    redis.call('HDEL', KEYS[1], entries[i])
    seen = math.max(seen, heard)
  else
    answer[#answer + 1] = entries[i]
    answer[#answer + 1] = entries[i + 1]
  end
end
if seen > before and seen + tonumber(ARGV[1]) > now then
  local left = seen + tonumber(ARGV[1]) - now
  redis.call('SET', KEYS[2], string.format('%.0f', seen), 'PX', string.format('%.0f', left))
end
answer[2] = seen
return answer
