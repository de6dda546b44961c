-- Lead a flight if nobody does, else say who leads it.
--
-- KEYS  1 flight  the leader's token
--       2 news    stream: how flights ended
--       3 pause   why nobody may lead now
--       4 settle  there while values may be computed from what is about to change
-- ARGV  1 token
--       2 lease, ms
--       3 until when this request is valid, server µs: later its caller has given up, and it does nothing
-- Returns  {1}                                       leads (also where an earlier reply was lost)
--          {0, lease left in ms, leader, last news}  somebody else does
--          {2, left in ms, pause}                    nobody may before that
--          {-2}                                      too late

local time = redis.call('TIME')
if time[1] * 1000000 + time[2] > tonumber(ARGV[3]) then return {-2} end
local pause = redis.call('GET', KEYS[3])
if pause then
  local left = redis.call('PTTL', KEYS[3])
  if left > 0 then return {2, left, pause} end
  redis.call('DEL', KEYS[3]) -- all of ours end
end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return {1} end
local leader = redis.call('GET', KEYS[1])
if leader == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return {1}
end
-- A flight that never ends was not begun by us, and is to end as ours do.
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return {0, redis.call('PTTL', KEYS[1]), leader, last_news(KEYS[2])}
