#!lua
-- Claim a connection id for a resumed connection, and tell the node that had it.
-- KEYS  1 claim    HASH  epoch, node, token (the epoch of the one that was brought),
--                         ended (1: the tokens of this id resume nothing any more)
-- ARGV  1 epoch of the token   2 claiming node   3 node of the token   4 ttl, ms
--       5 prefix of node channels   6 suffix of node channels   7 cid
--       8 epoch of the last claim, 0: there is none ('': whatever it is)
-- Returns the epoch claimed, above the token's and above every earlier claim; 0: the tokens of this id have ended;
-- -2: the last claim has another epoch than ARGV[8], and nothing is claimed.
local claimed = redis.call('HMGET', KEYS[1], 'epoch', 'node', 'ended')
if claimed[3] then
  return 0
end
if ARGV[8] ~= '' and tonumber(claimed[1] or 0) ~= tonumber(ARGV[8]) then
  return -2
end
local epoch = math.max(tonumber(claimed[1] or 0), tonumber(ARGV[1])) + 1
local before = claimed[2] or ARGV[3]
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch), 'node', ARGV[2], 'token', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
local news = cmsgpack.pack({ 'claimed', ARGV[7], epoch })
for _, node in ipairs({ before, ARGV[3] }) do
  if node ~= ARGV[2] then
    redis.call('PUBLISH', ARGV[5] .. node .. ARGV[6], news)
  end
end
return epoch
