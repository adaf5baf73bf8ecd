-- Stop being members, at once.
-- operations  {cid, epoch (-1: a backend's leave, of the epoch that the member has), reason, fence (true: the same epoch may not come back; with the
--             epoch -1 none may, until one of them has left itself)} each
-- results     true (or the record that was, where the epoch is -1), 'fenced' or 'missing' each
evict(exempting())
local results = {}
for i, operation in ipairs(operations) do
  local cid, epoch, reason, fencing = unpack(operation)
  local present = record_of(cid)
  local lowest = lowest_of(cid, present)
  local backend = epoch == BACKEND_LEAVE
  if backend and present then
    epoch = lowest
  end
  if epoch == BACKEND_LEAVE then
    results[i] = 'missing'
  elseif epoch < lowest then
    results[i] = 'fenced'
  else
    fencing = fencing and not (present and present[NODE] == LEASE_NODE)
    local removed = fencing and backend
    local lowest_after = (fencing and not removed) and epoch + 1 or epoch
    if lowest_after > 1 or removed then
      fence(cid, lowest_after, now + FENCE_MS, removed)
    elseif lowest > 0 then
      redis.call('HDEL', FENCES, cid)
    end
    if present then
      drop(cid, present, reason)
      results[i] = backend and present[WRITTEN_AS] == FORMAT and present or true
    else
      results[i] = 'missing'
    end
  end
end
return finish(results)
