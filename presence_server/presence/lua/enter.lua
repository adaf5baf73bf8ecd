-- Become a member, or, with a higher epoch, go on being one.
-- operations  {cid, user, info, state or false (keep), epoch, node, ttl, members_max (0: no limit),
--              v (0: new), at (0: now), generation of the room in which v and at do not count} each
-- results     record (with a ninth field, true, where it is a new member), 'fenced', 'removed', 'full' or 'taken' each
evict(exempting())
local results = {}
for i, operation in ipairs(operations) do
  local cid, user, info, state, epoch, node = unpack(operation, 1, 6)
  local ttl, members_max, v_brought, at_brought, known_in = unpack(operation, 7, 11)
  if known_in == generation then
    v_brought, at_brought = 0, 0
  end
  local present = record_of(cid)
  local lowest, removed, is_fence_kept = lowest_of(cid, present)
  if present and present[WRITTEN_AS] ~= FORMAT then
    present = { FORMAT, present[USER], present[EPOCH], '', '', 0, time, '' }
  end
  local linger = present and redis.call('HGET', LINGERS, cid)
  if epoch >= lowest and present and node == LEASE_NODE and present[NODE] ~= LEASE_NODE then
    results[i] = 'taken'
  elseif epoch < lowest or (linger and epoch == present[EPOCH]) then
    results[i] = 'fenced'
  elseif removed then
    results[i] = 'removed'
  elseif not present and members_max > 0 and redis.call('ZCARD', EXPIRY) >= members_max then
    results[i] = 'full'
  else
    local record, news
    if not present then
      local v = v_brought > 0 and v_brought or 1
      local at = at_brought > 0 and at_brought or time
      record = { FORMAT, user, epoch, info, state or '{}', v, at, node }
      news = 'join'
      count_user(user, 1)
    else
      state = state or (present[V] > 0 and present[STATE] or '{}')
      local v = present[V]
      if state ~= present[STATE] then
        v = v + 1
      end
      v = math.max(v, v_brought)
      if v ~= present[V] then
        news = 'update'
      end
      -- Where writes were lost, an earlier stay of the connection may be there.
      local at = math.max(at_brought, present[AT])
      record = { FORMAT, user, epoch, info, state, v, at, node }
      local over = tonumber(redis.call('ZSCORE', EXPIRY, cid) or 0) <= now
      if epoch ~= present[EPOCH] or node ~= present[NODE] or info ~= present[INFO] or user ~= present[USER]
        or at ~= present[AT] or over then
        news = 'join'
      end
      if user ~= present[USER] then
        count_user(present[USER], -1)
        count_user(user, 1)
      end
      redis.call('HDEL', LINGERS, cid)
    end
    if epoch > 1 then
      fence(cid, epoch, 0)
    elseif is_fence_kept then
      -- It is over, and would not be once more if the server's clock went back by a little.
      redis.call('HDEL', FENCES, cid)
    end
    expect(cid, now + ttl)
    local full = false
    if news then
      redis.call('HSET', MEMBERS, cid, cmsgpack.pack(record))
    end
    if news == 'join' then
      full = announce_join(cid, record)
    elseif news == 'update' then
      full = announce(updates, { cid, epoch, record[V], state }, #state)
    end
    if full then
      publish()
    end
    if not present then
      record[CREATED] = true
    end
    results[i] = record
  end
end
return finish(results)
