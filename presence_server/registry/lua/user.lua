#!lua
-- Read what is noted of a user. Whether a connection counts depends on its node, of which nothing is here.
-- KEYS  1 connections  HASH    cid -> 'node at noted incarnation epoch'
--       2 seen         STRING  when a connection last ended, ms by TIME
-- Returns {now, seen (0: never), cid, 'node at noted incarnation epoch', ...}.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local answer = redis.call('HGETALL', KEYS[1])
table.insert(answer, 1, tonumber(redis.call('GET', KEYS[2]) or 0))
table.insert(answer, 1, now)
return answer
