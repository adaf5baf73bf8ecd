-- Count who is there, after evicting who has expired.
-- operations  none
-- results     members, users
evict({}, 0)
local lowest = hold > now and '-inf' or '(' .. text(now)
return finish({ redis.call('ZCOUNT', EXPIRY, lowest, '+inf'), redis.call('HLEN', USERS) })
