-- Evict who has expired.
-- operations  none
-- results     none
evict({}, 0)
check_users()
return finish({})
