-- Somebody waits, or the lock was not held. KEYS, ARGV and answers stand in release_unawaited.lua.

local abandoned = ARGV[2] == '1'

if abandoned then redis.call('ZREM', queue, token) end
if not held then
  if abandoned then pass_on(lock, queue, baton, index) end
  return 0
end
if awaited(queue, server_ms()) then
  redis.call('SET', lock, HANDED_OVER, 'PX', CLAIM_WITHIN_MS)
  lay_baton(baton)
else
  redis.call('DEL', lock, queue)
  redis.call('ZREM', index, lock)
end
return 1
