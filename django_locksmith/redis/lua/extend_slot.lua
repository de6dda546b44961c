-- Change how long the lease of a slot lasts; never make one.
--
-- KEYS  1 lock   as in slots.lua
-- ARGV, returns  as in extend.lua

local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[3]) then return -2 end
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
local left = math.floor(ends) - now - 1 -- whole ones
if left < 0 or ends > 10^14 then return 0 end -- that was a fence: see slots.lua
local ms, is_new = lasting(ARGV[4], left, tonumber(ARGV[2]))
if is_new then
  redis.call('ZADD', KEYS[1], now + 1 + ms + ends % 1, ARGV[1])
  if redis.call('PTTL', KEYS[1]) < ms then redis.call('PEXPIRE', KEYS[1], ms) end
end
return ms
