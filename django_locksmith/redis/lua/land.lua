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
if leader ~= ARGV[1] and leader ~= LANDING .. ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
if tonumber(ARGV[5]) > 0 then
  redis.call('SET', KEYS[3], cjson.encode({ARGV[2], ARGV[3], ARGV[4]}), 'PX', ARGV[5])
end
tell(KEYS[2], ARGV[2], ARGV[3], ARGV[4])
return 1
