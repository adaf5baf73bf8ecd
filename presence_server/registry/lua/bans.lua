#!lua
-- Read a page of the bans in force, the one that ends next first.
-- KEYS  1 bans  ZSET  user, or user, a line end and room -> until when, ms
-- ARGV  1 the end, ms, and 2 the name of the last page's last ban; 0 and ''   3 how many
-- Returns {name, until, ...}: where the last ban is gone some may come twice, and none is left out.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local from = redis.call('ZCOUNT', KEYS[1], '-inf', string.format('%.0f', now))
if ARGV[2] ~= '' then
  local score = redis.call('ZSCORE', KEYS[1], ARGV[2])
  if score and tonumber(score) == tonumber(ARGV[1]) then
    from = math.max(from, redis.call('ZRANK', KEYS[1], ARGV[2]) + 1)
  else
    from = math.max(from, redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[1]))
  end
end
return redis.call('ZRANGE', KEYS[1], from, from + tonumber(ARGV[3]) - 1, 'WITHSCORES')
