#!lua
-- Begin a session.
-- KEYS  1 session  HASH  version, data (JSON), ttl (ms)
-- ARGV  1 data   2 ttl, ms
-- Returns 1.
redis.call('HSET', KEYS[1], 'version', '1', 'data', ARGV[1], 'ttl', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
