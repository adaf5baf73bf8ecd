-- Evict who has expired, pull back what the store's clock left beyond its horizon (but for leases), and check the users' numbers.
-- operations  none
-- results     none
local CHECKED_MEMBERS_MAX = 5000

evict({}, 0)
local beyond = redis.call('ZRANGEBYSCORE', EXPIRY, '(' .. text(now + HORIZON), '+inf', 'LIMIT', 0, 1000)
for _, cid in ipairs(beyond) do
  local record = record_of(cid)
  if not record or record[NODE] ~= LEASED then
    expect(cid, now + HORIZON)
  end
end

-- Count the users anew, once a TTL: an earlier script may have failed half-way.
local function recount()
  local counted, kept, wrong = {}, {}, false
  for _, packed in ipairs(redis.call('HVALS', MEMBERS)) do
    local readable, record = pcall(cmsgpack.unpack, packed)
    if readable and type(record) == 'table' and record[USER] then
      counted[record[USER]] = (counted[record[USER]] or 0) + 1
    end
  end
  local flat = redis.call('HGETALL', USERS)
  for i = 1, #flat, 2 do
    kept[flat[i]] = tonumber(flat[i + 1])
    counted[flat[i]] = counted[flat[i]] or 0
  end
  for user, number in pairs(counted) do
    if kept[user] ~= number then
      wrong = true
      count_user(user, number - (kept[user] or 0))
    end
  end
  return wrong
end

local checked = tonumber(redis.call('HGET', META, 'checked') or 0)
if meta[1] and now - checked >= TTL and redis.call('HLEN', MEMBERS) <= CHECKED_MEMBERS_MAX then
  redis.call('HSET', META, 'checked', text(now))
  if recount() then
    publish(true)
  end
end
return finish({})
