-- Evict who has expired, pull back what the store's clock left beyond its horizon, and check the users' numbers.
-- operations  none
-- results     none
evict({}, 0)
local beyond = redis.call('ZRANGEBYSCORE', EXPIRY, '(' .. text(now + HORIZON), '+inf', 'LIMIT', 0, 1000)
for _, cid in ipairs(beyond) do
  expect(cid, now + HORIZON)
end
return finish({})
