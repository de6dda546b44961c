-- Shared by acquire and release: how a lock goes from one hand to the next.
--
-- A lock that is handed over, but not yet claimed, holds this word. No token can be it.
local HANDED_OVER = 'locksmith:handed-over'
-- Long enough for a live waiter's claim, which is already in Redis when it is woken;
-- short, because a waiter that died in that instant blocks everybody for so long.
local CLAIM_WITHIN_MS = 1000

local function server_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Is anybody in the queue who counts as alive? The one who is alive longest answers for all.
local function awaited(queue, now)
  local LONGEST_MS = 20000 -- twice as long as a waiter says that it is alive: who is alive longer is no waiter
  local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
  if #last > 0 and tonumber(last[2]) > now + LONGEST_MS then
    redis.call('ZREMRANGEBYSCORE', queue, now + LONGEST_MS, '+inf')
    last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
  end
  return #last > 0 and tonumber(last[2]) > now
end

local function lay_baton(baton)
  redis.call('RPUSH', baton, '1')
  redis.call('PEXPIRE', baton, CLAIM_WITHIN_MS)
end

-- A waiter who gave up may have swallowed the baton: see that one lies there,
-- or that the lock is free where nobody is left to take it.
local function pass_on(lock, queue, baton, index)
  if redis.call('GET', lock) ~= HANDED_OVER then return end
  if not awaited(queue, server_ms()) then
    redis.call('DEL', lock, queue, baton)
    redis.call('ZREM', index, lock)
  elseif redis.call('EXISTS', baton) == 0 then
    lay_baton(baton)
  end
end
