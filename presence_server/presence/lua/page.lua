-- Read some of who is there, never an expired member. Evicts nobody, so that reading stays reading. What it looks at is
-- bounded by `limit`, whatever the size of the room; a whole room is read as pages, with the deltas that come meanwhile.
-- operations  one: {how, from, limit, step, bytes_max, members_max}
--             how: 'scan' goes on in the hash's own order, where pages by score would miss members that are renewed
--             meanwhile; 'after' by cid, for a hash so small that a scan gives all of it at once
--             step: how many are read before the bytes are looked at; a page has at most `bytes_max`, or one step
--             members_max: of a room with more, nobody is read (0: no limit)
-- results     how, from (of the next page; '': there is none), members, users
-- Returns {what every script returns, {cid, packed record, cid, packed record, ...}}: decoding records is left to nodes.
local AFTER_MAX, ENTRY_BYTES = 1000, 150
local how, from, limit, step, bytes_max, members_max = unpack(operations[1])
local members = redis.call('ZCARD', EXPIRY)
local read, following, size, looked_at = {}, '', 0, 0
-- Where nobody is due, which is nearly always, nobody's end is looked up: that takes half of the time.
local first = redis.call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')[2]
local all_stay = first and (hold > now or tonumber(first) > now) and members == redis.call('HLEN', MEMBERS)

-- Add those of some entries (cid, packed record, ...) that have not expired.
local function add(entries)
  local cids = {}
  for i = 1, #entries, 2 do
    cids[#cids + 1] = entries[i]
  end
  local ends = #cids > 0 and not all_stay and redis.call('ZMSCORE', EXPIRY, unpack(cids)) or {}
  for i, cid in ipairs(cids) do
    if all_stay or (ends[i] and (hold > now or tonumber(ends[i]) > now)) then
      read[#read + 1] = cid
      read[#read + 1] = entries[2 * i]
    end
  end
  looked_at = looked_at + #cids
end

local function bytes_of(entries)
  local bytes = #entries / 2 * ENTRY_BYTES
  for _, entry in ipairs(entries) do
    bytes = bytes + #entry
  end
  return bytes
end

if how == 'after' and redis.call('HLEN', MEMBERS) > AFTER_MAX then
  how, from = 'scan', '0'
end
if members_max > 0 and members > members_max then
  how = 'none'
end
local cursor, rounds = from, 0
while how == 'scan' do
  local scanned = redis.call('HSCAN', MEMBERS, cursor, 'COUNT', step)
  local after, entries = scanned[1], scanned[2]
  if cursor == '0' and after == '0' and #entries / 2 > limit then
    how, from = 'after', ''
    break
  end
  local bytes = bytes_of(entries)
  local is_full = #entries > 0 and size + bytes > bytes_max
  if is_full and looked_at > 0 then
    following = cursor
    break
  elseif is_full and step > 1 then
    step = 1
  else
    add(entries)
    size, cursor, rounds = size + bytes, after, rounds + 1
    if cursor == '0' then
      break
    elseif looked_at >= limit or rounds * step >= 2 * limit then
      following = cursor
      break
    end
  end
end
if how == 'after' then
  local cids, last = redis.call('HKEYS', MEMBERS), from
  table.sort(cids)
  for _, cid in ipairs(cids) do
    local count = #read
    if cid > from then
      local entries = { cid, redis.call('HGET', MEMBERS, cid) }
      size = size + bytes_of(entries)
      add(entries)
    end
    if #read > count and count > 0 and (count >= 2 * limit or size > bytes_max) then
      read[count + 1], read[count + 2], following = nil, nil, last
      break
    elseif #read > count then
      last = cid
    end
  end
end
return { finish({ how, following, members, redis.call('HLEN', USERS) }), read }
