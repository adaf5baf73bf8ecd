-- A list: what had been counted before the first hit that is kept; then for each hit its time, and what had been counted
-- with it. `bTIME` before all that is a block until then; while there is one, nothing is counted or forgotten.
local sliding = {}
local BLOCK = string.byte('b')
local TIME, TOTAL = 1, 0

-- The first of n hits whose time or total is at least so much, or n + 1. Most often it is one of the first.
local function first_with(key, part, least, n)
  local low, high, step = 1, 1, 1
  while high <= n and tonumber(call('LINDEX', key, 2 * high - part)) < least do
    low, high, step = high + 1, high + step, 2 * step
  end
  high = min(high, n + 1)
  while low < high do
    local middle = floor((low + high) / 2)
    if tonumber(call('LINDEX', key, 2 * middle - part)) < least then
      low = middle + 1
    else
      high = middle
    end
  end
  return low
end

local function hits(key)
  return (call('LLEN', key) - 1) / 2
end

-- What was counted before the first hit (or a block), that hit's time, and what was counted with it.
local function head(key)
  local found = call('LRANGE', key, 0, 2)
  return found[1], found[2], found[3]
end

-- What is blocked until when, what was counted before the first hit in sight, and with it; and that hit's time.
local function open(key, rule)
  local before, time, with_first = head(key)
  if before and string.byte(before) == BLOCK then
    local blocked = tonumber(string.sub(before, 2))
    if blocked > now then
      return blocked
    end
    call('LPOP', key)
    before, time, with_first = head(key)
  end
  if before and tonumber(time) <= now - rule.window then
    local n = hits(key)
    local i = first_with(key, TIME, now - rule.window + 1, n)
    if i > n then
      call('DEL', key)
      return 0
    end
    call('LTRIM', key, 2 * (i - 1), -1)
    before, time, with_first = head(key)
  end
  return 0, tonumber(before), tonumber(with_first), tonumber(time)
end

local function newest(key, rule)
  local time = tonumber(call('LINDEX', key, -2) or 0)
  return max(time and time + rule.window - now or 0, 0)
end

-- The verdict of look, and what has been counted: nil where nothing has.
local function look(key, rule, cost)
  local blocked, before, with_first, oldest = open(key, rule)
  if blocked > 0 then
    return nil, 0, 0, blocked - now, max(newest(key, rule), blocked - now), 1
  end
  if not before then
    return nil, cost <= rule.count and 1 or 0, rule.count, 0, 0, 0
  end
  local total = tonumber(call('LINDEX', key, -1))
  local remaining = rule.count - (total - before)
  if cost <= remaining then
    return total, 1, remaining, 0, nil, 0
  end
  -- As many as are missing go out of sight with this one.
  local least = before + cost - remaining
  if with_first < least then
    oldest = tonumber(call('LINDEX', key, 2 * first_with(key, TOTAL, least, hits(key)) - TIME))
  end
  return total, 0, max(remaining, 0), oldest + rule.window - now, newest(key, rule), 0
end

function sliding.look(key, rule, cost)
  local _, allowed, remaining, retry, reset, blocked = look(key, rule, cost)
  return allowed, remaining, retry, reset or newest(key, rule), blocked
end

function sliding.hit(key, rule, cost)
  local total, allowed, remaining, retry, reset, blocked = look(key, rule, cost)
  if allowed == 0 then
    return allowed, remaining, retry, reset, blocked
  end
  if total then
    call('RPUSH', key, now, total + cost)
  else
    call('RPUSH', key, 0, now, cost)
  end
  call('PEXPIRE', key, ms(rule.window))
  return 1, remaining - cost, 0, rule.window, 0
end

-- The newest go.
function sliding.refund(key, rule, cost)
  local blocked, before = open(key, rule)
  if blocked > 0 then
    call('LPOP', key)
    before = tonumber(call('LINDEX', key, 0) or nil)
  end
  if before then
    local total = max(tonumber(call('LINDEX', key, -1)) - cost, before)
    if total > before then
      call('LTRIM', key, 0, 2 * first_with(key, TOTAL, total, hits(key)))
      call('LSET', key, -1, total)
    else
      call('DEL', key)
    end
  end
  if blocked > 0 then
    sliding.block(key, rule, blocked - now)
  end
end

function sliding.block(key, rule, us)
  local first = call('LINDEX', key, 0)
  if first and string.byte(first) == BLOCK then
    call('LPOP', key)
  end
  call('LPUSH', key, string.format('b%.0f', now + us))
  call('PEXPIRE', key, ms(max(us, rule.window)))
end
