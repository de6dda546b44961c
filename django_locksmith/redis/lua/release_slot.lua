-- No slot was held, or nobody waits for it. KEYS, ARGV and answers stand in hand_slot_over.lua.

if abandoned and not ends then
  forget(token)
  pass_slots_on()
  tidy_up()
  return 0
end
if not ends then return 0 end

forget(token)
if redis.call('ZCOUNT', lock, now + 1, LAST_TIME) == 0 then -- nobody else has one
  redis.call('DEL', lock, queue, baton)
  redis.call('ZREM', index, lock)
end
return 1
