-- Change how long a lease lasts; never make one.
--
-- KEYS  1 lock
-- ARGV  1 token
--       2 ms
--       3 until when this request is valid, server µs: later its caller has given up, and it does nothing
--       4 mode   add     ms more than what is left
--                set     ms from now
--                renew   at least ms from now: a renewal never shortens a lease
-- Returns  the lease left in ms, of a longer one no more than was asked for; 0 the lock is not held with this token;
--          -2 too late

local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[3]) then return -2 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local left = redis.call('PTTL', KEYS[1])
local lasting = tonumber(ARGV[2])
if ARGV[4] == 'add' then
  lasting = left + lasting
elseif ARGV[4] == 'renew' and left >= lasting then
  return lasting
end
redis.call('PEXPIRE', KEYS[1], lasting)
return lasting
