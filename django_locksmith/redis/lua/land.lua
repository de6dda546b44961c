-- End a flight and tell everybody how.
--
-- KEYS  as in join.lua
-- ARGV  1 token
--       2 what     landed, failed, later or void
--       3 kind     of the error, where it failed
--       4 message  of the error
--       5 pause, ms: so long nobody may lead; 0 = anybody may
-- Returns  1 done; 0 the flight was not ours any more

local leader = redis.call('GET', KEYS[1])
local ours = leader == ARGV[1] or leader == LANDING .. ARGV[1]
local pause = tonumber(ARGV[5])
-- What an API asks for holds, whatever has become of the flight in which it said so.
if pause > 0 and (ours or ARGV[2] == 'later') and redis.call('PTTL', KEYS[3]) < pause then
  redis.call('SET', KEYS[3], cjson.encode({ARGV[2], ARGV[3], ARGV[4]}), 'PX', pause)
end
if not ours then return 0 end
redis.call('DEL', KEYS[1])
tell(KEYS[2], ARGV[2], ARGV[3], ARGV[4])
return 1
