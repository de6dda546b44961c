-- What there is to see of a rate limit. KEYS stand in schedule.lua.
--
-- Returns  {now, pause, rate, windows, the last place, waiting, the next place, used in each window...}; {} if there is
--          nothing

local rate, kept = redis.call('HGET', state, 'rate'), redis.call('HGET', state, 'windows')
if not (rate and kept) then return {} end
local used, windows, apart = {}, {}, 10000
for calls, us in string.gmatch(kept, '(%d+)/(%d+)') do
  windows[#windows + 1] = {tonumber(calls), tonumber(us)}
  used[#windows], apart = 0, math.min(apart, math.floor(us / calls / 10))
end
local waiting, last, all = 0, 0, redis.call('LRANGE', places, 0, -1)
for _, text in ipairs(all) do
  last = tonumber(text)
  if last > now then
    waiting = waiting + 1
  else
    for i, window in ipairs(windows) do
      if last > now - window[2] then used[i] = used[i] + 1 end
    end
  end
end
local next_place = first_place(windows, 1, apart, paused_until(), function(i) return all[#all + 1 - i] end)
return {now, paused_until(), rate, kept, last, waiting, next_place, unpack(used)}
