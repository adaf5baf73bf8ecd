#!lua
-- Note that a user has a connection on a node.
-- KEYS  1 connections  HASH    cid -> 'node at'
--       2 connection   STRING  'node user'
-- ARGV  1 cid   2 node   3 at, ms   4 ttl, ms   5 user
-- Returns 1.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[2] .. ' ' .. ARGV[5], 'PX', ARGV[4])
return 1
