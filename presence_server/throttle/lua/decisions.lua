-- What each verb does, and the decisions of the call.
local COUNTING = { fixed = fixed, sliding = sliding, counter = counter, bucket = bucket, slots = slots }

-- Begin the block that a rule may want after a refusal.
local function breach(key, rule, allowed, remaining, retry, reset, blocked)
  if allowed == 1 or blocked == 1 or rule.block == 0 then
    return allowed, remaining, retry, reset, blocked
  end
  local us = max(rule.block, retry)
  COUNTING[rule.algorithm].block(key, rule, us)
  return 0, 0, us, max(reset, us), 1
end

local VERBS = { acquire = slots.acquire, renew = slots.renew, release = slots.release, lease = lease, keep = keep }

function VERBS.hit(key, rule, cost)
  return breach(key, rule, COUNTING[rule.algorithm].hit(key, rule, cost))
end

function VERBS.peek(key, rule, cost)
  return COUNTING[rule.algorithm].look(key, rule, cost)
end

-- Count without asking whether it fits, up to the limit: what is refused from now on need not be told to anybody.
function VERBS.charge(key, rule, cost)
  local _, remaining = VERBS.peek(key, rule, 1)
  local counted = min(cost, remaining)
  if counted > 0 then
    COUNTING[rule.algorithm].hit(key, rule, counted)
  end
  return VERBS.peek(key, rule, 1)
end

function VERBS.refund(key, rule, cost)
  COUNTING[rule.algorithm].refund(key, rule, cost)
  call('PUBLISH', PURGE_CHANNEL, '+' .. key)
  return VERBS.peek(key, rule, 1)
end

function VERBS.reset(key, rule)
  call('DEL', key)
  call('PUBLISH', PURGE_CHANNEL, key)
  return VERBS.peek(key, rule, 1)
end

function VERBS.block(key, rule, us)
  COUNTING[rule.algorithm].block(key, rule, us)
  call('PUBLISH', PURGE_CHANNEL, key)
  return VERBS.peek(key, rule, 1)
end

-- Count as many as there are, up to what is wanted, and say how many in the place of `allowed`.
function VERBS.take(key, rule, wanted)
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

local function ask_one(verb, key, rule, cost)
  return { VERBS[verb](key, rule, cost) }
end

-- Several hits of one rule, cost 1 each: admits as many as fit. Answers {admitted, remaining, reset} after them, then
-- what a hit answers to the rest, if any.
local function hit_times(key, rule, times)
  local counting = COUNTING[rule.algorithm]
  local allowed, remaining, _, reset = counting.look(key, rule, 1)
  local admitted = allowed == 1 and min(times, remaining) or 0
  if admitted > 0 then
    _, remaining, _, reset = counting.hit(key, rule, admitted)
  end
  if admitted < times then
    return { admitted, remaining, reset, VERBS.hit(key, rule, 1) }
  end
  return { admitted, remaining, reset }
end

-- A hit of several rules, whose keys begin at a number: charged to all of them or to none.
local function hit_all(first_key, checks, cost)
  local looks, fits = {}, true
  for i, rule in ipairs(checks) do
    local allowed, remaining, retry, reset, blocked = VERBS.peek(KEYS[first_key + i - 1], rule, cost)
    looks[i] = { allowed = allowed, remaining = remaining, retry = retry, reset = reset, blocked = blocked }
    fits = fits and allowed == 1
  end
  local answer = {}
  for i, rule in ipairs(checks) do
    local key, look = KEYS[first_key + i - 1], looks[i]
    local verdict = fits and { COUNTING[rule.algorithm].hit(key, rule, cost) }
      or { breach(key, rule, look.allowed, look.remaining, look.retry, look.reset, look.blocked) }
    for _, number in ipairs(verdict) do
      answer[#answer + 1] = number
    end
  end
  return answer
end

local request = cmsgpack.unpack(REQUEST)
local rules, decisions = {}, request[2]
for i, row in ipairs(request[1]) do
  rules[i] = named(row)
end

-- Make a decision whose keys begin at a number. Returns how many keys it has, whether it was made, and the answer or
-- what was wrong.
local function decide(first_key, decision)
  local key = KEYS[first_key]
  if type(decision) == 'number' then
    return 1, pcall(ask_one, 'hit', key, rules[decision], 1)
  end
  if type(decision[1]) == 'number' then
    local rule, times = rules[decision[1]], decision[2]
    return 1, pcall(hit_times, key, rule, times)
  end
  local verb, cost, checks = decision[1], decision[2], {}
  for i = 3, #decision do
    checks[i - 2] = rules[decision[i]]
  end
  if #checks == 1 then
    return 1, pcall(ask_one, verb, key, checks[1], cost)
  end
  return #checks, pcall(hit_all, first_key, checks, cost)
end

local answers, next_key = {}, 1
for i, decision in ipairs(decisions) do
  local keys, made, answer = decide(next_key, decision)
  answers[i] = made and answer or tostring(answer)
  next_key = next_key + keys
end
return cmsgpack.pack({ now, answers })
