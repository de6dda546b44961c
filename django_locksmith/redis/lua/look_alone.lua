-- Look at one lock where only its own key is at hand, and change nothing.
--
-- KEYS  1 lock
-- Returns  as look.lua, without waiters and fence

local time = redis.call('TIME')
return {
  time[1] * 1000000 + time[2],
  redis.call('GET', KEYS[1]) or '',
  redis.call('PTTL', KEYS[1]),
  0,
  '',
}
