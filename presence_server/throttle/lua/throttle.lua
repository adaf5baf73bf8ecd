#!lua
-- Decide for a tick's worth of keys at once. The rules are those of throttle/algorithms.py, line for line.
--
-- KEYS  one for each check, in the order of the decisions
-- ARGV  1 packed {rules, decisions}. A rule is {algorithm, count, window (µs), interval (µs), block (µs)}. A decision
--         is {verb, cost, number of a rule, ...}, or only a rule's number: a hit of cost 1, or {rule's number, how many}:
--         so many of them. A hit of several rules is charged to all of them or to none; the other verbs have one. For
--         `block`, the cost is for how long, µs.
--       2 text that no other call has, for entries that must differ
--       3 channel on which nodes hear what to forget
--       4 node that asks
-- Returns packed {now (µs), answers}; an answer is for each rule: allowed (1, 0), remaining, retry (µs), reset (µs),
--         blocked (1, 0), all in one list; or a text that says what is wrong with its key
--
-- Times are µs by TIME, which is asked once: on Redis 7.0 it moves while a script runs. Every key gets a TTL, and one
-- that has none is given one.
local BLOCKED = 4503599627370496
local TOLERANCE, ROUNDING = 0.5, 1e-6

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local serial = 0

local function text(number)
  return string.format('%.0f', number)
end

local function expire(key, us)
  redis.call('PEXPIRE', key, text(math.max(math.ceil(us / 1000), 1)))
end

local fixed = {}

function fixed.look(key, rule, cost)
  local count = tonumber(redis.call('GET', key) or 0)
  if not count then
    error('not a number')
  end
  local ttl = count > 0 and redis.call('PTTL', key) or 0
  if ttl == -1 then
    ttl = rule[3] / 1000
    expire(key, rule[3])
  elseif ttl <= 0 and count > 0 then
    redis.call('DEL', key)
    count = 0
  end
  local reset = math.max(ttl, 0) * 1000
  local remaining = math.max(rule[2] - count, 0)
  if cost <= remaining then
    return 1, remaining, 0, reset, 0
  end
  return 0, remaining, reset, reset, count >= BLOCKED and 1 or 0
end

function fixed.charge(key, rule, cost, reset)
  redis.call('INCRBY', key, text(cost))
  if reset <= 0 then
    expire(key, rule[3])
  end
end

function fixed.refund(key, rule, cost)
  local count = tonumber(redis.call('GET', key) or 0)
  if count > 0 and count < BLOCKED then
    redis.call('DECRBY', key, text(math.min(cost, count)))
  end
end

function fixed.block(key, rule, us)
  redis.call('SET', key, text(BLOCKED), 'PX', text(math.max(math.ceil(us / 1000), 1)))
end

local sliding = {}

function sliding.look(key, rule, cost)
  local blocked = tonumber(redis.call('ZSCORE', key, 'blocked') or 0)
  if blocked > 0 and blocked <= now then
    redis.call('ZREM', key, 'blocked')
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now - rule[3]))
  local entries = redis.call('ZCARD', key) - (blocked > now and 1 or 0)
  local last = entries > 0 and redis.call('ZRANGE', key, entries - 1, entries - 1, 'WITHSCORES')
  local reset = math.max(last and tonumber(last[2]) + rule[3] - now or 0, blocked - now, 0)
  if entries > 0 and redis.call('PTTL', key) == -1 then
    expire(key, reset)
  end
  if blocked > now then
    return 0, 0, blocked - now, reset, 1
  end
  local remaining = rule[2] - entries
  if cost <= remaining then
    return 1, remaining, 0, reset, 0
  end
  local first = redis.call('ZRANGE', key, cost - remaining - 1, cost - remaining - 1, 'WITHSCORES')
  return 0, remaining, tonumber(first[2]) + rule[3] - now, reset, 0
end

function sliding.charge(key, rule, cost)
  for _ = 1, cost do
    serial = serial + 1
    redis.call('ZADD', key, text(now), ARGV[2] .. ':' .. serial)
  end
  if cost > 0 then
    expire(key, rule[3])
  end
end

function sliding.refund(key, rule, cost)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now - rule[3]))
  local blocked = redis.call('ZSCORE', key, 'blocked')
  local entries = redis.call('ZCARD', key) - (blocked and 1 or 0)
  if entries > 0 then
    redis.call('ZREMRANGEBYRANK', key, math.max(entries - cost, 0), entries - 1)
  end
