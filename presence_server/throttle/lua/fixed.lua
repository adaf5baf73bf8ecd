-- A string: the count. The window is the key's TTL, and what is blocked has a count that no limit reaches.
local fixed = {}

-- How long the window goes on: no longer than the rule has it, unless it is a block; a window without an end gets one.
local function left(key, rule, count)
  local us = call('PTTL', key) * 1000
  if us < 0 or us > rule.length + 1000 and count < BLOCKED then
    call('PEXPIRE', key, ms(rule.length))
    return rule.length
  end
  return us
end

function fixed.look(key, rule, cost)
  local count = tonumber(call('GET', key) or 0)
  if not count then
    error('not a number')
  end
  local reset = count > 0 and left(key, rule, count) or 0
  if reset == 0 and count > 0 then
    call('DEL', key)
    count = 0
  end
  local remaining = max(rule.count - count, 0)
  if cost <= remaining then
    return 1, remaining, 0, reset, 0
  end
  return 0, remaining, reset, reset, count >= BLOCKED and 1 or 0
end

-- Counted first and taken back where it does not fit: most hits do.
function fixed.hit(key, rule, cost)
  local count = call('INCRBY', key, cost)
  local reset = count > cost and left(key, rule, count) or 0
  if reset == 0 then
    count, reset = cost, rule.length
    call('SET', key, count, 'PX', ms(reset))
  end
  if count <= rule.count then
    return 1, rule.count - count, 0, reset, 0
  end
  count = call('DECRBY', key, cost)
  return 0, max(rule.count - count, 0), reset, reset, count >= BLOCKED and 1 or 0
end

function fixed.refund(key, rule, cost)
  local count = tonumber(call('GET', key) or 0)
  if count > 0 and count < BLOCKED then
    call('DECRBY', key, min(cost, count))
  end
end

function fixed.block(key, rule, us)
  call('SET', key, BLOCKED, 'PX', ms(us))
end
