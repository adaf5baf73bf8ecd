-- What is held at a time: a HASH of node -> packed {how many, until}. `lease` is refused where too many would be held;
-- `keep` only says how many this node holds.
local function lease(key, verb, held, rule)
  local total = 0
  local kept = call('HGETALL', key)
  for i = 1, #kept, 2 do
    local node = cmsgpack.unpack(kept[i + 1])
    if node[2] <= now then
      call('HDEL', key, kept[i])
    elseif kept[i] ~= ARGV[4] then
      total = total + node[1]
    end
  end
  if verb == 'lease' and total + held > rule.count then
    return 0, max(rule.count - total, 0), 0, 0, 0
  end
  if held > 0 then
    call('HSET', key, ARGV[4], cmsgpack.pack({ held, now + rule.window }))
    call('PEXPIRE', key, ms(rule.window))
  else
    call('HDEL', key, ARGV[4])
  end
  return 1, max(rule.count - total - held, 0), 0, 0, 0
end
