-- End a holding: hand the slot to the next waiter, or free it: baton, slots and release_slot.lua in one.
--
-- KEYS  as in slots.lua
-- ARGV  as in release_unawaited.lua
-- Returns  1 released; 0 no slot was held with this token

local token, abandoned = ARGV[1], ARGV[2] == '1'
if abandoned then redis.call('ZREM', queue, token) end
if type(redis.pcall('ZSCORE', lock, '')) ~= 'string' then return 0 end

local held = is_held(token)
forget(token)
if held and waiting() > handed_over() then
  redis.call('ZADD', lock, -(now + CLAIM_WITHIN_MS), HANDED_OVER .. ':' .. token)
  lay_baton(baton)
  outlive(CLAIM_WITHIN_MS)
elseif abandoned and not held then
  pass_slots_on()
end
tidy_up()
return held and 1 or 0
