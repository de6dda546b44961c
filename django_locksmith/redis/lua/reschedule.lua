-- What an API says of itself: no call for a while, or that fewer are left than we know of. Whoever has a place in the
-- time to come gets a later one, in the same order. KEYS stand in schedule.lua.
--
-- ARGV  1 until when this request is valid, server µs
--       2 µs from now on during which there is no place; 0 = no pause
--       3 how many calls the API has counted in the window that began then; 0 = it does not say
--       4 when that window began, µs before now
--       5 the rate, as it was written
--       6, 7, ... N and µs of each window
-- Returns  the µs until the next place; -2 too late

if now > tonumber(ARGV[1]) then return -2 end
local windows, most, longest, apart, kept = windows_from(6)
local n, pause = number_of_last(), math.max(paused_until(), now + tonumber(ARGV[2]))
local began = now - tonumber(ARGV[4])

local all, later = {}, {}
local since = 0
for _, text in ipairs(redis.call('LRANGE', places, 0, -1)) do
  local place = tonumber(text)
  if place > now then
    later[#later + 1] = place
  else
    if place > began then since = since + 1 end
    all[#all + 1] = place
  end
end

-- Calls that are none of ours, or that we have forgotten. Behind all of ours they are counted as if they had been booked:
-- for nobody may give back the last place, as his own, or ask for it again, who has not booked it.
local added, behind = math.min(tonumber(ARGV[3]) - since, most), #later == 0 and began > (all[#all] or 0)
for _ = 1, added do all[#all + 1] = began end
table.sort(all)
if added > 0 and behind then
  n = n + added
  redis.call('HSET', state, 'by', '')
end

-- What has one place stays together: it may be one call that counts for several.
local last, i, has_moved = 0, 1, false
while i <= #later do
  local place, cost = later[i], 1
  while later[i + cost] == place do cost = cost + 1 end
  place = math.max(place, last + apart, pause)
  for _, window in ipairs(windows) do
    local before = all[#all + cost - window[1]]
    if before then place = math.max(place, before + window[2]) end
  end
  for _ = 1, cost do all[#all + 1] = place end
  has_moved = has_moved or place > later[i]
  i, last = i + cost, place
end

put_places(all)
redis.call('HSET', state, 'n', n, 'pause', pause, 'rate', ARGV[5], 'windows', kept)
if has_moved then tell_moved() end
keep_until(math.max(last, pause, now) + longest)
return first_place(windows, 1, apart, pause, function(i) return all[#all + 1 - i] end) - now
