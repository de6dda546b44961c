-- Change how long the lease of a slot lasts; never make one.
--
-- KEYS  1 lock   as in slots.lua
-- ARGV, returns  as in extend.lua

local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[3]) then return -2 end
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
local left = math.floor(ends) - now
if left <= 0 or ends > 10^14 then return 0 end -- that was a fence: see slots.lua
local lasting = tonumber(ARGV[2])
if ARGV[4] == 'add' then
  lasting = left + lasting
elseif ARGV[4] == 'renew' and left >= lasting then
  return lasting
end
redis.call('ZADD', KEYS[1], now + lasting + ends % 1, ARGV[1])
if redis.call('PTTL', KEYS[1]) < lasting then redis.call('PEXPIRE', KEYS[1], lasting) end
return lasting
