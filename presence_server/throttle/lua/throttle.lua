local COUNTING = { fixed = fixed, sliding = sliding, counter = counter, bucket = bucket, slots = slots }
local at = 0

-- Begin the block that a rule may want after a refusal.
local function breach(key, rule, allowed, remaining, retry, reset, blocked)
  if allowed == 1 or blocked == 1 or rule.block == 0 then
    return allowed, remaining, retry, reset, blocked
  end
  local us = max(rule.block, retry)
  COUNTING[rule.algorithm].block(key, rule, us)
  return 0, 0, us, max(reset, us), 1
end

-- The usual case: one rule.
local function hit(rule, cost)
  local key = KEYS[at + 1]
  return { breach(key, rule, COUNTING[rule.algorithm].hit(key, rule, cost)) }
end

-- Several hits of one rule, cost 1 each: admits as many as fit. Answers {admitted, remaining, reset} after them, then what
-- a hit answers to the rest, if any.
local function hit_times(rule, times)
  local counting, key = COUNTING[rule.algorithm], KEYS[at + 1]
  local allowed, remaining, _, reset = counting.look(key, rule, 1)
  local admitted = allowed == 1 and min(times, remaining) or 0
  if admitted > 0 then
    _, remaining, _, reset = counting.hit(key, rule, admitted)
  end
  local said = { admitted, remaining, reset }
  if admitted < times then
    for i, number in ipairs(hit(rule, 1)) do
      said[3 + i] = number
    end
  end
  return said
end

local function hit_all(cost, checks)
  local looks, allowed, said = {}, true, {}
  for i, rule in ipairs(checks) do
    looks[i] = { COUNTING[rule.algorithm].look(KEYS[at + i], rule, cost) }
    allowed = allowed and looks[i][1] == 1
  end
  for i, rule in ipairs(checks) do
    local key, look = KEYS[at + i], looks[i]
    if allowed then
      look = { COUNTING[rule.algorithm].hit(key, rule, cost) }
    else
      look = { breach(key, rule, look[1], look[2], look[3], look[4], look[5]) }
    end
    for _, number in ipairs(look) do
      said[#said + 1] = number
    end
  end
  return said
end

local CHANGES = {}

function CHANGES.refund(key, rule, cost)
  COUNTING[rule.algorithm].refund(key, rule, cost)
end

function CHANGES.reset(key)
  call('DEL', key)
end

function CHANGES.block(key, rule, us)
  COUNTING[rule.algorithm].block(key, rule, us)
end

-- Count without asking whether it fits, up to the limit: what is refused from now on need not be told to anybody.
local function charge(key, rule, cost)
  local counting = COUNTING[rule.algorithm]
  local _, remaining = counting.look(key, rule, 1)
  local counted = min(cost, remaining)
  if counted > 0 then
    counting.hit(key, rule, counted)
  end
end

-- Count as many as there are, up to what is wanted, and say how many in the place of `allowed`.
local function take(key, rule, wanted)
  local counting = COUNTING[rule.algorithm]
  local allowed, remaining, retry, reset, blocked = counting.look(key, rule, 1)
  if allowed == 0 then
    return breach(key, rule, allowed, remaining, retry, reset, blocked)
  end
  local taken = min(wanted, remaining)
  allowed, remaining, retry, reset, blocked = counting.hit(key, rule, taken)
  if allowed == 1 and remaining == 0 then
    local _, _, first = counting.look(key, rule, 1)
    retry = first
  end
  return allowed * taken, remaining, retry, reset, blocked
end

-- The verbs of slots; what they are asked about is a token.
local HOLDS = { acquire = slots.acquire, renew = slots.renew, release = slots.release }

local function change(verb, cost, rule)
  local key = KEYS[at + 1]
  if HOLDS[verb] then
    return { HOLDS[verb](key, rule, cost) }
  end
  if verb == 'lease' or verb == 'keep' then
    return { lease(key, verb, cost, rule) }
  end
  if verb == 'take' then
    return { take(key, rule, cost) }
  end
  if verb == 'peek' then
    return { COUNTING[rule.algorithm].look(key, rule, cost) }
  end
  if verb == 'charge' then
    charge(key, rule, cost)
  else
    CHANGES[verb](key, rule, cost)
    call('PUBLISH', ARGV[3], verb == 'refund' and '+' .. key or key)
  end
  return { COUNTING[rule.algorithm].look(key, rule, 1) }
end

local request = cmsgpack.unpack(ARGV[1])
local rules, answers = {}, {}
for i, row in ipairs(request[1]) do
  rules[i] = named(row)
end
for i, decision in ipairs(request[2]) do
  local fine, answer
  local keys = 1
  if type(decision) == 'number' then
    fine, answer = pcall(hit, rules[decision], 1)
  elseif type(decision[1]) == 'number' then
    fine, answer = pcall(hit_times, rules[decision[1]], decision[2])
  elseif decision[1] == 'hit' then
    local checks = {}
    keys = #decision - 2
    for j = 1, keys do
      checks[j] = rules[decision[j + 2]]
    end
    if keys == 1 then
      fine, answer = pcall(hit, checks[1], decision[2])
    else
      fine, answer = pcall(hit_all, decision[2], checks)
    end
  else
    fine, answer = pcall(change, decision[1], decision[2], rules[decision[3]])
  end
  answers[i] = fine and answer or tostring(answer)
  at = at + keys
end
return cmsgpack.pack({ now, answers })
