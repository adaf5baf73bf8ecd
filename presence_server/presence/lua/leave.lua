-- Stop being members, at once.
-- operations  {cid, epoch (-1: the member's own), reason, fence (true: the same epoch may not come back)} each
-- results     true, 'fenced' or 'missing' each
evict(exempting())
local results = {}
for i, operation in ipairs(operations) do
  local cid, epoch, reason, fencing = unpack(operation)
  local present = record_of(cid)
  local lowest = lowest_of(cid, present)
  if epoch == ANY_EPOCH and present then
    epoch = lowest
  end
  if epoch == ANY_EPOCH then
    results[i] = 'missing'
  elseif epoch < lowest then
    results[i] = 'fenced'
  else
    fencing = fencing and not (present and present[NODE] == LEASED)
    local lowest_after = fencing and epoch + 1 or epoch
    if lowest_after > 1 then
      fence(cid, lowest_after, now + FENCE_MS)
    end
    if present then
      drop(cid, present, reason)
      results[i] = true
    else
      results[i] = 'missing'
    end
  end
end
return finish(results)
