-- Shared by the scripts of slots: who has one, and how one goes from hand to hand.
--
-- KEYS  as in acquire_free.lua, but
--       1 lock    sorted set: holder's token -> server ms at which its lease ends, and 1024ths of one for which slot of
--                             a list it has
--                             @ and the token -> its fence, only to be looked at
--                             HANDED_OVER and a token -> a time as above, negative: a slot that is handed over, and
--                             not yet claimed
--                             their names, as JSON, or '' -> how many there are, and a half more if they have names
--       3 baton   as there, one for each slot that is handed over

local lock, queue, baton, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)
-- Times in ms lie between these: numbers of slots are less, fences, which are times in µs, more.
local FIRST_TIME, LAST_TIME = 10^9, 10^14
local HANDED_FROM = -(now + CLAIM_WITHIN_MS)

-- When the lease ends whose score this is, if that is to come.
local function time_to_come(score)
  local ends = tonumber(score or 0)
  return ends >= now + 1 and ends < LAST_TIME and ends
end

-- Slots that are handed over, and for whom there is still time to claim them.
local function handed_over()
  return redis.call('ZCOUNT', lock, HANDED_FROM, -now - 1)
end

-- Take one that is handed over, if there is one: no scores are smaller.
local function take_handed_over()
  local first = redis.call('ZPOPMIN', lock)
  local score = tonumber(first[2] or 0)
  if score >= 0 then
    if first[1] then redis.call('ZADD', lock, score, first[1]) end
    return false
  end
  return score >= HANDED_FROM and score < -now or take_handed_over()
end

-- No shorter than any lease; longer, so that not each of many has to say so.
local function outlive(ms)
  if redis.call('PTTL', lock) < ms then redis.call('PEXPIRE', lock, math.ceil(ms * 1.25)) end
end