end

function sliding.block(key, rule, us)
  redis.call('ZADD', key, text(now + us), 'blocked')
  expire(key, math.max(us, rule[3]))
end

local counter = {}

local function windows(key, rule)
  local kept = redis.call('HMGET', key, 'number', 'count', 'before', 'blocked')
  local number = math.floor(now / rule[3])
  local count, before, blocked = 0, 0, tonumber(kept[4] or 0)
  if tonumber(kept[1] or -2) == number then
    count, before = tonumber(kept[2]), tonumber(kept[3])
  elseif tonumber(kept[1] or -2) == number - 1 then
    before = tonumber(kept[2])
  end
  return number, count, before, blocked, kept[1] or kept[4]
end

local function keep_windows(key, rule, number, count, before, blocked)
  redis.call('HSET', key, 'number', text(number), 'count', text(count), 'before', text(before), 'blocked', text(blocked))
  expire(key, math.max((number + 2) * rule[3], blocked) - now)
end

function counter.look(key, rule, cost)
  local number, count, before, blocked, exists = windows(key, rule)
  local limit, window = rule[2], rule[3]
  local into = now - number * window
  if exists and redis.call('PTTL', key) == -1 then
    keep_windows(key, rule, number, count, before, blocked)
  end
  local used = before * (window - into) / window + count
  local remaining = math.max(math.floor(limit - used), 0)
  local reset = count > 0 and 2 * window - into or before > 0 and window - into or 0
  if blocked > now then
    return 0, 0, blocked - now, math.max(reset, blocked - now), 1
  end
  if used + cost <= limit then
    return 1, remaining, 0, reset, 0
  end
  if count + cost <= limit then
    return 0, remaining, math.max(math.ceil(window - (limit - cost - count) * window / before) - into, 1), reset, 0
  end
  return 0, remaining, math.max(math.ceil(window - (limit - cost) * window / count), 0) + window - into, reset, 0
end

function counter.charge(key, rule, cost)
  local number, count, before, blocked = windows(key, rule)
  keep_windows(key, rule, number, count + cost, before, blocked)
end

function counter.refund(key, rule, cost)
  local number, count, before, blocked, exists = windows(key, rule)
  if exists then
    keep_windows(key, rule, number, math.max(count - cost, 0), before, blocked)
  end
end

function counter.block(key, rule, us)
  local number, count, before = windows(key, rule)
  keep_windows(key, rule, number, count, before, now + us)
end

local bucket = {}

local function fill(key)
  local kept = redis.call('HMGET', key, 'full', 'blocked')
  return tonumber(kept[1] or now), tonumber(kept[2] or 0), kept[1]
end

local function keep_fill(key, full, blocked)
  redis.call('HSET', key, 'full', string.format('%.17g', full), 'blocked', text(blocked))
  expire(key, math.max(full, blocked) - now)
end

function bucket.look(key, rule, cost)
  local full, blocked, exists = fill(key)
  if exists and redis.call('PTTL', key) == -1 then
    keep_fill(key, full, blocked)
  end
  full = math.max(full, now)
  local capacity = rule[2] * rule[4]
  local remaining = math.max(math.floor((capacity - (full - now)) / rule[4] + ROUNDING), 0)
  local reset = math.ceil(full - now)
  if blocked > now then
    return 0, 0, blocked - now, math.max(reset, blocked - now), 1
  end
  local over = full - now + cost * rule[4] - capacity
  if over <= TOLERANCE then
    return 1, remaining, 0, reset, 0
  end
  return 0, remaining, math.ceil(over), reset, 0
end

function bucket.charge(key, rule, cost)
  local full, blocked = fill(key)
  keep_fill(key, math.max(full, now) + cost * rule[4], blocked)
end

function bucket.refund(key, rule, cost)
  local full, blocked, exists = fill(key)
  if exists then
    keep_fill(key, math.max(full - cost * rule[4], now), blocked)
  end
end

function bucket.block(key, rule, us)
  local full = fill(key)
  keep_fill(key, full, now + us)
end

local COUNTING = { fixed = fixed, sliding = sliding, counter = counter, bucket = bucket }
local at = 0

