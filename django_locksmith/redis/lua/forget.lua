-- Remove the locks that are over from the index: their leases ended by themselves.
--
-- KEYS  1 index   as in acquire_free.lua
--       2... lock
-- Returns  how many were removed

local removed = 0
for number = 2, #KEYS do
  if redis.call('EXISTS', KEYS[number]) == 0 then
    removed = removed + redis.call('ZREM', KEYS[1], KEYS[number])
  end
end
return removed
