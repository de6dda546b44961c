-- Look at one lock, or at all slots of one, where only its own key is at hand, and change nothing.
--
-- KEYS  1 lock
-- Returns  as look.lua, without waiters and the fence of a lock

local holder = redis.pcall('GET', KEYS[1])
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
if type(holder) == 'table' then -- no lock: slots, or nothing of ours
  if not slots_kept(KEYS[1]) then return holder end
  return {now_us, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), 0}
end
return {now_us, holder or '', redis.call('PTTL', KEYS[1]), 0, ''}
