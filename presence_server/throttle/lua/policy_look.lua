#!lua
-- Read the policy if it is another than the caller knows, and keep it from ending.
-- KEYS  1 policy  HASH  version, tag (random), document (JSON)
-- ARGV  1 version   2 tag   3 ttl, ms
-- Returns {version, tag} where the caller knows it, {version, tag, document} where not, {'0', ''} where there is none.
local found = redis.call('HMGET', KEYS[1], 'version', 'tag')
if not found[1] then
  return { '0', '' }
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if found[1] == ARGV[1] and found[2] == ARGV[2] then
  return { found[1], found[2] }
end
return { found[1], found[2], redis.call('HGET', KEYS[1], 'document') }
