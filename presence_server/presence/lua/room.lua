#!lua
-- What every script of a room begins with. Each evicts the expired, applies itself, and publishes one delta with the
-- next seq: state and announcement are one atomic step. The rules are those of presence/state.py, op for op.
--
-- KEYS  1 expiry   ZSET  cid -> when it ends, ms of the room's time
--       2 members  HASH  cid -> packed {format, user, epoch, info, state, v, at, node}; the first three mean the
--                        same in every format, so that any node can evict a member that any other wrote
--       3 users    HASH  user -> how many connections
--       4 meta     HASH  generation, seq, hold (evict nobody before), at (TIME of the last call), ahead (how far the
--                        room's time is ahead of TIME), checked (when the users were last counted), all in ms
--       5 fences   HASH  cid -> packed {lowest epoch that may act, until (0: while it is a member),
--                        true where a backend has removed it: no epoch may enter}
--       6 lingers  HASH  cid -> reason, for members whose connection is gone
-- ARGV  1 channel        where deltas go
--       2 generation     random digits, for a room that does not exist
--       3 ttl            presence TTL, ms
--       4 evictions      how many a call may evict
--       5 hold rest      ms for which the room evicts nobody, asked for by a node that was away; 0: none
--       6 sent           when the call was sent, ms by TIME as its node believed it to be
--       7 late           ms of way after which a call is late: the store was frozen, or its clock stepped forward
--       8 hold           ms for which a late call lets the room evict nobody
--       9 operations     packed list; see each script
--      10 publishes      PUBLISH, or in a Cluster SPUBLISH: deltas stay with the servers that have the room's slot
-- Returns packed {generation ('0': there is no such room), seq, now, due (0: nothing; not before a hold ends), hold,
-- results}; times by TIME.
--
-- A room's time is TIME, but never steps back: where TIME is behind that of the last call, the room's time goes on
-- from there, so that every deadline stays as far away as it was.
--
-- What clients wrote (info, state) is opaque text here. Numbers leave through `text`: Lua's own writing of them
-- truncates. TIME is asked once: on Redis 7.0 it moves while a script runs.

local EXPIRY, MEMBERS, USERS, META, FENCES, LINGERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local CHANNEL, TTL, EVICTIONS_MAX = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local HOLD_REST, SENT, LATE, HOLD = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local WRITTEN_AS, USER, EPOCH, INFO, STATE, V, AT, NODE, CREATED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local LEASE_NODE = 'api'
local BACKEND_LEAVE = -1
local FORMAT = 1
local DELTA_BYTES_MAX = 32768
local STEP_BACK_MS = 1000
local CHECKED_MEMBERS_MAX = 1000
local FENCE_MS = 2 * TTL
local FENCES_LOOKED_AT = 4

local function text(number)
  return string.format('%.0f', number)
end

local clock = redis.call('TIME')
local time = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local meta = redis.call('HMGET', META, 'generation', 'seq', 'hold', 'at', 'ahead', 'checked')
local exists = meta[1]
local generation = meta[1] or ARGV[2]
local seq = tonumber(meta[2] or 0)
local ahead = tonumber(meta[5] or 0)
local time_before = tonumber(meta[4] or time)
if time_before - time > STEP_BACK_MS then
  ahead = ahead + time_before - time
end
local now = time + ahead
local hold = tonumber(meta[3] or 0)
if HOLD_REST > 0 then
  hold = math.max(hold, now + HOLD_REST)
end
if time - SENT > LATE then
  hold = math.max(hold, now + HOLD)
end
local operations = cmsgpack.unpack(ARGV[9])
local joins, updates, leaves, changed_bytes = {}, {}, {}, 0

-- What is known of a member; nil: nothing, or nothing that can be read.
local function record_of(cid)
  local packed = redis.call('HGET', MEMBERS, cid)
  local readable, record = pcall(cmsgpack.unpack, packed or '')
  return packed and readable and type(record) == 'table' and #record >= EPOCH and record or nil
end

-- The lowest epoch that its fence lets act, whether the connection was removed, and whether a fence is kept.
local function fence_of(cid)
  local packed = redis.call('HGET', FENCES, cid)
  if not packed then
    return 0, false, false
  end
  local fence = cmsgpack.unpack(packed)
  if fence[2] > 0 and fence[2] <= now then
    return 0, false, true
  end
  return fence[1], fence[3] or false, true
end

-- The lowest epoch that may act for a member, and the rest of what `fence_of` returns.
local function lowest_of(cid, present)
  local epoch, removed, kept = fence_of(cid)
  return math.max(present and present[EPOCH] or 0, epoch), removed, kept
end

-- Remember the lowest epoch that may act. Each time a few others are looked at and those that are over are forgotten, so
-- that of a room in which connections leave for ever no more stay than a few for each that still counts.
local function fence(cid, epoch, until_ms, removed)
  if until_ms > 0 then
    local some = redis.call('HRANDFIELD', FENCES, FENCES_LOOKED_AT, 'WITHVALUES')
    for i = 1, #some, 2 do
      local other = cmsgpack.unpack(some[i + 1])
      if other[2] > 0 and other[2] <= now then
        redis.call('HDEL', FENCES, some[i])
      end
    end
  end
  redis.call('HSET', FENCES, cid, cmsgpack.pack({ epoch, until_ms, removed or false }))
end

-- When the next member ends, by TIME, and not before the hold does; 0: none.
local function due()
  local first = redis.call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')[2]
  return first and math.max(tonumber(first), hold) - ahead or 0
end

-- Publish what has changed with the next seq; or, where only the earliest expiry has come forward, that alone, since
-- watchers sleep until the one they know.
local function publish(due_forward)
  if #joins + #updates + #leaves > 0 then
    seq = seq + 1
  elseif not due_forward then
    return
  end
  redis.call(ARGV[10], CHANNEL, 'd' .. cmsgpack.pack({
    FORMAT, generation, seq, redis.call('ZCARD', EXPIRY), redis.call('HLEN', USERS), due(), joins, updates, leaves,
  }))
  joins, updates, leaves, changed_bytes = {}, {}, {}, 0
end

local function announce(list, entry, bytes)
  list[#list + 1] = entry
  changed_bytes = changed_bytes + bytes + 64
  return changed_bytes > DELTA_BYTES_MAX
end

local function announce_join(cid, record)
  local bytes = #record[INFO] + #record[STATE]
  return announce(joins, { cid, unpack(record) }, bytes)
end

local function count_user(user, by)
  if redis.call('HINCRBY', USERS, user, by) <= 0 then
    redis.call('HDEL', USERS, user)
  end
end

local function drop(cid, record, reason)
  redis.call('ZREM', EXPIRY, cid)
  redis.call('HDEL', MEMBERS, cid)
  redis.call('HDEL', LINGERS, cid)
  local user = record and record[USER] or ''
  if record then
    count_user(user, -1)
  end
  announce(leaves, { cid, user, reason }, #user)
end

-- Evict who has expired, but for `exempt` (a set of cids): their node has just proven to be alive.
local function evict(exempt, exempt_count)
  if hold > now then
    return
  end
  local due = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', text(now), 'LIMIT', 0, EVICTIONS_MAX + exempt_count)
  local evicted = 0
  for _, cid in ipairs(due) do
    if not exempt[cid] and evicted < EVICTIONS_MAX then
      local record = record_of(cid)
      local reason = redis.call('HGET', LINGERS, cid) or 'timeout'
      redis.call('HDEL', FENCES, cid)
      drop(cid, record, reason)
      evicted = evicted + 1
    end
  end
end

local function expect(cid, at)
  redis.call('ZADD', EXPIRY, text(at), cid)
end

-- Count the users anew, once a TTL: an earlier script may have failed half-way. Larger rooms are left as they are, since
-- a script holds everybody up.
local function check_users()
  if not exists or now - tonumber(meta[6] or 0) < TTL or redis.call('HLEN', MEMBERS) > CHECKED_MEMBERS_MAX then
    return
  end
  redis.call('HSET', META, 'checked', text(now))
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
  publish(wrong)
end

-- Announce what has changed, give every key of the room the same TTL, and answer.
local function finish(results)
  publish()
  local last = redis.call('ZRANGE', EXPIRY, -1, -1, 'WITHSCORES')[2]
  exists = exists or redis.call('EXISTS', EXPIRY, FENCES) > 0
  if exists then
    redis.call('HSET', META, 'generation', generation, 'seq', text(seq), 'hold', text(hold), 'at', text(time),
      'ahead', text(ahead))
    local keep = text(math.max(tonumber(last or now) - now, 0) + 2 * TTL)
    for _, key in ipairs(KEYS) do
      redis.call('PEXPIRE', key, keep)
    end
  end
  return cmsgpack.pack({ exists and generation or '0', seq, time, due(), math.max(hold - ahead, 0), results })
end

local function exempting()
  local exempt = {}
  for _, operation in ipairs(operations) do
    exempt[operation[1]] = true
  end
  return exempt, #operations
end
