-- Book a place in the schedule of a rate limit: the first at which every window has room. KEYS stand in schedule.lua.
--
-- ARGV  1 until when this request is valid, server µs: later its caller has given up, and it does nothing
--       2 cost: how many calls it counts for; no more than the smallest N
--       3 for how long its caller would wait, µs; -1 = without limit
--       4 by whom: asked once more, for the reply was lost, it books no second place
--       5 the rate, as it was written
--       6, 7, ... N and µs of each window
-- Returns  {1, now, place, number, moved}  booked; moved: the number of the last news, 0 = none
--          {0, now, place}          further away than the caller would wait, or too many are booked: nothing is booked
--          {-2}                     too late

if now > tonumber(ARGV[1]) then return {-2} end
local MOST_BOOKED = 100000
local cost, wait = tonumber(ARGV[2]), tonumber(ARGV[3])
local windows, most, longest, apart, kept = windows_from(6)
local n = number_of_last()
local moved = tonumber(redis.call('HGET', state, 'moved') or '') or 0

local last = tonumber(redis.call('LINDEX', places, -1) or 0)
if last > now + LONGEST then
  redis.call('DEL', places)
  last = 0
end
if redis.call('HGET', state, 'by') == ARGV[4] then
  if last >= now then return {1, now, last, n, moved} end
  -- It came before its booker heard of it. He would be late by as much, and the next too early: he gets another one.
  for _ = 1, cost do redis.call('RPOP', places) end
  n = n - cost
  redis.call('HSET', state, 'n', n, 'by', '')
end
local function from_end(i) return redis.call('LINDEX', places, -i) end
local place = first_place(windows, cost, apart, paused_until(), from_end)
local length = redis.call('LLEN', places)
if (wait >= 0 and place - now > wait) or length + cost > most + MOST_BOOKED then return {0, now, place} end

for _ = 1, cost do redis.call('RPUSH', places, place) end
redis.call('HSET', state, 'n', n + cost, 'by', ARGV[4], 'rate', ARGV[5], 'windows', kept)
-- What no window reaches back to any more. Not what has N places behind it: the last may yet be given back.
for _ = 1, cost + 8 do
  local first = tonumber(redis.call('LINDEX', places, 0))
  if first + longest > now then break end
  redis.call('LPOP', places)
end
keep_until(place + longest)
return {1, now, place, n + cost, moved}
