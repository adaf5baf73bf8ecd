-- Read some of who is there, never an expired member.
-- operations  one: {how, from, limit}: 'scan' in the hash's own order, where pages by score would miss members that
--             are renewed meanwhile; 'after' by cid, for a hash so small that a scan gives all of it at once
-- results     how, from (of the next page; '': there is none), then {cid, the record's fields} each
local how, from, limit = unpack(operations[1])
local results = {}

-- What is known of a member that has not expired; nil: nothing, or nothing that can be read.
local function present(cid, packed)
  local ends = tonumber(redis.call('ZSCORE', EXPIRY, cid) or 0)
  local readable, record = pcall(cmsgpack.unpack, packed or '')
  if readable and type(record) == 'table' and record[WRITTEN_AS] == FORMAT and (ends > now or hold > now) then
    return { cid, unpack(record) }
  end
end

local following = ''
if how == 'scan' then
  local scanned = redis.call('HSCAN', MEMBERS, from, 'COUNT', limit)
  local entries = scanned[2]
  if scanned[1] == '0' and from == '0' and #entries / 2 > limit then
    how, from = 'after', ''
  else
    for i = 1, #entries, 2 do
      results[#results + 1] = present(entries[i], entries[i + 1])
    end
    following = scanned[1] == '0' and '' or scanned[1]
  end
end
if how == 'after' then
  local cids = redis.call('HKEYS', MEMBERS)
  table.sort(cids)
  for _, cid in ipairs(cids) do
    local found = cid > from and present(cid, redis.call('HGET', MEMBERS, cid))
    if found and #results == limit then
      following = results[limit][1]
      break
    end
    results[#results + 1] = found or nil
  end
end
return finish({ how, following, unpack(results) })
