-- What is held at a time: a HASH of node -> packed {how many, until when}.

-- How many others hold; forgets those whose time is over.
local function held_by_others(key)
  local total = 0
  local kept = call('HGETALL', key)
  for i = 1, #kept, 2 do
    local node, lease = kept[i], cmsgpack.unpack(kept[i + 1])
    local held, ends = lease[1], lease[2]
    if ends <= now then
      call('HDEL', key, node)
    elseif node ~= NODE then
      total = total + held
    end
  end
  return total
end

-- Say how many this node holds.
local function hold(key, rule, held, others)
  if held > 0 then
    call('HSET', key, NODE, cmsgpack.pack({ held, now + rule.window }))
    call('PEXPIRE', key, ms(rule.window))
  else
    call('HDEL', key, NODE)
  end
  return 1, max(rule.count - others - held, 0), 0, 0, 0
end

local function keep(key, rule, held)
  return hold(key, rule, held, held_by_others(key))
end

-- As `keep`; refused where too many would be held.
local function lease(key, rule, held)
  local others = held_by_others(key)
  if others + held > rule.count then
    return 0, max(rule.count - others, 0), 0, 0, 0
  end
  return hold(key, rule, held, others)
end
