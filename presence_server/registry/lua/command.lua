#!lua
-- Write a command down for nodes that are away, and publish it for all others; a ban is one step with it.
-- KEYS  1 commands  STREAM  o: packed command
--       2 bans    ZSET    user, or user, a line end and room -> until when, ms
-- ARGV  1 packed command   2 how long it is kept, ms   3 how many are kept   4 the channel of all nodes
--       5 a name in bans, where the command bans or lifts a ban; ''   6 until when, ms   7 how many bans there may be
-- Returns {the command's id ('': one ban too many, and nothing was done), 1 where that ban held before}.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local function text(number)
  return string.format('%.0f', number)
end
local held = 0
if ARGV[5] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now))
  held = redis.call('ZSCORE', KEYS[2], ARGV[5]) and 1 or 0
  if tonumber(ARGV[6]) <= now then
    redis.call('ZREM', KEYS[2], ARGV[5])
  elseif held == 0 and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[7]) then
    return { '', 0 }
  else
    redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
  end
  local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  if last[2] then
    redis.call('PEXPIRE', KEYS[2], text(tonumber(last[2]) - now))
  end
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[3], '*', 'o', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[4], id .. ' ' .. ARGV[1])
return { id, held }
