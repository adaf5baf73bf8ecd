-- What is held at a time, by token: a ZSET of token -> until when. See throttle/concurrency.py.
local slots = {}

local function until_of(key, rank)
  return tonumber(call('ZRANGE', key, rank, rank, 'WITHSCORES')[2] or now)
end

function slots.look(key, rule, cost)
  call('ZREMRANGEBYSCORE', key, '-inf', now)
  local held = call('ZCARD', key)
  local remaining = max(rule.count - held, 0)
  local reset = until_of(key, -1) - now
  if cost <= remaining then
    return 1, remaining, 0, reset, 0
  end
  return 0, remaining, until_of(key, held - rule.count + cost - 1) - now, reset, 0
end

local function hold_slot(key, rule, token)
  call('ZADD', key, now + rule.window, token)
  local reset = until_of(key, -1) - now
  call('PEXPIRE', key, ms(reset))
  return 1, max(rule.count - call('ZCARD', key), 0), 0, reset, 0
end

function slots.acquire(key, rule, token)
  call('ZREMRANGEBYSCORE', key, '-inf', now)
  if not call('ZSCORE', key, token) and call('ZCARD', key) >= rule.count then
    return slots.look(key, rule, 1)
  end
  return hold_slot(key, rule, token)
end

-- Refused where the token has no slot any more, even if others are free.
function slots.renew(key, rule, token)
  call('ZREMRANGEBYSCORE', key, '-inf', now)
  if not call('ZSCORE', key, token) then
    local _, remaining, retry, reset = slots.look(key, rule, 1)
    return 0, remaining, retry, reset, 0
  end
  return hold_slot(key, rule, token)
end

function slots.release(key, rule, token)
  call('ZREM', key, token)
  return slots.look(key, rule, 1)
end
