#!lua
-- Read names of rooms. A script, because a plain command would not run again after a script before it was forgotten.
-- KEYS  1 names  ZSET  room, all with the same score
-- ARGV  1 lowest   2 highest (as ZRANGEBYLEX has them)   3 how many
-- Returns the names.
return redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])
