-- What there is to see of a rate limit. KEYS stand in schedule.lua.
--
-- Returns  {now, pause, rate, windows, the last place, waiting, used in each window...}; {} if there is nothing

local rate, kept = redis.call('HGET', state, 'rate'), redis.call('HGET', state, 'windows')
if not (rate and kept) then return {} end
local used, longs = {}, {}
for us in string.gmatch(kept, '/(%d+)') do
  used[#used + 1], longs[#longs + 1] = 0, tonumber(us)
end
local waiting, last = 0, 0
for _, text in ipairs(redis.call('LRANGE', places, 0, -1)) do
  last = tonumber(text)
  if last > now then
    waiting = waiting + 1
  else
    for i, us in ipairs(longs) do
      if last > now - us then used[i] = used[i] + 1 end
    end
  end
end
return {now, paused_until(), rate, kept, last, waiting, unpack(used)}
