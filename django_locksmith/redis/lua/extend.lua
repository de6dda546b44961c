-- Change how long a lease lasts; never make one.
--
-- KEYS  1 lock
-- ARGV  1 token
--       2 ms
--       3 until when this request is valid, server µs: later its caller has given up, and it does nothing
--       4 mode, as in lasting.lua
-- Returns  the lease left in ms, of a longer one no more than was asked for; 0 the lock is not held with this token;
--          -2 too late

local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[3]) then return -2 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local ms, is_new = lasting(ARGV[4], redis.call('PTTL', KEYS[1]), tonumber(ARGV[2]))
if is_new then redis.call('PEXPIRE', KEYS[1], ms) end
return ms
