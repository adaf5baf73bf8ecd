-- A string of three doubles: when the bucket will be full, the interval that was reckoned with, blocked until.
local bucket = {}

local function keep_fill(key, rule, full, blocked)
  call('SET', key, pack('<ddd', full, rule.interval, blocked), 'PX', ms(max(full, blocked) - now))
end

local function read_fill(key, rule)
  local kept = call('GET', key)
  if not kept then
    return now, 0
  end
  local full, interval, blocked = unpack('<ddd', kept)
  local capacity = rule.count * rule.interval
  if interval ~= rule.interval or full - now - capacity > TOLERANCE then
    full = now + min(max(full - now, 0) / interval * rule.interval, capacity)
    keep_fill(key, rule, full, blocked)
  end
  return full, blocked, kept
end

local function judge_fill(rule, cost, full, blocked)
  full = max(full, now)
  local capacity = rule.count * rule.interval
  local remaining = max(floor((capacity - (full - now) + TOLERANCE) / rule.interval), 0)
  local reset = ceil(full - now)
  if blocked > now then
    return 0, 0, blocked - now, max(reset, blocked - now), 1
  end
  local over = full - now + cost * rule.interval - capacity
  if over <= TOLERANCE then
    return 1, remaining, 0, reset, 0
  end
  return 0, remaining, ceil(over), reset, 0
end

function bucket.look(key, rule, cost)
  return judge_fill(rule, cost, read_fill(key, rule))
end

function bucket.hit(key, rule, cost)
  local before, blocked = read_fill(key, rule)
  local full = max(before, now) + cost * rule.interval
  local used, capacity = full - now, rule.count * rule.interval
  if blocked > now or used - capacity > TOLERANCE then
    return judge_fill(rule, cost, before, blocked)
  end
  keep_fill(key, rule, full, blocked)
  return 1, floor((capacity - used + TOLERANCE) / rule.interval), 0, ceil(used), 0
end

function bucket.refund(key, rule, cost)
  local full, blocked, kept = read_fill(key, rule)
  if kept then
    keep_fill(key, rule, max(full - cost * rule.interval, now), blocked)
  end
end

function bucket.block(key, rule, us)
  local full = read_fill(key, rule)
  keep_fill(key, rule, full, now + us)
end
