-- The lock is not free, or not asked for by a first request. KEYS, ARGV and answers stand in acquire_free.lua.

local queue, baton = KEYS[2], KEYS[3]
local QUEUED_FOR_MS = 10000 -- a waiter not heard of for so long is dead
local token, lease, wait, mode = ARGV[1], ARGV[2], tonumber(ARGV[4] or QUEUED_FOR_MS), ARGV[5] or 'try'
local SWEEP_EVERY = 64

local holder = redis.pcall('GET', lock)
if type(holder) == 'table' then -- no lock: slots, or nothing of ours
  local slots = slots_kept(lock)
  return slots and {-3, slots} or holder
end
local queued = false
if mode ~= 'try' then
  local alive_until = redis.call('ZSCORE', queue, token)
  -- Who has not been heard of is dead: stopped, or vanished with its host, while its connection still stands. A moment
  -- more is given to the claim that is woken by the end of the wait.
  queued = alive_until and (mode ~= 'claim' or (tonumber(alive_until) + CLAIM_WITHIN_MS) * 1000 > now)
  if alive_until and mode == 'claim' then redis.call('ZREM', queue, token) end
end

if (mode == 'claim' or mode == 'probe') and not queued and holder ~= token then
  pass_on(lock, queue, baton, index)
  return {-1}
end

local mine = holder == token
local handed_to_me = false
if holder == HANDED_OVER then
  local left = redis.call('PTTL', lock)
  handed_to_me = (queued and mode ~= 'probe')                         -- a probe leaves it to the one who was woken
    or (wait == 0 and redis.call('EXISTS', baton) == 1)               -- nobody alive took it
    or left < 0 or left > CLAIM_WITHIN_MS                             -- nobody of us handed it over
end

if holder and not mine and not handed_to_me then
  if wait > 0 then
    local now_ms = math.floor(now / 1000)
    redis.call('ZADD', queue, now_ms + math.min(wait, QUEUED_FOR_MS), token)
    redis.call('PEXPIRE', queue, QUEUED_FOR_MS)
    if now % SWEEP_EVERY == 0 then redis.call('ZREMRANGEBYSCORE', queue, '-inf', now_ms) end
  elseif mode ~= 'claim' then
    redis.call('ZREM', queue, token)
  elseif holder ~= HANDED_OVER then
    redis.call('DEL', baton) -- of a lock that is held, none can be of use
  end
  return {0, now, redis.call('PTTL', lock), holder}
end

if mine then
  -- An earlier grant whose reply was lost. Never shorten what the holder may have been promised.
  if redis.call('PTTL', lock) < tonumber(lease) then redis.call('PEXPIRE', lock, lease) end
else
  redis.call('SET', lock, token, 'PX', lease)
end
if handed_to_me and mode ~= 'claim' then redis.call('DEL', baton) end
if queued and mode ~= 'claim' then redis.call('ZREM', queue, token) end

return grant(lock, index, KEYS[5], lease, now)
