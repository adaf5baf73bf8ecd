#!lua
-- Publish a message to the nodes that a user is on, each once.
-- KEYS  1 connections  HASH  cid -> 'node at noted incarnation epoch'
-- ARGV  1 prefix of node channels   2 suffix of node channels   3 the packed message
-- Returns to how many nodes it went.
local told, count = {}, 0
for _, entry in ipairs(redis.call('HVALS', KEYS[1])) do
  local node = string.match(entry, '^(%S*)')
  if not told[node] then
    told[node] = true
    count = count + redis.call('PUBLISH', ARGV[1] .. node .. ARGV[2], ARGV[3])
  end
end
return count
