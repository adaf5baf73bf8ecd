#!lua
-- Replace what a session says, if it is at the version that the caller knows.
-- KEYS  1 session  HASH  version, data (JSON), ttl (ms)
-- ARGV  1 version   2 data   3 ttl, ms
-- Returns {1, the new version}; {0, the present version} where that is another; nil where there is no session.
local found = redis.call('HMGET', KEYS[1], 'version', 'ttl')
if not found[1] then
  return nil
end
if found[1] ~= ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], found[2])
  return { 0, found[1] }
end
local version = redis.call('HINCRBY', KEYS[1], 'version', 1)
redis.call('HSET', KEYS[1], 'data', ARGV[2], 'ttl', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return { 1, version }
