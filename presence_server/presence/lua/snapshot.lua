-- Read the room: who is there now, never an expired member. Evicts nobody, so that reading stays reading.
-- operations  none
-- results     {cid, user, info, state, v, at, epoch, node} each
local results = {}
local alive = redis.call('ZRANGEBYSCORE', EXPIRY, hold > now and '-inf' or '(' .. text(now), '+inf')
for _, cid in ipairs(alive) do
  local record = record_of(cid)
  results[#results + 1] = { cid, unpack(record) }
end
return finish(results)