local function hit(cost, checks)
  local looks, allowed, said = {}, true, {}
  for i, rule in ipairs(checks) do
    looks[i] = { COUNTING[rule[1]].look(KEYS[at + i], rule, cost) }
    allowed = allowed and looks[i][1] == 1
  end
  for i, rule in ipairs(checks) do
    local counting, key, look = COUNTING[rule[1]], KEYS[at + i], looks[i]
    if allowed then
      counting.charge(key, rule, cost, look[4])
      look = { counting.look(key, rule, 0) }
    elseif look[1] == 0 and look[5] == 0 and rule[5] > 0 then
      local us = math.max(rule[5], look[3])
      counting.block(key, rule, us)
      look = { 0, 0, us, math.max(look[4], us), 1 }
    end
    for _, number in ipairs(look) do
      said[#said + 1] = number
    end
  end
  return said
end

-- The usual case: one rule, cost 1.
local function hit_once(rule)
  local counting, key = COUNTING[rule[1]], KEYS[at + 1]
  local allowed, remaining, retry, reset, blocked = counting.look(key, rule, 1)
  if allowed == 0 then
    return rule[5] > 0 and hit(1, { rule }) or { 0, remaining, retry, reset, blocked }
  end
  counting.charge(key, rule, 1, reset)
  if rule[1] == 'fixed' then
    return { 1, remaining - 1, 0, reset > 0 and reset or rule[3], 0 }
  end
  return { counting.look(key, rule, 0) }
end

-- Several hits of one rule, cost 1 each: admits as many as fit. Answers {admitted, remaining, reset} after them, then what
-- hit_once answers to the rest, if any.
local function hit_times(rule, times)
  local counting, key = COUNTING[rule[1]], KEYS[at + 1]
  local allowed, remaining, _, reset = counting.look(key, rule, 1)
  local admitted = allowed == 1 and math.min(times, remaining) or 0
  if admitted > 0 then
    counting.charge(key, rule, admitted, reset)
    _, remaining, _, reset = counting.look(key, rule, 0)
  end
  local said = { admitted, remaining, reset }
  if admitted < times then
    for i, number in ipairs(hit_once(rule)) do
      said[3 + i] = number
    end
  end
  return said
end

-- What is held at a time: a HASH of node -> packed {how many, until}. `lease` is refused where too many would be held;
-- `keep` only says how many this node holds.
local function lease(verb, held, rule)
  local key, total = KEYS[at + 1], 0
  local kept = redis.call('HGETALL', key)
  for i = 1, #kept, 2 do
    local node = cmsgpack.unpack(kept[i + 1])
    if node[2] <= now then
      redis.call('HDEL', key, kept[i])
    elseif kept[i] ~= ARGV[4] then
      total = total + node[1]
    end
  end
  if verb == 'lease' and total + held > rule[2] then
    return { 0, math.max(rule[2] - total, 0), 0, 0, 0 }
  end
  if held > 0 then
    redis.call('HSET', key, ARGV[4], cmsgpack.pack({ held, now + rule[3] }))
    expire(key, rule[3])
  else
    redis.call('HDEL', key, ARGV[4])
  end
  return { 1, math.max(rule[2] - total - held, 0), 0, 0, 0 }
end

local function change(verb, cost, rule)
  if verb == 'lease' or verb == 'keep' then
    return lease(verb, cost, rule)
  end
  local key, counting = KEYS[at + 1], COUNTING[rule[1]]
  if verb == 'peek' then
    return { counting.look(key, rule, cost) }
  elseif verb == 'block' then
    counting.block(key, rule, cost)
  elseif verb == 'refund' then
    counting.refund(key, rule, cost)
  elseif verb == 'reset' then
    redis.call('DEL', key)
  end
  redis.call('PUBLISH', ARGV[3], key)
  return { counting.look(key, rule, 1) }
end

local request = cmsgpack.unpack(ARGV[1])
local rules, answers = request[1], {}
for i, decision in ipairs(request[2]) do
  local fine, answer
  local keys = 1
  if type(decision) == 'number' then
    fine, answer = pcall(hit_once, rules[decision])
  elseif type(decision[1]) == 'number' then
    fine, answer = pcall(hit_times, rules[decision[1]], decision[2])
  elseif decision[1] == 'hit' then
    local checks = {}
    keys = #decision - 2
    for j = 1, keys do
      checks[j] = rules[decision[j + 2]]
    end
    fine, answer = pcall(hit, decision[2], checks)
  else
    fine, answer = pcall(change, decision[1], decision[2], rules[decision[3]])
  end
  answers[i] = fine and answer or tostring(type(answer) == 'table' and answer.err or answer)
  at = at + keys
end
return cmsgpack.pack({ now, answers })
