-- End a holding: hand the slot to the next waiter, or free it: baton, slots, hand_slot_over, slots_seldom and
-- release_slot.lua in one.
--
-- KEYS  as in slots.lua
-- ARGV  as in release_unawaited.lua
-- Returns  1 released; 0 no slot was held with this token

local token, abandoned = ARGV[1], ARGV[2] == '1'
if abandoned then redis.call('ZREM', queue, token) end
local ends = redis.pcall('ZSCORE', lock, token)
if type(ends) == 'table' then return 0 end -- a lock, or nothing of ours

ends = time_to_come(ends)
if ends and awaited(queue, now) then
  redis.call('ZREM', lock, token, '@' .. token)
  local many = handed_over()
  if many == 0 or redis.call('ZCOUNT', queue, string.format('(%.0f', now), '+inf') > many then
    redis.call('ZADD', lock, -(now + CLAIM_WITHIN_MS), HANDED_OVER .. ':' .. token)
    lay_baton(baton)
    if ends < now + CLAIM_WITHIN_MS then outlive(CLAIM_WITHIN_MS) end
  end
  return 1
end
