#!lua
-- End the resume tokens of a connection id: no claim of it succeeds any more.
-- KEYS  1 claim    HASH  epoch, node, ended
-- ARGV  1 how long its tokens would be good, ms
-- Returns 1.
redis.call('HSET', KEYS[1], 'ended', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
