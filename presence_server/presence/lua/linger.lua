-- Stop being members in a while, unless a higher epoch enters before.
-- operations  {cid, epoch, grace (ms), reason} each
-- results     true, 'fenced' or 'missing' each
evict(exempting())
local results, forward = {}, false
for i, operation in ipairs(operations) do
  local cid, epoch, grace, reason = unpack(operation)
  local present = record_of(cid)
  local lowest = lowest_of(cid, present)
  if epoch < lowest then
    results[i] = 'fenced'
  elseif not present then
    results[i] = 'missing'
  else
    redis.call('HSET', LINGERS, cid, reason)
    forward = forward or now + grace < tonumber(redis.call('ZSCORE', EXPIRY, cid) or now)
    expect(cid, now + grace)
    results[i] = true
  end
end
publish(forward)
return finish(results)
