-- For tests alone: as if so much time had passed for a rate limit. KEYS stand in schedule.lua.
--
-- ARGV  1 µs
-- Returns  the number of the news that places were moved; 0 = there is no such limit

local passed = tonumber(ARGV[1])
if redis.call('EXISTS', state) == 0 then return 0 end
local all, ms = redis.call('LRANGE', places, 0, -1), redis.call('PTTL', state)
for i, place in ipairs(all) do all[i] = tonumber(place) - passed end
put_places(all)
redis.call('HSET', state, 'pause', math.max(0, paused_until() - passed))
local moved = tell_moved()
for _, key in ipairs({places, state, news}) do redis.call('PEXPIRE', key, ms) end
return moved
