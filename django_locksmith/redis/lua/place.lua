-- Where a place that was booked is now: a pause may have moved it. KEYS stand in schedule.lua.
--
-- ARGV  1 number
-- Returns  {now, place}  0: it is over, or forgotten

local n = tonumber(redis.call('HGET', state, 'n') or '')
local number = tonumber(ARGV[1])
if not n or number > n then return {now, 0} end
return {now, tonumber(redis.call('LINDEX', places, number - n - 1) or 0)}
