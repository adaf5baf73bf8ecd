#!lua
-- Decide for a tick's worth of keys at once. The rules are those of throttle/algorithms.py, line for line: an
-- algorithm is a file here, and decisions.lua asks it.
--
-- KEYS  one for each check, in the order of the decisions
-- ARGV  1 packed {rules, decisions}. A rule is a row of rule.py. A decision is {verb, cost, number of a rule, ...}, or
--         only a rule's number: a hit of cost 1, or {rule's number, how many}: so many of them. A hit of several rules
--         is charged to all of them or to none; the other verbs have one. For `block`, the cost is for how long, µs; for
--         `acquire`, `renew` and `release` it is the token of a slot.
--       2 text that no other call has
--       3 channel on which nodes hear what to forget
--       4 node that asks
-- Returns packed {now (µs), answers}; an answer is for each rule: allowed (1, 0), remaining, retry (µs), reset (µs),
--         blocked (1, 0), all in one list; or a text that says what is wrong with its key
--
-- An algorithm has look (would it be admitted?), hit (count it if it is), refund and block; the first two return those
-- five. Times are µs by TIME, which is asked once: on Redis 7.0 it moves while a script runs. Every key gets a TTL.
-- States are doubles packed into a string where that is enough: the formatting of numbers costs more than the command.
local BLOCKED = 4503599627370496
local TOLERANCE = 0.5
local REQUEST, PURGE_CHANNEL, NODE = ARGV[1], ARGV[3], ARGV[4]
local call, ceil, floor, max, min = redis.call, math.ceil, math.floor, math.max, math.min
local pack, unpack = struct.pack, struct.unpack

local clock = call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local function ms(us)
  return max(ceil(us / 1000), 1)
end

-- How long a window that begins now is: to the first of the calendar's boundaries that is ahead. Beyond those that are
-- given, periods are taken to have their nominal length.
local function length_by(boundaries, window)
  for _, boundary in ipairs(boundaries) do
    if boundary > now then
      return boundary - now
    end
  end
  return window - (now - boundaries[#boundaries]) % window
end

local function named(row)
  local rule = { algorithm = row[1], count = row[2], window = row[3], interval = row[4], block = row[5] }
  rule.length = row[6] and length_by(row[6], rule.window) or rule.window
  return rule
end
