-- End a holding where only the lock's own key is at hand; nobody is told.
--
-- KEYS  1 lock   as in slots.lua
-- ARGV  1 token
-- Returns  1 released; 0 no slot was held with this token

local time = redis.call('TIME')
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[1], ARGV[1], '@' .. ARGV[1])
return ends and math.floor(tonumber(ends)) > time[1] * 1000 + math.floor(time[2] / 1000) and 1 or 0
