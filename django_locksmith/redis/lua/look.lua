-- Look at one lock, and change nothing.
--
-- KEYS  as in acquire_free.lua
-- Returns  {server µs, holder or '', lease left in ms, live waiters, fence or ''}

local holder = redis.call('GET', KEYS[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {
  time[1] * 1000000 + time[2],
  holder or '',
  redis.call('PTTL', KEYS[1]),
  redis.call('ZCOUNT', KEYS[2], now, '+inf'),
  redis.call('ZSCORE', KEYS[4], KEYS[1]) or '',
}
