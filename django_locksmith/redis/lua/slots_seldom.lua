-- Shared by the scripts of slots, behind their ways out: what is seldom needed. Redis pays for every function, each time.

local function forget(token)
  redis.call('ZREM', lock, token, '@' .. token)
end

local function forget_ended()
  local ended = redis.call('ZRANGE', lock, FIRST_TIME, string.format('(%.0f', now + 1), 'BYSCORE')
  for _, token in ipairs(ended) do forget(token) end
  redis.call('ZREMRANGEBYSCORE', lock, -now, -FIRST_TIME)
  redis.call('ZREMRANGEBYSCORE', lock, '-inf', string.format('(%.0f', HANDED_FROM))
end

-- How many are held, or handed over. What has ended counts, until it is forgotten.
local function taken()
  return redis.call('ZCOUNT', lock, '-inf', LAST_TIME) - 1 -- what says how many there are is none
end

local function waiting()
  return awaited(queue, now) and redis.call('ZCOUNT', queue, string.format('(%.0f', now), '+inf') or 0
end

-- Where nobody has one any more, nor is one on its way, nothing is to be left.
local function tidy_up()
  if redis.call('ZCOUNT', lock, now + 1, LAST_TIME) + handed_over() > 0 then return end
  redis.call('DEL', lock, baton)
  redis.call('ZREM', index, lock)
  if not awaited(queue, now) then redis.call('DEL', queue) end
end

-- As many batons are to lie there as slots are handed over, and no more.
local function spare_batons()
  local lying = redis.call('LLEN', baton)
  local many = lying > 0 and handed_over() or 0
  if lying > many then
    if many == 0 then redis.call('DEL', baton) else redis.call('LTRIM', baton, 0, many - 1) end
  end
end

-- Waiters who gave up may have swallowed batons: see that one lies there for each slot that is handed over, or that the
-- slot is free where nobody is left to take it.
local function pass_slots_on()
  local many = handed_over()
  if many == 0 then return end
  local waiters = waiting()
  while many > waiters do
    take_handed_over()
    many = many - 1
  end
  for _ = redis.call('LLEN', baton) + 1, many do lay_baton(baton) end
end
