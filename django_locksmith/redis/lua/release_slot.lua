-- End a holding: hand the slot to the next waiter, or free it: baton, slots and release_slot.lua in one.
--
-- KEYS  as in slots.lua
-- ARGV  as in release_unawaited.lua
-- Returns  1 released; 0 no slot was held with this token

local token, abandoned = ARGV[1], ARGV[2] == '1'
if abandoned then redis.call('ZREM', queue, token) end
local ends = redis.pcall('ZSCORE', lock, token)
if type(ends) == 'table' then return 0 end -- a lock, or nothing of ours

ends = time_to_come(ends)
if abandoned and not ends then
  forget(token)
  pass_slots_on()
  tidy_up()
  return 0
end
if not ends then return 0 end

forget(token)
if awaited(queue, now) then
  local many = handed_over()
  if many == 0 or waiting() > many then
    redis.call('ZADD', lock, -(now + CLAIM_WITHIN_MS), HANDED_OVER .. ':' .. token)
    lay_baton(baton)
    if ends < now + CLAIM_WITHIN_MS then outlive(CLAIM_WITHIN_MS) end
  end
elseif redis.call('ZCOUNT', lock, now + 1, LAST_TIME) == 0 then -- nobody else has one
  redis.call('DEL', lock, queue, baton)
  redis.call('ZREM', index, lock)
end
return 1
