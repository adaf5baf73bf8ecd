-- Read the room: who is there now, never an expired member. Evicts nobody, so that reading stays reading.
-- operations  none
-- results     {cid, the record's fields} each
local results = {}
local alive = redis.call('ZRANGEBYSCORE', EXPIRY, hold > now and '-inf' or '(' .. text(now), '+inf')
for _, cid in ipairs(alive) do
  local record = record_of(cid)
  if record then
    results[#results + 1] = { cid, unpack(record) }
  end
end
return finish(results)
