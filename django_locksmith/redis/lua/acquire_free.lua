-- Grant the lock if it is free, else stand in its queue: grant, acquire_free, baton and acquire.lua in one.
--
-- KEYS  1 lock    the holder's token, or HANDED_OVER
--       2 queue   sorted set: waiter's token -> server ms until which it counts as alive
--       3 baton   list that the waiters block on
--       4 index   sorted set: lock -> its fence, and '' -> the last fence
--       5         the same, where the lock has an index of its own (a cluster), which is to expire
-- ARGV  1 token
--       2 lease, ms
--       3 until when this request is valid, server µs: later its caller has given up, and it does nothing
--       4 wait, ms: how long the caller would queue; 0 = it would not; none = for long
--       5 mode    try    the first request with this token; the same if there is none
--                 again  the token may be known here: an earlier reply was lost
--                 claim  sent behind a BLPOP of the baton: it, or the end of the wait, woke us
--                 probe  on the side, while the claim is still blocked
-- Returns  {1, server µs, fence}                    granted; no fence where it is the server's time
--          {0, server µs, lease left in ms, holder} busy (left: -1 = never expires)
--          {-1}                                     refused: a waiter that is no longer queued, or counts as dead
--          {-2}                                     too late
--          {-3, slots}                              others use its key for so many slots (slots.lua)

local lock, index = KEYS[1], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[3]) then return {-2} end

-- Most locks are free when they are asked for: their way out stands before all else, for Redis pays for every line.
if (ARGV[5] or 'try') == 'try' and redis.call('SET', lock, ARGV[1], 'NX', 'PX', ARGV[2]) then
  return grant(lock, index, KEYS[5], ARGV[2], now)
end
