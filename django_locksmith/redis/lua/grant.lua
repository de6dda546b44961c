-- Shared by all that grant: the fence of a grant.
--
-- The clock inside the fence makes it grow even when the last one was lost (FLUSHALL,
-- failover, eviction); the last one makes it grow even when the clock was set back.
-- All it needs is given to it, or is its own: to refer to what is outside costs as much as a command.
local function grant(lock, index, own, lease, now)
  local KEEP_OWN_MS, LARGEST_FENCE = 600000, 2^53 -- from there on, adding one changes nothing
  local granted = {1, now}
  if redis.call('ZADD', index, 'GT', 'CH', now, '', now, lock) ~= 2 then
    -- The last fence is ahead of the clock.
    local fence = tonumber(redis.call('ZSCORE', index, '')) + 1
    if fence >= LARGEST_FENCE then fence = now end -- no clock can have said that
    redis.call('ZADD', index, fence, '', fence, lock)
    granted[3] = fence
  end
  if own then redis.call('PEXPIRE', index, lease + KEEP_OWN_MS) end
  return granted
end
