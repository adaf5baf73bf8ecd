#!lua
-- Note on which node a connection is, unless another node has a later life of it.
-- KEYS  1 connection   STRING  'node incarnation epoch user'
-- ARGV  1 node   2 the node's incarnation   3 the connection's epoch   4 user   5 lease, ms
-- Returns 1 where it is here.
local node, epoch = string.match(redis.call('GET', KEYS[1]) or '', '^(%S*) %d+ (%d+) ')
if node and node ~= ARGV[1] and tonumber(epoch) > tonumber(ARGV[3]) then
  return 0
end
redis.call('SET', KEYS[1], table.concat({ ARGV[1], ARGV[2], ARGV[3], ARGV[4] }, ' '), 'PX', ARGV[5])
return 1
