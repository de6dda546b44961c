-- Shared by the scripts of slots: who has one, and how one goes from hand to hand.
--
-- KEYS  as in acquire_free.lua, but
--       1 lock    sorted set: holder's token -> server ms at which its lease ends, and 1024ths of one for which slot of
--                             a list it has
--                             @ and the token -> its fence, only to be looked at
--                             HANDED_OVER and a token -> a time as above, negative: a slot that is handed over, and
--                             not yet claimed
--                             '' -> how many slots there are, and a half if they have names; the names, as JSON -> 0
--       3 baton   as there, one for each slot that is handed over

local lock, queue, baton, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)
-- Times in ms lie between these: numbers of slots are less, fences, which are times in µs, more.
local FIRST_TIME, LAST_TIME = 10^9, 10^14
local HANDED_FROM = -(now + CLAIM_WITHIN_MS)
local HANDED_UNTIL = string.format('(%.0f', -now)

local function is_held(token)
  local ends = tonumber(redis.call('ZSCORE', lock, token) or 0)
  return ends >= now + 1 and ends < LAST_TIME and ends
end

-- Slots that are handed over, and for whom there is still time to claim them.
local function handed_over()
  return redis.call('ZCOUNT', lock, HANDED_FROM, HANDED_UNTIL)
end

local function forget(token)
  redis.call('ZREM', lock, token, '@' .. token)
end

local function forget_ended()
  local ended = redis.call('ZRANGE', lock, FIRST_TIME, string.format('(%.0f', now + 1), 'BYSCORE')
  for _, token in ipairs(ended) do forget(token) end
  redis.call('ZREMRANGEBYSCORE', lock, -now, -FIRST_TIME)
  redis.call('ZREMRANGEBYSCORE', lock, '-inf', string.format('(%.0f', HANDED_FROM))
end

-- How many are held, or handed over. What has ended counts, until it is forgotten.
local function taken()
  return redis.call('ZCOUNT', lock, FIRST_TIME, LAST_TIME) + redis.call('ZCOUNT', lock, '-inf', -FIRST_TIME)
end

local function waiting()
  if redis.call('EXISTS', queue) == 0 or not awaited(queue) then return 0 end
  return redis.call('ZCOUNT', queue, string.format('(%.0f', now), '+inf')
end

local function outlive(ms)
  if redis.call('PTTL', lock) < ms then redis.call('PEXPIRE', lock, ms) end
end

-- Where nobody has one any more, nor is one on its way, nothing is to be left.
local function tidy_up()
  if redis.call('ZCOUNT', lock, now + 1, LAST_TIME) + handed_over() > 0 then return end
  redis.call('DEL', lock, baton)
  redis.call('ZREM', index, lock)
  if waiting() == 0 then redis.call('DEL', queue) end
end

-- As many batons are to lie there as slots are handed over, and no more.
local function spare_batons()
  local many = handed_over()
  if many == 0 then
    redis.call('DEL', baton)
  elseif redis.call('LLEN', baton) > many then
    redis.call('LTRIM', baton, 0, many - 1)
  end
end

-- Waiters who gave up may have swallowed batons: see that one lies there for each slot that is handed over, or that the
-- slot is free where nobody is left to take it.
local function pass_slots_on()
  local many = handed_over()
  if many == 0 then return end
  local waiters = waiting()
  while many > waiters do
    local handed = redis.call('ZRANGE', lock, HANDED_FROM, HANDED_UNTIL, 'BYSCORE', 'LIMIT', 0, 1)
    redis.call('ZREM', lock, handed[1])
    many = many - 1
  end
  for _ = redis.call('LLEN', baton) + 1, many do lay_baton(baton) end
end
