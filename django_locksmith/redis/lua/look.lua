-- Look at one lock, or at all slots of one, and change nothing.
--
-- KEYS  as in acquire_free.lua, or slots.lua
-- Returns  {server µs, holder or '', lease left in ms, live waiters, fence or ''}
--          {server µs, {member, score, ...} of slots.lua, live waiters}

local holder = redis.pcall('GET', KEYS[1])
local time = redis.call('TIME')
local now_us, now = time[1] * 1000000 + time[2], time[1] * 1000 + math.floor(time[2] / 1000)
local waiters = redis.call('ZCOUNT', KEYS[2], now, '+inf')
if type(holder) == 'table' then -- no lock: slots, or nothing of ours
  if not slots_kept(KEYS[1]) then return holder end
  return {now_us, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), waiters}
end
return {
  now_us,
  holder or '',
  redis.call('PTTL', KEYS[1]),
  waiters,
  redis.call('ZSCORE', KEYS[4], KEYS[1]) or '',
}
