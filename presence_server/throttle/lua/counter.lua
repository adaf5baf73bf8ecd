-- A string of four doubles: the window's number, its count, the count before, blocked until.
local counter = {}

local function read_windows(key, rule)
  local kept = call('GET', key)
  local number = floor(now / rule.window)
  if not kept then
    return number, 0, 0, 0
  end
  local last, count, before, blocked = unpack('<dddd', kept)
  if last == number then
    return number, count, before, blocked, kept
  end
  return number, 0, last == number - 1 and count or 0, blocked, kept
end

local function keep_windows(key, rule, number, count, before, blocked)
  local us = max((number + 2) * rule.window, blocked) - now
  call('SET', key, pack('<dddd', number, count, before, blocked), 'PX', ms(us))
end

local function judge(rule, cost, number, count, before, blocked)
  local limit, window = rule.count, rule.window
  local into = now - number * window
  local used = before * (window - into) / window + count
  local remaining = max(floor(limit - used), 0)
  local reset = count > 0 and 2 * window - into or before > 0 and window - into or 0
  if blocked > now then
    return 0, 0, blocked - now, max(reset, blocked - now), 1
  end
  if used + cost <= limit then
    return 1, remaining, 0, reset, 0
  end
  if count + cost <= limit then
    return 0, remaining, max(ceil(window - (limit - cost - count) * window / before) - into, 1), reset, 0
  end
  return 0, remaining, max(ceil(window - (limit - cost) * window / count), 0) + window - into, reset, 0
end

function counter.look(key, rule, cost)
  return judge(rule, cost, read_windows(key, rule))
end

function counter.hit(key, rule, cost)
  local number, count, before, blocked = read_windows(key, rule)
  local allowed, remaining, retry, reset, is_blocked = judge(rule, cost, number, count, before, blocked)
  if allowed == 0 then
    return allowed, remaining, retry, reset, is_blocked
  end
  keep_windows(key, rule, number, count + cost, before, blocked)
  return judge(rule, 0, number, count + cost, before, blocked)
end

function counter.refund(key, rule, cost)
  local number, count, before, blocked, kept = read_windows(key, rule)
  if kept then
    keep_windows(key, rule, number, max(count - cost, 0), before, blocked)
  end
end

function counter.block(key, rule, us)
  local number, count, before = read_windows(key, rule)
  keep_windows(key, rule, number, count, before, now + us)
end
