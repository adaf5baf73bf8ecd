#!lua
-- Read a session, which is a use of it.
-- KEYS  1 session  HASH  version, data (JSON), ttl (ms)
-- Returns {version, data}, or nil where there is none.
local found = redis.call('HMGET', KEYS[1], 'version', 'data', 'ttl')
if not found[1] then
  return nil
end
redis.call('PEXPIRE', KEYS[1], found[3])
return { found[1], found[2] }
