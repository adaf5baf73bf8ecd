#!lua
-- Replace the policy, if it is at the version that the caller knows (0: there is none), and tell every node.
-- KEYS  1 policy  HASH  version, tag (random), document (JSON)
-- ARGV  1 version   2 the new version   3 tag   4 document   5 ttl, ms   6 the nodes' channel
-- Returns 1, or 0 where it is at another version.
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'tag', ARGV[3], 'document', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[6], ARGV[2])
return 1
