-- Change how long a lease lasts; never make one.
--
-- KEYS  1 lock
-- ARGV  1 token
--       2 ms
--       3 mode   add     ms more than what is left
--                set     ms from now
--                renew   at least ms from now: a renewal never shortens a lease
-- Returns  the lease left in ms; 0 the lock is not held with this token

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local left = redis.call('PTTL', KEYS[1])
local lasting = tonumber(ARGV[2])
if ARGV[3] == 'add' then
  lasting = left + lasting
elseif ARGV[3] == 'renew' and left >= lasting then
  return left
end
redis.call('PEXPIRE', KEYS[1], lasting)
return lasting
