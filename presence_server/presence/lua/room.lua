#!lua
-- What every script of a room begins with. Each evicts the expired, applies itself, and publishes one delta with the
-- next seq: state and announcement are one atomic step. The rules are those of presence/state.py, op for op.
--
-- KEYS  1 expiry   ZSET  cid -> when it ends, ms by TIME
--       2 members  HASH  cid -> packed {format, user, epoch, info, state, v, at, node}; the first three mean the
--                        same in every format, so that any node can evict a member that any other wrote
--       3 users    HASH  user -> how many connections
--       4 meta     HASH  generation, seq, hold (evict nobody before, ms by TIME)
--       5 fences   HASH  cid -> packed {lowest epoch that may act, until (0: while it is a member),
--                        true where a backend has removed it: no epoch may enter}
--       6 lingers  HASH  cid -> reason, for members whose connection is gone
-- ARGV  1 channel        where deltas go
--       2 generation     random digits, for a room that does not exist
--       3 ttl            presence TTL, ms
--       4 evictions      how many a call may evict
--       5 hold           ms for which the room evicts nobody, asked for by a node that was away; 0: none
--       6 horizon        ms from now beyond which no member can end
--       7 operations     packed list; see each script
-- Returns packed {generation, seq, now, due (0: nothing), hold, results}
--
-- What clients wrote (info, state) is opaque text here. Numbers leave through `text`: Lua's own writing of them
-- truncates. TIME is asked once: on Redis 7.0 it moves while a script runs.

local EXPIRY, MEMBERS, USERS, META, FENCES, LINGERS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local CHANNEL, TTL, EVICTIONS_MAX, HORIZON = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])
local WRITTEN_AS, USER, EPOCH, INFO, STATE, V, AT, NODE, CREATED = 1, 2, 3, 4, 5, 6, 7, 8, 9
local LEASED = 'api'
local ANY_EPOCH = -1
local FORMAT = 1
local DELTA_BYTES_MAX = 32768
local FENCE_MS = 2 * TTL

local function text(number)
  return string.format('%.0f', number)
end

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local meta = redis.call('HMGET', META, 'generation', 'seq', 'hold')
local generation = meta[1] or ARGV[2]
local seq = tonumber(meta[2] or 0)
local hold = tonumber(meta[3] or 0)
if tonumber(ARGV[5]) > 0 then
  hold = math.max(hold, now + tonumber(ARGV[5]))
end
local operations = cmsgpack.unpack(ARGV[7])
local joins, updates, leaves, changed_bytes = {}, {}, {}, 0

-- What is known of a member; nil: nothing, or nothing that can be read.
local function record_of(cid)
  local packed = redis.call('HGET', MEMBERS, cid)
  local readable, record = pcall(cmsgpack.unpack, packed or '')
  return packed and readable and type(record) == 'table' and #record >= EPOCH and record or nil
end

-- The lowest epoch that its fence lets act, and whether the connection was removed.
local function fence_of(cid)
  local packed = redis.call('HGET', FENCES, cid)
  if not packed then
    return 0, false
  end
  local fence = cmsgpack.unpack(packed)
  if fence[2] > 0 and fence[2] <= now then
    return 0, false
  end
  return fence[1], fence[3] or false
end

-- The lowest epoch that may act for a member, and whether the connection was removed.
local function lowest_of(cid, present)
  local epoch, removed = fence_of(cid)
  return math.max(present and present[EPOCH] or 0, epoch), removed
end

local function fence(cid, epoch, until_ms, removed)
  redis.call('HSET', FENCES, cid, cmsgpack.pack({ epoch, until_ms, removed or false }))
end

-- Publish what has changed with the next seq; or, where only the earliest expiry has come forward, that alone, since
-- watchers sleep until the one they know.
local function publish(due_forward)
  if #joins + #updates + #leaves > 0 then
    seq = seq + 1
  elseif not due_forward then
    return
  end
  local first = redis.call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')
  redis.call('PUBLISH', CHANNEL, 'd' .. cmsgpack.pack({
    FORMAT, generation, seq, redis.call('ZCARD', EXPIRY), redis.call('HLEN', USERS), tonumber(first[2] or 0),
    joins, updates, leaves,
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

-- Announce what has changed, give every key of the room the same TTL, and answer.
local function finish(results)
  publish()
  local first = redis.call('ZRANGE', EXPIRY, 0, 0, 'WITHSCORES')
  local last = redis.call('ZRANGE', EXPIRY, -1, -1, 'WITHSCORES')
  local latest = tonumber(last[2] or now)
  if redis.call('EXISTS', EXPIRY, FENCES) > 0 or meta[1] then
    redis.call('HSET', META, 'generation', generation, 'seq', text(seq), 'hold', text(hold))
    local keep = text(math.max(latest - now, 0) + 2 * TTL)
    for _, key in ipairs(KEYS) do
      redis.call('PEXPIRE', key, keep)
    end
  end
  return cmsgpack.pack({ generation, seq, now, tonumber(first[2] or 0), hold, results })
end

local function exempting()
  local exempt = {}
  for _, operation in ipairs(operations) do
    exempt[operation[1]] = true
  end
  return exempt, #operations
end
