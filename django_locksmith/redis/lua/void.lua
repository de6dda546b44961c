-- Have a flight that is under way bring back nothing: its value is already out of date.
--
-- KEYS  as in join.lua
-- ARGV  1 '1' even if it is landing
--       2 ms during which values are not to live for long; 0 = none
-- Returns  {0}             nothing is left of it
--          {1, last news}  it is landing: its value is on the way into the cache

local settle = tonumber(ARGV[2])
if settle > 0 and redis.call('PTTL', KEYS[4]) < settle then redis.call('SET', KEYS[4], '1', 'PX', settle) end
local leader = redis.call('GET', KEYS[1])
if leader then
  if ARGV[1] == '0' and string.sub(leader, 1, #LANDING) == LANDING then
    return {1, last_news(KEYS[2])}
  end
  redis.call('DEL', KEYS[1])
  tell(KEYS[2], 'void', '', '')
end
-- A remembered failure is as old as a value; what the API asked for, stands.
local pause = redis.call('GET', KEYS[3])
if pause and string.sub(pause, 1, 9) == '["failed"' then redis.call('DEL', KEYS[3]) end
return {0}
