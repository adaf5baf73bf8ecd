#!lua
-- Note that a user has a connection on a node.
-- KEYS  1 connections  HASH    cid -> 'node at'
-- ARGV  1 cid   2 node   3 at, ms   4 ttl, ms
-- Returns 1.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
