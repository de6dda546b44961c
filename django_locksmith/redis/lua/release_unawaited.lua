-- End a holding: hand the lock to the next waiter, or free it: release_unawaited.lua, baton.lua and release.lua in one.
--
-- KEYS  as in acquire_free.lua
-- ARGV  1 token
--       2 '1' to abandon: the caller may be the holder, a waiter, or neither; else none
-- Returns  1 released; 0 the lock was not held with this token

local lock, queue, baton, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token = ARGV[1]
local held = redis.call('GET', lock) == token

-- Most locks have no waiters.
if held and redis.call('EXISTS', queue) == 0 then
  redis.call('DEL', lock)
  redis.call('ZREM', index, lock)
  return 1
end
