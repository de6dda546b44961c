-- About to put the value into the cache: may we still? From here on the flight cannot be voided, only waited for.
--
-- KEYS  as in join.lua
-- ARGV  1 token
-- Returns  1 go on (also where an earlier reply was lost); 2 the same, but the value is not to live for long;
--          0 the flight is not ours any more

local LANDING_FOR_MS = 5000 -- longer than a cache takes to store a value

local leader = redis.call('GET', KEYS[1])
if leader ~= ARGV[1] and leader ~= LANDING .. ARGV[1] then return 0 end
redis.call('SET', KEYS[1], LANDING .. ARGV[1], 'PX', LANDING_FOR_MS)
return redis.call('EXISTS', KEYS[4]) == 1 and 2 or 1
