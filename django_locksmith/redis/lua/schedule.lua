-- Shared by the scripts of a rate limit.
--
-- KEYS  1 places  list of server µs, in order: of each call in the last window, and of each that is booked for later
--       2 state   hash: n = the number of the last place, by = who booked it, pause = server µs before which there is
--                 none, moved = the number of the last news, rate = as it was written, windows = as they are kept
--       3 news    stream: one entry, that places were moved
--       4 limits  sorted set: the states of all limits, by the server ms at which they end; not in a cluster

local places, state, news, limits = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local LONGEST = 400 * 86400 * 1000000 -- what is further away than any of ours is nobody's

-- N and µs of each window, from this argument on; of them all the largest N, the longest, and how far apart those are who
-- have to wait: they are not to wake up all at once, for then some would be so late that the next came too early.
local function windows_from(first)
  local windows, most, longest, apart, texts = {}, 0, 0, 10000, {}
  for i = first, #ARGV, 2 do
    local calls, us = tonumber(ARGV[i]), tonumber(ARGV[i + 1])
    windows[#windows + 1] = {calls, us}
    most, longest = math.max(most, calls), math.max(longest, us)
    apart = math.min(apart, math.floor(us / calls / 10))
    texts[#texts + 1] = ARGV[i] .. '/' .. ARGV[i + 1]
  end
  return windows, most, longest, apart, table.concat(texts, ' ')
end

-- The first place at which every window has room for so many calls; `from_end(i)` is the i-th of all, from the last one.
local function first_place(windows, cost, apart, pause, from_end)
  local last = tonumber(from_end(1) or 0)
  local place = math.max(now, last, pause) -- never before those who came first
  for _, window in ipairs(windows) do
    -- The call that leaves this window as the last of ours enters it.
    local leaving = tonumber(from_end(window[1] - cost + 1) or '')
    if leaving then place = math.max(place, leaving + window[2]) end
  end
  return place > now and math.max(place, last + apart) or place
end

-- Numbers are never used twice, also where all was forgotten: they begin with the time.
local function number_of_last()
  local n = tonumber(redis.call('HGET', state, 'n') or '')
  if n then return n end
  redis.call('DEL', places)
  return now
end

local function paused_until()
  local pause = tonumber(redis.call('HGET', state, 'pause') or '') or 0
  return pause < now + LONGEST and pause or 0
end

local function put_places(all)
  redis.call('DEL', places)
  for i = 1, #all, 1000 do redis.call('RPUSH', places, unpack(all, i, math.min(i + 999, #all))) end
end

-- Whoever sleeps is to look where his place is now. As with the numbers of places: what was forgotten does not come again.
local function tell_moved()
  local moved = (tonumber(redis.call('HGET', state, 'moved') or '') or now) + 1
  redis.call('HSET', state, 'moved', string.format('%.0f', moved))
  redis.call('DEL', news)
  redis.call('XADD', news, string.format('%.0f-0', moved), 'moved', '1')
  return moved
end

-- All of it ends when it tells nothing any more.
local function keep_until(us)
  local ms = math.ceil((us - now) / 1000) + 1000
  redis.call('PEXPIRE', places, ms)
  redis.call('PEXPIRE', state, ms)
  redis.call('PEXPIRE', news, ms)
  if limits then
    local now_ms = math.floor(now / 1000)
    redis.call('ZREMRANGEBYSCORE', limits, '-inf', now_ms)
    redis.call('ZADD', limits, now_ms + ms, state)
    if redis.call('PTTL', limits) < ms then redis.call('PEXPIRE', limits, ms) end
  end
end
