-- Give a place back that nobody will use, if it is the last. KEYS stand in schedule.lua.
--
-- ARGV  1 until when this request is valid, server µs
--       2 number
--       3 cost
-- Returns  1 given back; 0 others have booked behind it, or it is forgotten; -2 too late

if now > tonumber(ARGV[1]) then return -2 end
local n, cost = tonumber(redis.call('HGET', state, 'n') or ''), tonumber(ARGV[3])
if n ~= tonumber(ARGV[2]) then return 0 end
for _ = 1, cost do redis.call('RPOP', places) end
redis.call('HSET', state, 'n', n - cost)
return 1
