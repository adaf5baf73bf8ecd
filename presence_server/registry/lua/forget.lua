#!lua
-- Forget where a connection is, unless another node has it by now.
-- KEYS  1 connection   STRING  'node incarnation epoch user'
-- ARGV  1 node
-- Returns 1 where it was here.
local entry = redis.call('GET', KEYS[1])
if entry and string.sub(entry, 1, #ARGV[1] + 1) == ARGV[1] .. ' ' then
  return redis.call('DEL', KEYS[1])
end
return 0
