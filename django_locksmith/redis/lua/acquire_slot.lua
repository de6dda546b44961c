-- Grant a slot if one is free, else stand in the queue: grant, baton, slots, claim_slot, slots_kept, slots_seldom and
-- acquire_slot.lua in one.
--
-- KEYS  as in slots.lua
-- ARGV  1 to 5 as in acquire_free.lua; none is left out
--       6 slots   how many there are
--       7 names   of the slots, as JSON; '' if they have none
-- Returns  {1, server µs, fence}                                         granted; no fence where it is the server's time
--          {1, server µs, fence, number of the slot in the list}          the same, where the slots have names
--          {0, server µs, ms until one may be free, whose that is}        busy
--          {-1}, {-2}, {-3, slots}                                        as in acquire_free.lua: others mean so many,
--                                                                         1 = a lock, and a half = another list

local QUEUED_FOR_MS = 10000 -- a waiter not heard of for so long is dead
local SWEEP_EVERY = 64

if type(kept) == 'table' then -- a lock, or nothing of ours
  return type(redis.pcall('GET', lock)) == 'string' and {-3, '1'} or kept
end
if tonumber(kept or 0) ~= number_of and redis.call('EXISTS', lock) == 1 then
  kept = slots_kept(lock)
  if not kept then return redis.error_reply('WRONGTYPE a sorted set of others') end
  forget_ended()
  if taken() > 0 then
    redis.call('ZREM', queue, token)
    return {-3, kept}
  end
  redis.call('DEL', lock)
  kept = false
end

local ends = false
if mode ~= 'try' then
  if queued == nil then look_at_place() end
  ends = not queued and time_to_come(redis.call('ZSCORE', lock, token)) -- who was granted one stands there no more
end
if (mode == 'claim' or mode == 'probe') and not queued and not ends then
  pass_slots_on()
  tidy_up()
  return {-1}
end

-- A claim has taken what was handed over, which is meant for it, before what is free; a probe leaves it to who was woken.
local free = not kept
if kept and not ends and not handed then
  if taken() >= slots then forget_ended() end
  free = taken() < slots
  local nobody_took_it = wait == 0 and redis.call('LLEN', baton) > 0
  handed = not free and (queued and mode == 'again' or nobody_took_it) and take_handed_over()
end

if not (ends or free or handed) then
  if wait > 0 then
    redis.call('ZADD', queue, now + math.min(wait, QUEUED_FOR_MS), token)
    redis.call('PEXPIRE', queue, QUEUED_FOR_MS)
    if now_us % SWEEP_EVERY == 0 then redis.call('ZREMRANGEBYSCORE', queue, '-inf', now) end
  elseif mode ~= 'claim' then
    redis.call('ZREM', queue, token)
  end
  spare_batons()
  local next_end = redis.call('ZRANGE', lock, FIRST_TIME, LAST_TIME, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
  local left = next_end[1] and math.floor(tonumber(next_end[2])) - now - 1 or CLAIM_WITHIN_MS
  if handed_over() > 0 then left = math.min(left, CLAIM_WITHIN_MS) end
  return {0, now_us, left, next_end[1] or ''}
end

-- Which of the list: the one it has, or the first that nobody has.
local number = 0
if names ~= '' then
  if ends then
    number = (ends % 1) * 1024
  else
    local others = redis.call('ZRANGE', lock, FIRST_TIME, LAST_TIME, 'BYSCORE', 'WITHSCORES')
    local has = {}
    for i = 2, #others, 2 do has[(tonumber(others[i]) % 1) * 1024] = true end
    repeat number = number + 1 until not has[number]
  end
end

if queued and mode ~= 'claim' then redis.call('ZREM', queue, token) end
if handed and mode ~= 'claim' then spare_batons() end
return give(ends, number)
