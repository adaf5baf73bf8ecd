-- Replace members' states. Versions are absolute: a repeated call changes nothing twice.
-- operations  {cid, epoch, v, state} each
-- results     record, 'fenced' or 'missing' each
evict(exempting())
local results = {}
for i, operation in ipairs(operations) do
  local cid, epoch, v, state = unpack(operation)
  local present = record_of(cid)
  local lowest = lowest_of(cid, present)
  if epoch < lowest then
    results[i] = 'fenced'
  elseif not present or present[WRITTEN_AS] ~= FORMAT or epoch > present[EPOCH] then
    -- A life that has not entered is not there; its epoch here would keep it from reopening what lingers.
    results[i] = 'missing'
  else
    if v > present[V] then
      present[V] = v
      present[STATE] = state
      redis.call('HSET', MEMBERS, cid, cmsgpack.pack(present))
      if announce(updates, { cid, epoch, v, state }, #state) then
        publish()
      end
    end
    results[i] = present
  end
end
return finish(results)
