-- Say that members are alive for another TTL. A beat does not undo a linger.
-- operations  {cid, epoch} each
-- results     true, 'fenced' or 'missing' each
evict(exempting())
local results, cids = {}, {}
for i, operation in ipairs(operations) do
  cids[i] = operation[1]
end
local scores = redis.call('ZMSCORE', EXPIRY, unpack(cids))
local fences = redis.call('EXISTS', FENCES) == 1 and redis.call('HMGET', FENCES, unpack(cids)) or {}
local lingers = redis.call('EXISTS', LINGERS) == 1 and redis.call('HMGET', LINGERS, unpack(cids)) or {}
local renewed = {}
for i, operation in ipairs(operations) do
  local cid, epoch = operation[1], operation[2]
  if fences[i] and fence_of(cid) > epoch then
    results[i] = 'fenced'
  elseif not scores[i] then
    results[i] = 'missing'
  else
    if not lingers[i] then
      local record = tonumber(scores[i]) <= now and record_of(cid)
      if record and record[WRITTEN_AS] == FORMAT and announce_join(cid, record) then
        publish()
      end
      renewed[#renewed + 1] = text(now + TTL)
      renewed[#renewed + 1] = cid
    end
    results[i] = true
  end
end
if #renewed > 0 then
  redis.call('ZADD', EXPIRY, unpack(renewed))
end
check_users()
return finish(results)
