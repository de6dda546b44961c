-- Give a place back that nobody will use, if it is the last. KEYS stand in schedule.lua.
--
-- ARGV  1 until when this request is valid, server µs
--       2 number; 0 = its booker was interrupted before he heard it
--       3 cost
--       4 by whom
-- Returns  1 given back; 0 others have booked behind it, or it is forgotten; -2 too late

if now > tonumber(ARGV[1]) then return -2 end
local n, cost = tonumber(redis.call('HGET', state, 'n') or ''), tonumber(ARGV[3])
if not n or (n ~= tonumber(ARGV[2]) and redis.call('HGET', state, 'by') ~= ARGV[4]) then return 0 end
for _ = 1, cost do redis.call('RPOP', places) end
redis.call('HSET', state, 'n', n - cost, 'by', '')
return 1
